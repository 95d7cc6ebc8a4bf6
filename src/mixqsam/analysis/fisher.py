"""Fisher sensitivity: the KL divergence of every operand at every bit-width, from gradients of each image's output.

See docs/method.md, “Fisher sensitivity”.

With y drawn from the model's own output distribution, KL ≈ ½·E_y[⟨∂log p(y)/∂X, ΔX(b)⟩²] for the change ΔX(b) of an
operand X at b bits. One forward and one backward pass for each draw serve all units, both operands and all bits.

That square varies much from draw to draw. Its diagonal part, ½·E_y[Σ_j (∂log p(y)/∂X_j)²·ΔX_j(b)²], hardly varies, but
leaves out what errors of a common direction add up to. So the diagonal part says how the divergence changes from one
bit-width to the next, and the squares of all bit-widths together say how large it is (`steady`).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mixqsam.analysis.error_products import error_products, weight_error_products
from mixqsam.analysis.gradients import gradients_met, weight_gradient
from mixqsam.calibrate import Ranges, name_rounding
from mixqsam.data.samples import Sample
from mixqsam.errors import NumericError
from mixqsam.files import Cache, digest
from mixqsam.parallel.engine import Engine, combine, take_share
from mixqsam.plan import CANDIDATE_BITS, Operand, Unit, Vector
from mixqsam.progress import Progress
from mixqsam.sam.forward import embed_prompts, make_frame, prompt_tensors, visible
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import WeightGrids

# Increase it when measurements change their meaning, so that old ones in the cache are not used.
_VERSION = 3
# Pixels that the `spatial` distribution draws for each mask; the scores' covariance does not depend on it.
_PIXELS_DRAWN = 4096
# Bit-widths at which an error is needed for a line through the ratios.
_CLEAR = 4

# Logits [P, M, h, w] and random numbers → ∂log p(y)/∂logits.
Score = Callable[[Tensor, torch.Generator], Tensor]


def bernoulli_score(logits: Tensor, generator: torch.Generator) -> Tensor:
    """∂log p(y)/∂logit = y − σ(logit), for a coin y of each pixel."""
    p = torch.sigmoid(logits)
    return torch.bernoulli(p, generator=generator) - p


def spatial_score(logits: Tensor, generator: torch.Generator) -> Tensor:
    """∂log p(y)/∂logit for one pixel y of each mask, drawn by σ(logit)/Σσ.

    The scores of several draws are added and divided by the root of their number: the covariance is that of one draw,
    without its heavy tail.
    """
    flat = logits.flatten(-2)
    p = torch.softmax(torch.nn.functional.logsigmoid(flat), dim=-1)
    drawn = torch.multinomial(p.flatten(0, -2), _PIXELS_DRAWN, replacement=True, generator=generator)
    counts = torch.zeros_like(p).flatten(0, -2).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=p.dtype))
    score = (counts.view_as(p) - _PIXELS_DRAWN * p) / _PIXELS_DRAWN**0.5
    scores: Tensor = (score * (1 - torch.sigmoid(flat))).view_as(logits)
    return scores


SCORES: dict[str, Score] = {"bernoulli": bernoulli_score, "spatial": spatial_score}


def measure_images(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    output: str,
    draws: int,
    ranges: Ranges,
    weights: WeightGrids,
    cache: Cache,
    progress: Progress,
    engine: Engine,
) -> Vector:
    """Divergences of each image and their diagonal parts, [images, 2, units, 2, bits].

    The cache stores each image's values; a group of processes shares the images.

    Args:
        sam: the float model.
        samples: calibration images with prompts.
        output: P_Y definition.
        draws: of y, averaged over all images.
        ranges: ranges of the activations.
        weights: grids of the weights.
        cache: stores each image's values.
        progress: receives the progress of each image.
        engine: the group of processes.

    Raises:
        NumericError: a gradient is not finite.
    """
    meter = FisherMeter(sam, ranges, weights)
    settings = digest(ranges.to_json())
    divergences: dict[int, list[float]] = {}
    draws_per_image = -(-draws // len(samples))
    label = f"Fisher sensitivity ({output})"
    share = take_share(engine, samples)
    for index, sample in progress.track(share, label=label, total=len(share)):
        rounds = name_rounding(sam, [sample])
        key = digest(_VERSION, sam.fingerprint, sample.digest(), settings, output, draws_per_image, *rounds)
        values: list[float] | None = cache.get("fisher", key)
        if values is None or len(values) != meter.length:
            estimates = meter.measure(sample, output=output, draws=draws_per_image).mean(axis=1)
            if not np.isfinite(estimates).all():
                raise NumericError(f"The model's gradients on {sample.path} are not finite; the checkpoint is damaged.")
            values = estimates.ravel().tolist()
            cache.put("fisher", key, values)
        divergences[index] = values
    rows = combine(engine, divergences, count=len(samples))
    return np.reshape(rows, (len(samples), 2, -1, 2, len(CANDIDATE_BITS)))


def alike(images: Vector) -> Vector:
    """Take the mean over images, each with the same weight.

    Divergences of images differ in scale by orders of magnitude, so that few images would decide alone. Each image is
    divided by its own scale, and the mean has the mean scale.

    Args:
        images: divergences and their diagonal parts, [images, 2, units, 2, bits].

    Returns:
        [2, units, 2, bits].
    """
    scales = images[:, 1].mean(axis=(1, 2, 3))
    scales = np.where(scales > 0, scales, 1.0)
    mean: Vector = (images / scales[:, None, None, None, None]).mean(axis=0) * scales.mean()
    return mean


def steady(whole: Vector, diagonal: Vector) -> Vector:
    """Take the noise out of divergences, by their diagonal parts.

    The logarithm of whole/diagonal is fitted by a line in the bits: errors of few bits have more of a common direction.

    Args:
        whole: noisy divergences, [units, 2, bits].
        diagonal: their diagonal parts, shaped as `whole`.

    Returns:
        The diagonal parts times the fitted ratio, shaped as `whole`.
    """
    places = np.arange(whole.shape[-1], dtype=np.float64)
    result = np.array(whole, dtype=np.float64)
    for index in np.ndindex(*whole.shape[:-1]):
        clear = (whole[index] > 0) & (diagonal[index] > 0)
        if clear.sum() < _CLEAR:
            continue
        ratios = np.log(whole[index][clear] / diagonal[index][clear])
        line = np.polynomial.Polynomial.fit(places[clear], ratios, deg=1)
        result[index] = diagonal[index] * np.exp(line(places))
    return result


class FisherMeter:
    """Measures images one at a time; grids of weights are searched once for all of them."""

    def __init__(self, sam: Sam, ranges: Ranges, weights: WeightGrids) -> None:
        self._sam, self._weights = sam, weights
        self._units = sam.costs().units
        self._places = {unit.name: index for index, unit in enumerate(self._units)}
        self._quantizers = {
            (unit.name, operand): [
                ranges.quantizer(unit.name, operand=operand, bits=b).to(sam.device) for b in CANDIDATE_BITS
            ]
            for unit in self._units
            for operand in unit.activations
        }
        self.length = 2 * len(self._units) * 2 * len(CANDIDATE_BITS)

    def measure(self, sample: Sample, *, output: str, draws: int) -> Vector:
        """KL estimates of an image and their diagonal parts, in nats: [2, draws, units, 2, bits].

        Nats are counted as `analysis.outputs` does. The draws are the same whenever an image is measured.
        """
        sam = self._sam
        frame = make_frame(sam, sample.open())
        prompts = embed_prompts(sam, prompt_tensors(sam, sample.prompts, frame))
        with torch.enable_grad(), gradients_met(sam, activation=self._meet_activation, weight=self._meet_weight):
            maps = sam.family.encode(sam.model, frame.pixels)
            logits, _ = sam.family.decode(sam.model, maps, prompts, multimask=False)
            shown = visible(logits[0], frame)
            divergences = []
            for draw in range(draws):
                score = self._score(shown.detach(), output, digest(sample.digest(), output, draw))
                self._start(prompts=len(shown))
                torch.autograd.backward(shown, score, retain_graph=draw + 1 < draws)
                # KL is averaged over distributions: `spatial` has one for each mask, `bernoulli` one for each pixel.
                distributions = shown[..., 0, 0] if output == "spatial" else shown
                divergences.append(self._squares / (2 * distributions.numel()))
        return np.stack(divergences, axis=1)

    def _score(self, logits: Tensor, output: str, seed: str) -> Tensor:
        # On the CPU, so that the draws do not depend on the device.
        generator = torch.Generator().manual_seed(int(seed, 16) % 2**63)
        return SCORES[output](logits.cpu(), generator).to(logits.device)

    def _start(self, *, prompts: int) -> None:
        # Each group has its own draws: one prompt in the decoder, all prompts in the encoder.
        self._prompts = prompts
        self._sums = np.zeros((2, len(self._units), 2, prompts, len(CANDIDATE_BITS)))

    @property
    def _squares(self) -> Vector:
        """Squared inner products and their diagonal parts, summed over groups: [2, units, 2, bits]."""
        products, diagonals = self._sums
        squares: Vector = np.stack([(products**2).sum(axis=2), diagonals.sum(axis=2)])
        return squares

    def _groups(self, unit: Unit, values: Tensor) -> int:
        """Number of groups on the first axes: the prompts in the decoder; in the encoder they share their values."""
        apart = unit.part == "decoder" and (
            len(values) == self._prompts or (len(values) == 1 and values.shape[1] == self._prompts)
        )
        return self._prompts if apart and unit.kind != "conv" else 1

    def _add(self, unit: Unit, operand: Operand, products: Tensor) -> None:
        place = self._places[unit.name], unit.operands.index(operand)
        self._sums[:, *place, : products.shape[1]] += products.cpu().numpy()

    @torch.no_grad()
    def _meet_activation(self, unit: Unit, operand: Operand, values: Tensor, gradient: Tensor) -> None:
        quantizers = self._quantizers[unit.name, operand]
        self._add(unit, operand, error_products(quantizers, values, gradient, groups=self._groups(unit, values)))

    @torch.no_grad()
    def _meet_weight(self, unit: Unit, module: nn.Module, values: Tensor, gradient: Tensor) -> None:
        slope = weight_gradient(module, values, gradient, groups=self._groups(unit, values))
        grids = [self._weights.grid(unit.name, bits=bits) for bits in CANDIDATE_BITS]
        self._add(unit, "weight", weight_error_products(self._weights.weight(unit.name), grids, slope))
