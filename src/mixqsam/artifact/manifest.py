"""What a quantized directory says of itself: the `quantization_config` of its `config.json`."""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from mixqsam.errors import ArtifactError, shortened
from mixqsam.numeric.modules import Product, StoredLayer
from mixqsam.numeric.quantizers import QUANTIZERS, ActivationQuantizer, Quantizer
from mixqsam.numeric.tensor_file import kinds_of
from mixqsam.plan import CANDIDATE_BITS, HALF_BITS, UNIT_BITS, BitPlan, Costs, UnitBits
from mixqsam.sam.load import Sam

FORMAT_VERSION = 3
QUANT_METHOD = "mixqsam"


def _check_bits(bits: int) -> int:
    """Refuse bit-widths that no unit has."""
    if bits not in UNIT_BITS:
        raise ValueError(f"expected {CANDIDATE_BITS[0]} to {CANDIDATE_BITS[-1]}, or {HALF_BITS}")
    return bits


Bits = Annotated[int, AfterValidator(_check_bits)]


def _check_kind(kind: str) -> str:
    """Refuse a kind of quantizer that does not exist, and the plain one, which is not written down."""
    kinds = sorted(QUANTIZERS.keys() - {Quantizer.kind})
    if kind not in kinds:
        raise ValueError(f"expected one of {', '.join(kinds)}")
    return kind


Kind = Annotated[str, AfterValidator(_check_kind)]


class UnitEntry(BaseModel):
    """Bits of one quantized unit; units left in float have no entry.

    Attributes:
        weight, activation: bit-widths.
        quantizers: operand (`input`, `left`, `right`) → kind, of activations that are not on an affine grid.
    """

    model_config = ConfigDict(extra="forbid")

    weight: Bits
    activation: Bits
    quantizers: dict[Literal["input", "left", "right"], Kind] | None = None

    @model_validator(mode="after")
    def _check_quantizers(self) -> "UnitEntry":
        """Refuse a quantizer of an activation that has 16 bits."""
        bits = UnitBits(self.weight, self.activation)
        for operand in self.quantizers or {}:
            if bits.of(operand) == HALF_BITS:
                raise ValueError(f"{operand} has {HALF_BITS} bits, and so no quantizer")
        return self

    @property
    def kinds(self) -> dict[str, str]:
        """Operand → kind, where it is not affine."""
        return {str(operand): kind for operand, kind in (self.quantizers or {}).items()}


class Manifest(BaseModel):
    """The `quantization_config`.

    Attributes:
        quant_method: whose format it is.
        format_version: rises when older readers would misread: 3 where a unit has 16 bits, otherwise 2.
        source: the float model, as its user named it.
        recipe: how it was quantized.
        prompts_per_image: that the BitOps were counted with.
        units: unit name → bits.
        eight_bit: tensors of no unit that are stored as codes of 8 bits (version 1 had none, and no checksums).
    """

    model_config = ConfigDict(extra="forbid")

    quant_method: Literal["mixqsam"] = "mixqsam"
    format_version: Literal[1, 2, 3] = 2
    source: str
    recipe: str
    prompts_per_image: int = Field(default=1, ge=1)
    units: dict[str, UnitEntry]
    eight_bit: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, sam: Sam, plan: BitPlan, *, recipe: str, prompts_per_image: int) -> "Manifest":
        """The manifest of a model that was quantized by a plan."""
        units = {
            name: UnitEntry(
                weight=bits.weight,
                activation=bits.activation,
                quantizers=kinds_of(_quantizers(sam.model, name)) or None,
            )
            for name, bits in plan.bits.items()
            if not bits.is_float
        }
        return cls(
            format_version=3 if any(HALF_BITS in {unit.weight, unit.activation} for unit in units.values()) else 2,
            source=sam.source,
            recipe=recipe,
            prompts_per_image=prompts_per_image,
            units=units,
            eight_bit=sorted(sam.rest),
        )

    def check(self, costs: Costs, tensors: Collection[str]) -> None:
        """Refuse units and tensors that the model does not have.

        Raises:
            ArtifactError: it names one.
        """
        foreign = self.units.keys() - {unit.name for unit in costs.units} | set(self.eight_bit) - set(tensors)
        if foreign:
            raise ArtifactError(f"config.json quantizes {min(foreign)}, which this architecture does not have.")

    def plan(self, costs: Costs) -> BitPlan:
        """Bits of every unit of the model."""
        bits = dict(costs.float_plan.bits)
        bits.update({name: UnitBits(entry.weight, entry.activation) for name, entry in self.units.items()})
        return BitPlan(bits)


def _quantizers(model: nn.Module, unit: str) -> Mapping[str, ActivationQuantizer]:
    module = model.get_submodule(unit)
    return module.quantizers if isinstance(module, StoredLayer | Product) else {}


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
        wrong = shortened(f"{place}: {detail['msg']}")
        raise ArtifactError(f"{source}: quantization_config.{wrong}.") from error
