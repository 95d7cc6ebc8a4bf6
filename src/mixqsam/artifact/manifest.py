"""What a quantized directory says of itself: the `quantization_config` of its `config.json`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixqsam.errors import ArtifactError
from mixqsam.plan import CANDIDATE_BITS, BitPlan, Costs, UnitBits

FORMAT_VERSION = 1
QUANT_METHOD = "mixqsam"

Bits = Annotated[int, Field(ge=CANDIDATE_BITS[0], le=CANDIDATE_BITS[-1])]


class UnitEntry(BaseModel):
    """Bits of one quantized unit; units left in float have no entry."""

    model_config = ConfigDict(extra="forbid")

    weight: Bits
    activation: Bits


class Manifest(BaseModel):
    """The `quantization_config`.

    Attributes:
        quant_method: whose format it is.
        format_version: rises when older readers would misread.
        source: the float model, as its user named it.
        observer: how ranges were chosen.
        prompts_per_image: that the BitOps were counted with.
        units: unit name → bits.
    """

    model_config = ConfigDict(extra="forbid")

    quant_method: Literal["mixqsam"] = "mixqsam"
    format_version: Literal[1] = 1
    source: str
    observer: str
    prompts_per_image: int = Field(default=1, ge=1)
    units: dict[str, UnitEntry]

    @classmethod
    def of(cls, plan: BitPlan, *, source: str, observer: str, prompts_per_image: int) -> "Manifest":
        """The manifest of a plan."""
        units = {
            name: UnitEntry(weight=bits.weight, activation=bits.activation)
            for name, bits in plan.bits.items()
            if not bits.is_float
        }
        return cls(source=source, observer=observer, prompts_per_image=prompts_per_image, units=units)

    def plan(self, costs: Costs) -> BitPlan:
        """Bits of every unit of the model.

        Raises:
            ArtifactError: it names a unit that the model does not have.
        """
        foreign = self.units.keys() - {unit.name for unit in costs.units}
        if foreign:
            raise ArtifactError(f"config.json quantizes {min(foreign)}, which this architecture does not have.")
        bits = dict(costs.float_plan.bits)
        bits.update({name: UnitBits(entry.weight, entry.activation) for name, entry in self.units.items()})
        return BitPlan(bits)


def parse_manifest(value: object, *, source: str) -> Manifest:
    """Validate a `quantization_config`; `source` names the file.

    Raises:
        ArtifactError: another method's, a newer version's, or malformed; says which field.
    """
    if not isinstance(value, dict) or value.get("quant_method") != QUANT_METHOD:
        raise ArtifactError(f"{source} has no quantization_config of mixqsam; give a directory that mixqsam wrote.")
    version = value.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ArtifactError(
            f"{source} has format version {version}, this mixqsam reads up to {FORMAT_VERSION}; "
            "install a newer mixqsam."
        )
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise ArtifactError(f"{source}: quantization_config.{place}: {detail['msg']}.") from error
