"""The values that cross stages: units, their costs, and the bits they get.

Everything here is frozen, JSON-able and free of torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixqsam.errors import ArtifactError, shortened
from mixqsam.times import Arithmetic, UnitTimes

Kind = Literal["linear", "conv", "product"]
Part = Literal["encoder", "decoder"]
# What a unit multiplies: a layer its input and its weight, a product its left and its right operand.
Operand = Literal["input", "left", "right", "weight"]
# What a unit does. `scores` is q·kᵀ, `mixing` is softmax·v, `depthwise` a convolution of single channels.
Role = Literal[
    "query-key-value",
    "query",
    "key",
    "value",
    "scores",
    "mixing",
    "projection",
    "mlp-in",
    "mlp-out",
    "convolution",
    "depthwise",
]
Vector = NDArray[np.float64]

FLOAT_BITS = 32
# Bits of grids.
CANDIDATE_BITS = (2, 3, 4, 5, 6, 7, 8)
# Weights in half precision, activations without a quantizer.
HALF_BITS = 16
# What a unit may have, beside float.
UNIT_BITS = (*CANDIDATE_BITS, HALF_BITS)


@dataclass(frozen=True)
class Unit:
    """What gets a bit-width: a linear, a convolution, or one of an attention's two matrix products.

    Attributes:
        name: dotted path in the model, e.g. `vision_encoder.layers.0.attn.qkv`.
        kind: `linear`, `conv` or `product`.
        part: `encoder` (runs once per image) or `decoder` (once per prompt).
        parameters: weight elements that are quantized; 0 for a product. Biases stay float.
        channels: output channels, each with its own weight scale and zero point; 0 for a product.
        multiply_adds: per image in the encoder, per prompt in the decoder.
        role: what it does; whoever needs to know what a unit is asks for this, never for its name.
        block: short name of the block that it lies in, as reports show it: `3`, `neck`, `decoder 0`, `decoder end`.
        attention: path of the attention that it belongs to; None outside of attentions.
    """

    name: str
    kind: Kind
    part: Part
    parameters: int
    channels: int
    multiply_adds: int
    role: Role
    block: str
    attention: str | None = None

    @property
    def operands(self) -> tuple[Operand, Operand]:
        """The quantized operands, in the order of the fields of `UnitBits`."""
        return ("right", "left") if self.kind == "product" else ("weight", "input")

    @property
    def activations(self) -> tuple[Operand, ...]:
        """The quantized operands that depend on the image."""
        return ("left", "right") if self.kind == "product" else ("input",)

    def arithmetic(self, bits: "UnitBits") -> Arithmetic:
        """How runtimes compute the unit at some bits."""
        if bits.is_float:
            return "float"
        widths = [bits.weight, bits.activation]
        if max(widths) < HALF_BITS:
            return "narrow" if min(bits.of(operand) for operand in self.activations) < CANDIDATE_BITS[-1] else "integer"
        return "half" if min(widths) == HALF_BITS else "mixed"

    def overhead_bytes(self, bits: "UnitBits") -> int:
        """Bytes of scales and zero points at some bits; what has 16 bits or more has none.

        A channel of a weight has a bfloat16 and a uint8, and so has each input channel of a depthwise convolution;
        any other activation has a float32 and a uint8.
        """
        per_activation = 3 * self.channels if self.role == "depthwise" else 5
        quantized = sum(bits.of(operand) < HALF_BITS for operand in self.activations)
        return per_activation * quantized + (3 * self.channels if bits.weight < HALF_BITS else 0)


@dataclass(frozen=True)
class UnitBits:
    """Bit-widths of one unit.

    A product of two activations has no weight: its right operand (k, or v) takes the weight's place, and its left one
    (q, or the attention A) the activation's. So budgets, BitOps and files treat all kinds of units alike.
    16 means half precision for a weight, and no quantizer for an activation; 32 and 32 mean a unit left in float.
    """

    weight: int
    activation: int

    @property
    def is_float(self) -> bool:
        """Whether the unit is left as it is."""
        return self.weight == FLOAT_BITS

    def of(self, operand: Operand) -> int:
        """The bits of one operand."""
        return self.weight if operand in {"weight", "right"} else self.activation

    def __str__(self) -> str:
        return "float" if self.is_float else f"W{self.weight}A{self.activation}"


FLOAT = UnitBits(FLOAT_BITS, FLOAT_BITS)


@dataclass(frozen=True)
class BitPlan:
    """The bits of every unit: where allocation and quantization meet.

    Attributes:
        bits: unit name → its bits, in the order in which the data flows.
    """

    bits: Mapping[str, UnitBits]

    @classmethod
    def uniform(cls, units: Iterable[Unit], bits: UnitBits) -> "BitPlan":
        """The same bits for all units; a product has both operands at the activation's."""
        product = UnitBits(bits.activation, bits.activation)
        return cls({unit.name: product if unit.kind == "product" else bits for unit in units})

    def to_json(self) -> dict[str, dict[str, int]]:
        """A JSON-able form."""
        return {name: {"weight": b.weight, "activation": b.activation} for name, b in self.bits.items()}

    @classmethod
    def from_json(cls, value: Any) -> "BitPlan":
        """The inverse of `to_json`.

        Raises:
            ArtifactError: an entry is malformed, or a bit-width is not 2 to 8 or 16 (or 32 and 32 for float).
        """
        bits = {}
        try:
            for name, entry in value.items():
                unit = UnitBits(int(entry["weight"]), int(entry["activation"]))
                allowed = unit == FLOAT or {unit.weight, unit.activation} <= set(UNIT_BITS)
                if not allowed:
                    raise ArtifactError(f"Unit {name} has bits {entry}; expected 2 to 8 or 16, or 32 and 32 for float.")
                bits[str(name)] = unit
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ArtifactError(f"The bit plan is malformed ({shortened(repr(error))}).") from error
        return cls(bits)


@dataclass(frozen=True)
class Costs:
    """What a model costs under a bit plan.

    Attributes:
        units: in the order in which the data flows.
        float_bytes: bytes of all tensors that are no unit's (embeddings, norms, biases, heads), in float32.
        compact_bytes: bytes of the same in the file of a quantized model, where they are stored smaller.
        prompts_per_image: how often the decoder runs for each image.
        extra_bytes: unit → bytes of quantizers that take more than a scale and a zero point, when it is quantized.
        times: how long the units take in one backend on this machine; None where that was not measured.
    """

    units: tuple[Unit, ...]
    float_bytes: int
    compact_bytes: int
    prompts_per_image: int = 1
    extra_bytes: Mapping[str, int] = field(default_factory=dict)
    times: UnitTimes | None = None

    def multiply_adds(self, unit: Unit) -> int:
        """Multiply-adds of a unit per image."""
        return unit.multiply_adds * (self.prompts_per_image if unit.part == "decoder" else 1)

    @property
    def work(self) -> int:
        """Multiply-adds of all units per image."""
        return sum(self.multiply_adds(unit) for unit in self.units)

    def unit_size_bits(self, unit: Unit, bits: UnitBits) -> int:
        """Bits that a unit's weight, scales and zero points take in the file."""
        # What a recipe adds belongs to the quantizer of the activation.
        extra = self.extra_bytes.get(unit.name, 0) if bits.activation < HALF_BITS else 0
        return unit.parameters * bits.weight + 8 * (unit.overhead_bytes(bits) + extra)

    def unit_bitops(self, unit: Unit, bits: UnitBits) -> int:
        """BitOps of a unit per image: multiply-adds × weight bits × activation bits."""
        return self.multiply_adds(unit) * bits.weight * bits.activation

    def size(self, plan: BitPlan) -> float:
        """Bytes of the whole model: Σ p·b/8 + scales and zero points + the rest."""
        is_float = all(bits.is_float for bits in plan.bits.values())
        rest = self.float_bytes if is_float else self.compact_bytes
        return rest + sum(self.unit_size_bits(u, plan.bits[u.name]) for u in self.units) / 8

    def bitops(self, plan: BitPlan) -> int:
        """BitOps of all units per image."""
        return sum(self.unit_bitops(u, plan.bits[u.name]) for u in self.units)

    @property
    def fixed_latency(self) -> float:
        """Seconds of an image that no choice of bits changes, with its prompts; 0 without times."""
        return self.times.encoder + self.prompts_per_image * self.times.decoder if self.times else 0.0

    def unit_latency(self, unit: Unit, bits: UnitBits) -> float:
        """Seconds of a unit for an image, above those of its fastest arithmetic; 0 without times."""
        if self.times is None:
            return 0.0
        times = self.prompts_per_image if unit.part == "decoder" else 1
        return times * self.times.seconds[unit.name][unit.arithmetic(bits)]

    def latency(self, plan: BitPlan) -> float:
        """Predicted seconds of an image with its prompts: what is fixed + Σ times of the units; 0 without times."""
        return self.fixed_latency + sum(self.unit_latency(u, plan.bits[u.name]) for u in self.units)

    @property
    def float_plan(self) -> BitPlan:
        """The plan that quantizes nothing."""
        return BitPlan.uniform(self.units, FLOAT)


def matches(name: str, pattern: str) -> bool:
    """Whether a shell-style pattern fits a unit's dotted name, or any tail of it that starts at a dot.

    `neck.*` fits `vision_encoder.neck.conv1`.
    """
    tails = name.split(".")
    return any(fnmatchcase(".".join(tails[start:]), pattern) for start in range(len(tails)))
