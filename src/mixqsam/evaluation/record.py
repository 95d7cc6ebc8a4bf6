"""Record of one model on one image: figures and encoded masks, as JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.data.samples import Sample
from mixqsam.errors import InputError
from mixqsam.evaluation.coco import Truth, mask_results
from mixqsam.prediction import Prediction

# `ious` with the reference's masks, `kl` from its output by P_Y definition, and with annotations `results` (COCO's) and
# `truth_ious` (with the annotated masks).
Record = Mapping[str, Any]


def measure(sample: Sample, prediction: Prediction, reference: Prediction, *, truth: Truth | None) -> Record:
    """Compare a prediction, one mask for each prompt, with the reference's and with the annotations.

    Raises:
        InputError: the models' masks are of different sizes.
    """
    ours, theirs = _visible(prediction), _visible(reference)
    if ours.shape != theirs.shape:
        raise InputError(
            f"Models with low-resolution masks of {tuple(theirs.shape[-2:])} and {tuple(ours.shape[-2:])} pixels "
            "cannot be compared; give models of one input size, or name the float model of that size with --reference, "
            "such as sam-tiny@128."
        )
    record: dict[str, Any] = {
        "ious": mask_ious(prediction.masks[:, 0], reference.masks[:, 0]).tolist(),
        "kl": {output: float(divergence(theirs, ours[None])) for output, divergence in OUTPUTS.items()},
        "results": [],
        "truth_ious": [],
    }
    if truth is not None:
        scored = truth.scored(sample)
        results = mask_results(sample, prediction)
        record["results"] = [result for result, is_scored in zip(results, scored, strict=True) if is_scored]
        masks = truth.masks(sample)
        if masks is not None:
            record["truth_ious"] = mask_ious(prediction.masks[scored, 0], masks).tolist()
    return record


def _visible(prediction: Prediction) -> torch.Tensor:
    """Low-resolution logits without the frame's padding."""
    height, width = prediction.visible
    return torch.from_numpy(prediction.logits[..., :height, :width])


def mask_ious(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of each pair of masks [P, height, width]; two empty masks agree."""
    both = (first & second).sum(axis=(1, 2))
    either = (first | second).sum(axis=(1, 2))
    ious: NDArray[np.float64] = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return ious
