"""Products of unsigned and signed bytes by PyTorch's own oneDNN kernels (CPU).

With codes c of an activation (scale s, zero point z) and signed bytes w of a weight (scale t for each output):
y = s·t·Σ (c − z)·w + bias, summed in whole numbers. Codes of fewer than 8 bits are bytes too, so every bit-width runs
here. Sums are exact, and scale and bias are applied in the order of `numeric.modules.scaled`, so the results are those
of the simulation to the last bit, whatever the kernel.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.half import Unquantized
from mixqsam.numeric.quantizers import ActivationQuantizer, Quantizer
from mixqsam.numeric.weights import QuantizedTensor

# Values that are encoded at once: 1 MB, which stays in the cache from step to step.
_PIECE = 1 << 18
# From here to its double, floats have a distance of 1: float32 rounds a sum to a whole number. It is a multiple of 256.
_ROUNDER = 1.5 * 2**23


class UnsupportedError(Exception):
    """A unit cannot be computed in whole numbers here; the text says why."""


@dataclass(frozen=True)
class ByteGrid:
    """A static affine grid of an activation, as plain numbers.

    Attributes:
        quantizer: projects onto it.
        bits: bit-width; codes run from 0 to 2^bits − 1.
        scale: step.
        per_step: steps per unit, as the quantizer computes them.
        zero: zero point.
    """

    quantizer: Quantizer
    bits: int
    scale: float
    per_step: float
    zero: int

    @classmethod
    def of(cls, quantizer: ActivationQuantizer) -> "ByteGrid":
        """The grid of a frozen quantizer.

        Raises:
            UnsupportedError: it is not affine with one scale for the whole tensor.
        """
        if isinstance(quantizer, Unquantized):
            raise UnsupportedError("its activations have 16 bits and are not quantized")
        if not isinstance(quantizer, Quantizer):
            raise UnsupportedError(f"a {quantizer.kind} quantizer has no single step")
        return cls(quantizer, quantizer.bits, quantizer.step, float(1 / quantizer.scale), int(quantizer.zero))

    def encode(self, values: Tensor, *, spent: bool = False) -> Tensor:
        """Codes of float32 values, uint8, same shape.

        Args:
            values: any shape.
            spent: nobody reads the values afterwards, so they may be overwritten.
        """
        values = values.detach()
        codes = torch.empty_like(values, dtype=torch.uint8)
        if values.numel() <= _PIECE or not values.is_contiguous():
            self._encode_into(codes, values, spent=spent)
            return codes
        for some, place in zip(values.view(-1).split(_PIECE), codes.view(-1).split(_PIECE), strict=True):
            self._encode_into(place, some, spent=spent)
        return codes

    def _encode_into(self, codes: Tensor, values: Tensor, *, spent: bool) -> None:
        steps = values.mul_(self.per_step) if spent else torch.mul(values, self.per_step)
        # Adding this number rounds to even, as `round` does, and leaves the steps in the lowest bits. PyTorch converts
        # floats to bytes one by one, but whole numbers many at a time.
        steps.clamp_(-self.zero, 2**self.bits - 1 - self.zero).add_(_ROUNDER)
        codes.copy_(steps.view(torch.int32))
        if self.zero:
            codes.add_(self.zero)


@cache
def missing_kernels() -> str | None:
    """Why integer products cannot be had from this build of PyTorch on this processor; None if they can."""
    # The largest products there are: processors without VNNI add pairs of them in 16 bits, which saturates.
    count, largest = 64, 127 * 255
    try:
        grid = ByteGrid.of(Quantizer(AffineGrid(8, torch.tensor(1.0), torch.tensor(0.0))))
        weight = prepared(torch.full((1, count), 127, dtype=torch.int8), rows=1)
        found = multiply(grid.encode(torch.full((1, count), 255.0)), grid, weight, scale=torch.tensor([0.5])).item()
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return str(error).split("\n", maxsplit=1)[0]
    expected = 0.5 * count * largest
    return None if found == expected else f"they are not exact: {found:g} instead of {expected:g}"


def prepared(weight: Tensor, *, rows: int) -> Tensor:
    """A weight [out, in] of signed bytes in the layout of the kernels, for inputs of about `rows` rows."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, [rows, weight.shape[1]])
    return packed


@cache
def has_exact_gelu() -> bool:
    """Whether a product with a GELU behind it gives what PyTorch's own function gives of the product."""
    count = 1 << 10
    grid = ByteGrid.of(Quantizer(AffineGrid(8, torch.tensor(1.0), torch.tensor(128.0))))
    codes = torch.arange(256, dtype=torch.uint8).reshape(-1, 1).expand(-1, 4).contiguous()
    weight = prepared(torch.ones(count, 4, dtype=torch.int8), rows=256)
    scale, bias = torch.linspace(1e-4, 2e-2, count), torch.linspace(-2, 2, count)
    plain, fused = (multiply(codes, grid, weight, scale=scale, bias=bias, gelu=fuse) for fuse in (False, True))
    return torch.equal(functional.gelu(plain), fused)


def multiply(
    codes: Tensor, source: ByteGrid, weight: Tensor, *, scale: Tensor, bias: Tensor | None = None, gelu: bool = False
) -> Tensor:
    """An integer product: scale·Σ (c − z)·w + bias.

    Args:
        codes: uint8 [n, in].
        source: their grid, whose zero point is z.
        weight: what `prepared` made of [out, in].
        scale: float32 [out], the step of the codes times that of the weight.
        bias: float32 [out].
        gelu: apply a GELU, in the same pass over memory.

    Returns:
        float32 [n, out].
    """
    post: tuple[Any, ...] = ("gelu", [], "none") if gelu else ("none", [], "")
    op: Any = torch.ops.onednn.qlinear_pointwise
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    found: Tensor = op(codes, 1.0, source.zero, weight, scale, zeros, bias, 1.0, 0, torch.float32, *post)
    return found


def multiply_onto(total: Tensor, codes: Tensor, source: ByteGrid, weight: Tensor, *, scale: Tensor) -> Tensor:
    """Add an integer product, scale·Σ (c − z)·w, to float32 [n, out]; in place, in one pass. See `multiply`."""
    op: Any = torch.ops.onednn.qlinear_pointwise.binary
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    grid = (codes, 1.0, source.zero, weight, scale, zeros)
    found: Tensor = op(*grid, total, None, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], "")
    return found


class ByteMatrix:
    """Codes [n, c] of an activation, as the weight of a product with other codes.

    Args:
        codes: uint8 [n, c].
        grid: theirs.
        step: what the product of whole numbers is multiplied by.
        rows: about how many rows it is multiplied with at once.
        transposed: sum over n instead of c.
    """

    def __init__(self, codes: Tensor, grid: ByteGrid, *, step: float, rows: int, transposed: bool = False) -> None:
        # Less an offset the codes fit a signed byte; at 8 bits that is the zero point only if it is 128.
        offset = 128 if grid.bits == 8 else grid.zero
        signed = (codes.to(torch.int16) - offset).to(torch.int8)
        signed = signed.t().contiguous() if transposed else signed
        self._weight = prepared(signed, rows=rows)
        self._lacking, self._step = float(grid.zero - offset), step
        self._scale = torch.full((len(signed),), 1.0 if self._lacking else step)

    def times(self, codes: Tensor, grid: ByteGrid, *, onto: Tensor | None = None) -> Tensor:
        """uint8 [m, c] → float32 [m, n] (transposed: [m, n] → [m, c]).

        Args:
            codes: what is multiplied.
            grid: theirs.
            onto: float32 [m, n], to which the product is added, in place.
        """
        codes = codes.contiguous()
        if onto is not None and not self._lacking:
            return multiply_onto(onto, codes, grid, self._weight, scale=self._scale)
        product = multiply(codes, grid, self._weight, scale=self._scale)
        if self._lacking:
            # Σ a·(w − z) = Σ a·(w − o) − (z − o)·Σ a
            sums = codes.sum(1, keepdim=True, dtype=torch.int32).sub_(grid.zero * codes.shape[1]).float()
            product.sub_(sums, alpha=self._lacking).mul_(self._step)
        return product if onto is None else onto.add_(product)


class IntegerLinear:
    """A linear layer in whole numbers.

    Args:
        weight: codes and grids.
        bias: float32 [out].
        source: the grid of the input.

    Raises:
        UnsupportedError: a weight less its zero point does not fit a signed byte.
    """

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None, source: ByteGrid) -> None:
        signed = weight.codes.to(torch.int16) - weight.grid.zero.to(torch.int16)
        if int(signed.min()) < -128 or int(signed.max()) > 127:
            raise UnsupportedError("its 8-bit weights have other zero points than 128")
        self.source, self._bias = source, bias
        self._scale = weight.grid.scale.reshape(-1) * source.scale
        self._weight = prepared(signed.to(torch.int8), rows=1024)

    def __call__(self, codes: Tensor) -> Tensor:
        """uint8 [n, in] → float32 [n, out]."""
        return multiply(codes, self.source, self._weight, scale=self._scale, bias=self._bias)

    def activated(self, codes: Tensor, act: nn.Module) -> Tensor:
        """uint8 [n, in] → float32 [n, out] behind an activation function; in one pass where that gives the same."""
        if is_gelu(act) and has_exact_gelu():
            return multiply(codes, self.source, self._weight, scale=self._scale, bias=self._bias, gelu=True)
        found: Tensor = act(self(codes))
        return found


def is_gelu(act: nn.Module) -> bool:
    """Whether an activation function is the GELU itself, which is not approximated by a tanh."""
    if isinstance(act, GELUActivation):
        return act.act is functional.gelu
    return isinstance(act, nn.GELU) and act.approximate == "none"
