"""The comparison of finished models with the float model, on images that are chosen before the long work."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mixqsam.data.samples import Sample, draw_samples
from mixqsam.errors import AnnotationError
from mixqsam.evaluation.evaluate import EvaluationResult, evaluate
from mixqsam.evaluation.image_records import RecordCache
from mixqsam.files import digest, digest_file
from mixqsam.numeric.modules import QuantizedLayer
from mixqsam.pipeline.evaluate import RECORDS
from mixqsam.pipeline.examples import DrawnExample, draw_examples
from mixqsam.pipeline.options import Evaluation
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import check_truth, select_annotations, select_left_over
from mixqsam.reporting.record import EvaluationImages
from mixqsam.runtime.build import integer_model
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor

# Default number of images for the comparison; the calibration does not use them.
DEFAULT_LIMIT = 8
# Embeddings that are kept until examples are drawn; with its frame, one of SAM has 17 MB.
_KEPT = 2 * DEFAULT_LIMIT


@dataclass(frozen=True)
class CheckImages:
    """Images of a comparison.

    Attributes:
        samples: images with prompts.
        annotations: a COCO file that masks are scored against, if any.
    """

    samples: Sequence[Sample]
    annotations: Path | None


@dataclass(frozen=True)
class Check:
    """Quality of the finished models.

    Attributes:
        results: name → result; empty without a comparison.
        images: what the quality was measured on.
        examples: pictures of some images.
        coco_results: name → masks as COCO results; empty without annotations.
    """

    results: Mapping[str, EvaluationResult]
    images: EvaluationImages | None = None
    examples: Sequence[DrawnExample] = ()
    coco_results: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)


def choose_check_images(
    evaluation: Evaluation, data: Source, used: Sequence[Sample], *, seed: int, session: Session
) -> CheckImages | None:
    """Choose the images of the comparison, if possible such that the calibration does not use.

    Args:
        evaluation: what the user wants.
        data: calibration images.
        used: those that the calibration uses.
        seed: random seed of the choice.
        session: progress.

    Returns:
        The images; None where the user wants no comparison.

    Raises:
        AnnotationError: annotations cannot be used, or no image has a prompt.
    """
    limit, is_new = _choose_limit(evaluation), evaluation.data is not None
    if limit == 0:
        return None
    source = evaluation.data or data
    if is_new:
        check_truth(source)
    enough = None if limit is None else limit + (0 if is_new else len(used))
    samples = source.samples(count=enough, progress=session.progress, seed=seed)
    samples = samples if is_new else select_left_over(samples, used, session)
    prompted = [sample for sample in samples if len(sample.prompts)]
    if not prompted:
        raise AnnotationError("No image has a box or point to evaluate with.")
    samples = draw_samples(prompted, count=limit, seed=seed)
    return CheckImages(samples, select_annotations(source, named=is_new, session=session))


def _choose_limit(evaluation: Evaluation) -> int | None:
    """Maximum images of the comparison: all that the user names, or a few that the calibration does not use."""
    return DEFAULT_LIMIT if evaluation.limit is None and evaluation.data is None else evaluation.limit


def compare_models(
    models: Mapping[str, Sam],
    images: CheckImages,
    used: Sequence[Sample],
    *,
    keys: Mapping[str, str],
    session: Session,
    draws: bool = True,
) -> Check:
    """Compare models with the first one, which is the float model.

    On the CPU the others compute in integers where they can, which gives the same masks in less time.

    Args:
        models: name → model; the quantized model is the last one, and examples are drawn by its quality.
        images: images of the comparison.
        used: images of the calibration.
        keys: what each model depends on, for the cache of finished images.
        session: cache and progress.
        draws: draw masks on the images.
    """
    truth = None if images.annotations is None else digest_file(images.annotations)
    predictors = {name: _Remembering(_quickest(sam)) for name, sam in models.items()}
    coco_results: dict[str, list[dict[str, Any]]] = {}
    with session.timed("check"):
        results = evaluate(
            predictors,
            images.samples,
            annotations=images.annotations,
            progress=session.progress,
            record_cache=RecordCache(
                session.cache, {name: digest(RECORDS, "check", key, truth) for name, key in keys.items()}
            ),
            coco_results=coco_results,
        )
        result = list(results.values())[-1]
        examples = (
            draw_examples(predictors, images.samples, result.by_image, progress=session.progress) if draws else []
        )
    seen = {sample.path for sample in used}
    about = EvaluationImages(
        images=result.images,
        prompts=result.prompts,
        kind=result.prompt_kind,
        seen=any(sample.path in seen for sample in images.samples),
        digest=digest([sample.labelled_digest() for sample in images.samples], truth),
    )
    return Check(results, about, examples, coco_results)


def _quickest(sam: Sam) -> Sam:
    """The same model as it computes fastest; a float model stays as it is."""
    is_quantized = any(isinstance(module, QuantizedLayer) for module in sam.model.modules())
    return integer_model(sam) if is_quantized and sam.device.type == "cpu" else sam


class _Remembering(SamPredictor):
    """A predictor that encodes an image once, though it is evaluated and drawn."""

    def __init__(self, sam: Sam) -> None:
        super().__init__(sam)
        self._known: dict[bytes, object] = {}

    def encode_image(self, image: Image.Image) -> None:
        """Encode an RGB image, or take what was kept of it."""
        key = hashlib.sha256(image.tobytes()).digest()
        if key in self._known:
            self.restore(self._known[key])
            return
        super().encode_image(image)
        if len(self._known) < _KEPT:
            self._known[key] = self.keep()
