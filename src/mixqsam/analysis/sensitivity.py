"""Measure the sensitivity: the KL divergence when only one operand of one unit is at b bits.

See docs/method.md, “Utility of bits”.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.analysis.variants import Change, Prefix, Variant, track_variants
from mixqsam.calibrate import Ranges
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.numeric.weights import project_weight
from mixqsam.plan import Operand, Unit, Vector
from mixqsam.progress import Progress
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import WeightGrids


class QuantizedVariants:
    """Variants with one quantized operand of one unit; weight grids are searched once for all images."""

    def __init__(self, sam: Sam, ranges: Ranges, weights: WeightGrids, *, bits: Sequence[int]) -> None:
        self._variants = [
            _make_variant(sam, ranges, weights, unit, operand=operand, bits=b)
            for unit in sam.costs().units
            for operand in unit.operands
            for b in bits
        ]

    def measure(
        self, sam: Sam, prefix: Prefix, *, progress: Progress, label: str = "Sensitivity"
    ) -> dict[str, list[float]]:
        """Measure the KLs of all variants on one image: P_Y definition → flat list over units, operands and bits."""
        divergences = {output: np.zeros(len(self._variants)) for output in OUTPUTS}
        for indices, logits in track_variants(sam, prefix, self._variants, progress=progress, label=label):
            for output, divergence in OUTPUTS.items():
                divergences[output][indices] = divergence(prefix.logits, logits).cpu().numpy()
        return {output: values.tolist() for output, values in divergences.items()}

    @staticmethod
    def arrange(flat: Vector, *, bits: Sequence[int]) -> Vector:
        """Reshape KLs in the order of `measure` to [units, 2, bits], operands in the order of `Unit.operands`."""
        return np.asarray(flat).reshape(-1, 2, len(bits))


def _make_variant(
    sam: Sam, ranges: Ranges, weights: WeightGrids, unit: Unit, *, operand: Operand, bits: int
) -> Variant:
    if operand == "weight":
        return Variant({unit.name: _quantize_weight(weights.grid(unit.name, bits=bits))})
    quantizer = ranges.quantizer(unit.name, operand=operand, bits=bits).to(sam.device)
    if operand == "input":
        return Variant({unit.name: _quantize_input(quantizer)})
    return Variant({f"{unit.name}.{operand}": _quantize_output(quantizer)})


def _quantize_output(quantizer: ActivationQuantizer) -> Change:
    def change(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del module, inputs
        return quantizer(output)  # type: ignore[no-any-return]

    return change


def _quantize_input(quantizer: ActivationQuantizer) -> Change:
    def change(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del output
        # Calling the module would run this hook again, so `forward` is called directly.
        return module.forward(quantizer(inputs[0]))  # type: ignore[no-any-return]

    return change


def _quantize_weight(grid: AffineGrid) -> Change:
    def change(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del output
        assert isinstance(module.weight, Tensor)  # noqa: S101
        weight = project_weight(module.weight, grid)
        if isinstance(module, nn.Conv2d):
            convolved: Tensor = module._conv_forward(inputs[0], weight, module.bias)
            return convolved
        bias = module.bias
        assert bias is None or isinstance(bias, Tensor)  # noqa: S101
        return functional.linear(inputs[0], weight, bias)

    return change
