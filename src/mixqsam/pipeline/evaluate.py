"""Evaluate models by COCO masks or by their fidelity; read origins and costs of models on disk."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixqsam.allocation.choose import Allocation
from mixqsam.artifact.store import CONFIG
from mixqsam.deployed.backends import backend_of
from mixqsam.errors import InputError, ModelError
from mixqsam.evaluation.evaluate import EvaluationResult, evaluate
from mixqsam.evaluation.image_records import RecordCache
from mixqsam.files import digest, digest_file, read_json, write_json
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import MARKER, load, make_predictor, note_frame, read_analysis
from mixqsam.prediction import Predictor
from mixqsam.sam.predictor import SamPredictor

# Increase it when records of the evaluation change their meaning, so that old ones in the cache are not used.
RECORDS = 1


def run_evaluation(
    models: Mapping[str, str | Path],
    data: Source,
    *,
    limit: int | None,
    session: Session,
    best_of_three: bool = False,
    dynamic_multimask: bool = True,
    keep_embeddings: bool = False,
    results: Path | None = None,
) -> dict[str, EvaluationResult]:
    """Evaluate models side by side; the first is the reference. With annotations, COCO mask AP as well.

    The cache stores each image's records, so a stopped run resumes, and a finished model does not run again.

    Args:
        models: name → float model, quantized directory, or exported directory.
        data: images and prompts.
        limit: maximum number of images.
        session: cache, progress, device, group of processes.
        best_of_three: let the models choose among three masks.
        dynamic_multimask: let SAM 2 and SAM 3 replace a single mask of low stability by the best of three.
        keep_embeddings: keep the reference's image embeddings (4.2 MB an image for a full-size SAM) for the next model
            that is compared with it.
        results: file for the COCO results of the last model; those of others go to files beside it, see
            `result_paths`. None to write none.

    Raises:
        InputError: results are wanted, but there are no annotations; or a model cannot go without `dynamic_multimask`.
    """
    if results is not None and data.annotations is None:
        raise InputError("COCO results need --annotations: only these have the ids of images and categories.")
    check_single_masks([str(source) for source in models.values()], dynamic_multimask=dynamic_multimask)
    samples = data.samples(count=limit, progress=session.progress)[:limit]
    loaded = {
        name: _load_with_key(source, session, dynamic_multimask=dynamic_multimask) for name, source in models.items()
    }
    truth = None if data.annotations is None else digest_file(data.annotations)
    reference, first = next(iter(loaded.values()))
    note_frame(next(iter(models.values())), session)
    if keep_embeddings and isinstance(first, SamPredictor):
        first.embeddings = session.cache.root / "embeddings"
    keys = {name: digest(RECORDS, key, reference, truth, best_of_three) for name, (key, _) in loaded.items()}
    predictors = {name: predictor for name, (_, predictor) in loaded.items()}
    coco_results: dict[str, list[dict[str, Any]]] | None = None if results is None else {}
    scores = evaluate(
        predictors,
        samples,
        annotations=data.annotations,
        progress=session.progress,
        best_of_three=best_of_three,
        engine=session.engine,
        record_cache=RecordCache(session.cache, keys),
        coco_results=coco_results,
    )
    if results is not None and coco_results is not None and not session.engine.rank:
        for name, path in result_paths(results, list(models)).items():
            write_json(path, coco_results[name])
    return scores


def result_paths(path: Path, names: Sequence[str]) -> dict[str, Path]:
    """Name the file of each model's COCO results; the first name is the reference.

    The file itself holds the only model that is compared with the reference, or the reference alone. Several models
    have files beside it: `results-1-out.json`, `results-2-other.json`.
    """
    compared = list(names[1:]) or list(names)
    if len(compared) == 1:
        return {compared[0]: path}
    return {
        name: path.with_name(f"{path.stem}-{number}-{re.sub(r'[^A-Za-z0-9.-]+', '_', Path(name).name)}{path.suffix}")
        for number, name in enumerate(compared, start=1)
    }


def check_single_masks(sources: Sequence[str], *, dynamic_multimask: bool) -> None:
    """Check that models may go without `dynamic_multimask`, as far as this needs no loading.

    Raises:
        InputError: an exported model is to go without.
    """
    for path in () if dynamic_multimask else [Path(source).expanduser() for source in sources]:
        if backend := backend_of(path):
            raise InputError(
                f"{path} holds files for {backend.title}, which cannot change how a mask is chosen; evaluate the "
                "directory that they were exported from, or leave out --no-dynamic-multimask."
            )


def _load_with_key(source: str | Path, session: Session, *, dynamic_multimask: bool) -> tuple[str, Predictor]:
    """Load a model's fingerprint and its predictor: quantization is simulated, except in exported files."""
    path = Path(source).expanduser()
    if backend_of(path):
        files = sorted(file for file in path.iterdir() if file.is_file())
        return digest([digest_file(file) for file in files]), make_predictor(path)
    sam = load(source, device=session.device)
    if dynamic_multimask:
        return sam.fingerprint, SamPredictor(sam)
    if sam.family.hold_single_mask is None:
        raise InputError(
            f"{source} is a {sam.family.title}, whose single mask is never replaced; leave out --no-dynamic-multimask, "
            "which is for SAM 2 and SAM 3."
        )
    sam.family.hold_single_mask(sam.model)
    return digest(sam.fingerprint, "single mask"), SamPredictor(sam)


def with_reference(models: Sequence[str], reference: str | None) -> dict[str, str]:
    """Name → source of models to compare, the reference first: the named one, or the first model's float model.

    Raises:
        ModelError: the float model of the first directory is unknown.
    """
    first = reference or (float_source(Path(models[0])) if Path(models[0]).is_dir() else models[0])
    return {name_reference(first): first} | {model: model for model in models if model != first}


def name_reference(source: str) -> str:
    """`float`, or `reference` for a quantized or exported directory, which other models may be compared with."""
    directory = Path(source)
    is_float = not (directory / MARKER).is_file() and backend_of(directory) is None
    return "float" if is_float else "reference"


def float_source(directory: Path) -> str:
    """The float model that a quantized directory was made from, as its user named it.

    Raises:
        ModelError: `quantize` did not write the directory.
    """
    if backend := backend_of(directory):
        raise ModelError(
            f"{directory} holds files for {backend.title}; name the float model beside it with --reference."
        )
    values = read_json(directory / CONFIG, what="the configuration of a quantized model")
    try:
        return str(values["quantization_config"]["source"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{directory} was not made by mixqsam; name the float model with --reference.") from error


def stored_costs(directory: Path) -> dict[str, float]:
    """`size` and `bitops` of a quantized directory; nothing for any other path."""
    if not (directory / MARKER).is_file():
        return {}
    allocation = Allocation.from_json(read_json(directory / MARKER, what="an allocation"), source=str(directory))
    return {"size": allocation.size, "bitops": allocation.bitops}


def float_costs(directory: Path) -> dict[str, float]:
    """`size` and `bitops` of the float model that a quantized directory was made from."""
    costs = read_analysis(directory).costs
    return {"size": costs.size(costs.float_plan), "bitops": costs.bitops(costs.float_plan)}
