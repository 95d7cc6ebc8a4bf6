"""What compensation leaves of a weight's rounding error, in closed form, before any weight is rounded.

See docs/method.md, “Sensitivity after compensation”.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.numeric.moments import gram, position_count, rows_at
from mixqsam.progress import Progress
from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.meter import Meter
from mixqsam.sam.hooks import Watcher
from mixqsam.sam.load import Sam


def find_shares(
    sam: Sam, samples: Sequence[Sample], *, method: Compensation, cache: Cache, progress: Progress
) -> dict[str, float]:
    """Estimate how much of each weight's rounding error compensation leaves.

    Rounding to nearest errs by tr(H)·Δ²/12 for each output channel, with H the second moments of the input and Δ the
    step. GPTQ errs by the squares of the Cholesky factor's diagonal instead, whose product is det(H): with d equal
    factors, d·det(H)^(1/d)·Δ²/12. The share is the ratio of the two, whatever the bits. The bias takes up the mean, so
    GPTQ's H is centred.

    Args:
        sam: the float model.
        samples: calibration images.
        method: names the images, their positions, λ, and whether biases take up means.
        cache: keeps the shares.
        progress: receives steps.

    Returns:
        Unit with a weight → share, 0 to 1.
    """
    return ShareMeter(sam, samples, method=method, cache=cache).find(progress)


class ShareMeter(Meter):
    """Finds the shares of all weights from their inputs.

    The moments are given up when the last image has passed: those of a large model take gigabytes.

    Args:
        sam: the float model.
        samples: calibration images.
        method: names those that count, their positions, λ, and whether biases take up means.
        cache: keeps the shares.
    """

    kind, label, version = "shares", "Inputs of weights", 2

    def __init__(self, sam: Sam, samples: Sequence[Sample], *, method: Compensation, cache: Cache) -> None:
        counted = method.select(samples, side=sam.image_size, work=sam.costs().work)
        rows, self._damping, self._centred = method.count_rows(len(counted)), min(method.dampings), method.biases
        super().__init__(sam, counted, settings=[[rows, self._damping, self._centred]], cache=cache)
        names = [unit.name for unit in sam.costs().units if unit.kind != "product"]
        self._inputs = {name: _Inputs(sam.model.get_submodule(name), rows=rows) for name in names}

    def _watchers(self) -> Mapping[str, Watcher]:
        return {name: partial(_take, one) for name, one in self._inputs.items()}

    def _conclude(self) -> dict[str, float]:
        names = list(self._inputs)
        return {name: self._inputs.pop(name).share(damping=self._damping, centred=self._centred) for name in names}


class _Inputs:
    """Second moments of a layer's inputs at some positions, in float32: [groups, d, d]."""

    def __init__(self, layer: nn.Module, *, rows: int) -> None:
        self._layer, self._rows = layer, rows
        self._count = 0
        self._squares: Tensor | float = 0.0
        self._sums: Tensor | float = 0.0

    def take(self, values: Tensor) -> None:
        generator = torch.Generator().manual_seed(self._count)
        positions = torch.randperm(position_count(self._layer, values.shape), generator=generator)[: self._rows]
        rows = rows_at(self._layer, values, positions.to(values.device)).float()
        self._squares = self._squares + gram(rows)
        self._sums = self._sums + rows.sum(1)
        self._count += rows.shape[1]

    def share(self, *, damping: float, centred: bool) -> float:
        """The share, mean over groups."""
        squares = torch.as_tensor(self._squares).double() / self._count
        before = squares.diagonal(dim1=-2, dim2=-1).mean(-1)
        if centred and self._layer.bias is not None:
            mean = torch.as_tensor(self._sums).double() / self._count
            squares = squares - mean[:, :, None] * mean[:, None]
        spread = squares.diagonal(dim1=-2, dim2=-1).mean(-1)
        unit = torch.eye(squares.shape[-1], dtype=squares.dtype, device=squares.device)
        lower, failed = torch.linalg.cholesky_ex(squares + damping * spread[:, None, None] * unit)
        if bool(failed.any()) or not bool((before > 0).all()):
            return 1.0
        after = lower.diagonal(dim1=-2, dim2=-1).log().mul(2).mean(-1).exp()
        return min(1.0, float((after / before).mean()))


def _take(inputs: _Inputs, arguments: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    inputs.take(arguments[0])
