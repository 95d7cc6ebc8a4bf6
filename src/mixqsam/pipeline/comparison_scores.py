"""Quantize and judge the models of a comparison, each once; scores are cached."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from time import monotonic
from typing import Any

from mixqsam.calibrate import identify_passes
from mixqsam.data.samples import Sample
from mixqsam.evaluation.evaluate import EvaluationResult, evaluate_prompt_sets
from mixqsam.files import digest, digest_file
from mixqsam.measurements import Analysis
from mixqsam.pipeline.compared_images import ComparedImages
from mixqsam.pipeline.compared_models import ComparedModel
from mixqsam.pipeline.options import CompareRequest
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import quantize_model
from mixqsam.quantization.quantize import Quantized
from mixqsam.reporting.comparison import DetectorFigures, Row
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor

# Increase it when scores change their meaning, so that old ones in the cache are not used.
_VERSION = 1
_STAGE = "comparison"

# Name of a set of prompts → evaluation result, as JSON.
Results = Mapping[str, Mapping[str, Any]]


class Scores:
    """Quantizes and judges models; the cache has an entry for each model and set of prompts."""

    def __init__(
        self,
        sam: Sam,
        samples: Sequence[Sample],
        images: ComparedImages,
        *,
        request: CompareRequest,
        session: Session,
        keep_embeddings: bool = False,
    ) -> None:
        self._sam, self._samples, self._images = sam, samples, images
        self._request, self._session = request, session
        # The float model judges every other one: kept embeddings save it a pass over all images for each.
        self._float = SamPredictor(sam, embeddings=session.cache.root / "embeddings" if keep_embeddings else None)
        calibration = identify_passes(sam, samples)
        truth = images.annotations and digest_file(images.annotations)
        self._keys = {
            name: digest(_VERSION, *calibration, [sample.labelled_digest() for sample in judged], truth)
            for name, judged in images.prompt_sets.items()
        }

    def __call__(self, model: ComparedModel) -> tuple[Results, float]:
        """Return the results of a model, and the seconds of its quantization."""
        cache, recipe = self._session.cache, model.recipe
        settings = asdict(self._request.options.quantization.reconstruction) if recipe.method else None
        keys = {
            name: digest(key, recipe.key, settings, model.allocation.plan.to_json()) for name, key in self._keys.items()
        }
        scores = self._find(keys)
        missing = [name for name in keys if name not in scores]
        if missing:
            started = monotonic()
            quantized = self._quantize(model)
            # Where scores of other boxes are cached, so are parts of the quantization.
            seconds = max([monotonic() - started, *(float(score["seconds"]) for score in scores.values())])
            for name, results in self._evaluate({"quantized": quantized.sam}, missing).items():
                scores[name] = {"report": results["quantized"].to_json(), "seconds": seconds}
                cache.put(_STAGE, keys[name], scores[name])
                cache.put(_STAGE, self._keys[name], results["float"].to_json())
        in_order = {name: scores[name]["report"] for name in keys}
        return in_order, max(float(score["seconds"]) for score in scores.values())

    def reference(self) -> Results:
        """Return the float model's results."""
        results = self._find(self._keys)
        missing = [name for name in self._keys if name not in results]
        if missing:
            results |= {name: found["float"].to_json() for name, found in self._evaluate({}, missing).items()}
        return {name: results[name] for name in self._keys}

    def _find(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """Find cached values: name → value, for the names that have one."""
        found = {name: self._session.cache.get(_STAGE, key) for name, key in keys.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _quantize(self, model: ComparedModel) -> Quantized:
        self._session.progress.note(f"{model.recipe.name}, {model.budget}, {model.mode}: quantizing")
        return quantize_model(
            self._sam,
            model.allocation.plan,
            self._samples,
            options=replace(self._request.options.quantization, recipe=model.choice),
            session=self._session,
        )

    def _evaluate(self, models: Mapping[str, Sam], names: Sequence[str]) -> dict[str, dict[str, EvaluationResult]]:
        predictors = {"float": self._float, **{name: SamPredictor(sam) for name, sam in models.items()}}
        with self._session.timed("evaluation"):
            return evaluate_prompt_sets(
                predictors,
                {name: self._images.prompt_sets[name] for name in names},
                annotations=self._images.annotations,
                progress=self._session.progress,
            )


def make_row(model: ComparedModel, results: Results, seconds: float) -> Row:
    """Make the row of a quantized model."""
    allocation = model.allocation
    return Row(
        recipe=model.recipe.name,
        budget=model.budget.text,
        mode=model.mode,
        bits=allocation.budget.text if model.mode == "uniform" else "",
        size=allocation.size,
        bitops=allocation.bitops,
        seconds=seconds,
        **_make_figures(results),
    )


def make_float_row(analysis: Analysis, results: Results) -> Row:
    """Make the row of the float model."""
    costs = analysis.costs
    return Row(
        recipe="float",
        budget="",
        mode="float",
        bits="",
        size=costs.size(costs.float_plan),
        bitops=costs.bitops(costs.float_plan),
        seconds=0.0,
        **_make_figures(results),
    )


def _make_figures(results: Results) -> dict[str, Any]:
    """The figures of a row: means over the sets of prompts, and those of each set with a name."""
    each = {name: DetectorFigures(_read_ap(result), _read_iou(result)) for name, result in results.items()}
    return {
        "ap": _mean([figures.ap for figures in each.values()]),
        "truth_iou": _mean([result["truth_iou"] for result in results.values()]),
        "mean_iou": _mean([figures.mean_iou for figures in each.values()]),
        "by_detector": {name: figures for name, figures in each.items() if name},
    }


def _read_ap(result: Mapping[str, Any]) -> float | None:
    return float(result["coco"]["ap"]) if result["coco"] else None


def _read_iou(result: Mapping[str, Any]) -> float:
    """The mean IoU with the float masks; 1 for the float model, which has no fidelity."""
    return float(result["fidelity"]["mean_iou"]) if result["fidelity"] else 1.0


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
