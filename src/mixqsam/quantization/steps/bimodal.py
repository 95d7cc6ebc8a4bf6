"""Bimodal integration (PTQ4SAM): merge the two modes of a decoder's keys by an exact rewrite.

See docs/method.md, “Bimodal integration”.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mixqsam.calibrate import identify_passes, run_sample
from mixqsam.data.samples import Sample
from mixqsam.files import Cache, digest
from mixqsam.plan import BitPlan, Unit
from mixqsam.progress import Progress
from mixqsam.quantization.nearest import draft
from mixqsam.quantization.setting import check_roles
from mixqsam.sam.hooks import watched
from mixqsam.sam.load import Sam

# Raised when what is kept of a model means something else.
_VERSION = 1
_POINTS = 128
_LEAST_HEIGHT = 0.01
_LEAST_DISTANCE = 32
# Values of each image that the density is estimated from: its cost grows with their number times the points.
_VALUES = 512


class _Keys:
    """What is remembered of one projection to keys: the sum of each channel, and some values."""

    def __init__(self) -> None:
        self.sums: Tensor | float = 0.0
        self.values: list[Tensor] = []

    def __call__(self, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del inputs
        self.sums = self.sums + output.double().reshape(-1, output.shape[-1]).sum(0)
        flat = output.reshape(-1)
        # An odd step does not fall into step with channel counts, which are even.
        self.values.append(flat[:: flat.numel() // _VALUES | 1].float().cpu())


def merge_bimodal(sam: Sam, plan: BitPlan, samples: Sequence[Sample], cache: Cache, progress: Progress) -> Sam:
    """Flip the signs of channels of q and k where the keys of a token-to-image attention have two modes.

    γ_c = sign(mean of channel c), sign(0) = 1; rows c of W_q, b_q, W_k and b_k are multiplied by γ_c. q·kᵀ stays as it
    was, since γ_c² = 1, so the float model's outputs do too. The bits of the plan make no difference.

    Returns:
        The rewritten model; tensors that did not change are shared with `sam`.

    Raises:
        MixqsamError: the model has no attention with projections of its own for q and k.
    """
    del plan
    key = digest(_VERSION, *identify_passes(sam, samples))
    found: dict[str, list[float]] | None = cache.get("bimodal", key)
    if found is None:
        found = find_signs(sam, samples, progress)
        cache.put("bimodal", key, found)
    merged = draft(sam)
    projections = looking_at_image(sam)
    for name, signs in found.items():
        for unit in projections[name]:
            _flip(merged.model, unit.name, torch.tensor(signs))
    return merged


def find_signs(sam: Sam, samples: Sequence[Sample], progress: Progress) -> dict[str, list[float]]:
    """Attention whose keys have two modes → γ of its channels."""
    attentions = looking_at_image(sam)
    keys = {name: _Keys() for name in attentions}
    with watched(sam.model, {attentions[name][1].name: watcher for name, watcher in keys.items()}):
        for sample in progress.track(samples, label="Looking for two modes", total=len(samples)):
            run_sample(sam, sample)
    return {
        name: torch.where(torch.as_tensor(seen.sums) < 0, -1.0, 1.0).tolist()
        for name, seen in keys.items()
        if is_bimodal(torch.cat(seen.values).numpy())
    }


def looking_at_image(sam: Sam) -> dict[str, tuple[Unit, Unit]]:
    """Attention of the decoder in which tokens look at the image → its projections to q and to k.

    There the keys, one for each place of the image, are more than the queries.

    Raises:
        MixqsamError: the model has no attention with projections of its own for q and k.
    """
    units = [unit for unit in sam.costs().units if unit.part == "decoder" and unit.attention]
    check_roles(sam, units, "key", step="Bimodal integration")
    queries = {unit.attention: unit for unit in units if unit.role == "query"}
    keys = {unit.attention: unit for unit in units if unit.role == "key"}
    return {
        str(name): (queries[name], key)
        for name, key in keys.items()
        if name in queries and _tokens(key) > _tokens(queries[name])
    }


def _tokens(unit: Unit) -> int:
    return unit.multiply_adds // unit.parameters


def is_bimodal(values: np.ndarray) -> bool:
    """Whether a density has exactly two peaks: on 128 points, higher than 1% of the sum, at least 32 points apart."""
    # Two recipes need them, and importing them takes about half a second.
    from scipy.signal import find_peaks  # noqa: PLC0415
    from scipy.stats import gaussian_kde  # noqa: PLC0415

    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12:
        return False
    density = gaussian_kde(values)(np.linspace(low, high, _POINTS))
    peaks, _ = find_peaks(density, height=_LEAST_HEIGHT * density.sum(), distance=_LEAST_DISTANCE)
    return len(peaks) == 2


def _flip(model: nn.Module, name: str, signs: Tensor) -> None:
    source = model.get_submodule(name)
    assert isinstance(source, nn.Linear)  # noqa: S101  (narrows the type; units of these roles are linears)
    flipped = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None, device="meta")
    signs = signs.to(source.weight)
    flipped.weight = nn.Parameter(source.weight.detach() * signs[:, None], requires_grad=False)
    if source.bias is not None:
        flipped.bias = nn.Parameter(source.bias.detach() * signs, requires_grad=False)
    model.set_submodule(name, flipped)
