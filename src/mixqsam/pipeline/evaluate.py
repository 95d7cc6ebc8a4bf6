"""Evaluate models by COCO masks or by their fidelity; read origins and costs of models on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mixqsam.allocation.choose import Allocation
from mixqsam.artifact.store import CONFIG
from mixqsam.deployed.backends import backend_of
from mixqsam.errors import ModelError
from mixqsam.evaluation.evaluate import EvaluationResult, RecordCache, evaluate
from mixqsam.files import digest, digest_file, read_json
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import MARKER, load, make_predictor, read_analysis
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
    keep_embeddings: bool = False,
) -> dict[str, EvaluationResult]:
    """Evaluate models side by side; the first is the reference. With annotations, COCO mask AP as well.

    The cache stores each image's records, so a stopped run resumes, and a finished model does not run again.

    Args:
        models: name → float model, quantized directory, or exported directory.
        data: images and prompts.
        limit: maximum number of images.
        session: cache, progress, device, group of processes.
        best_of_three: let the models choose among three masks.
        keep_embeddings: keep the reference's image embeddings (4.2 MB an image for a full-size SAM) for the next model
            that is compared with it.
    """
    samples = data.samples(count=limit, progress=session.progress)[:limit]
    loaded = {name: _load_with_key(source, session) for name, source in models.items()}
    truth = None if data.annotations is None else digest_file(data.annotations)
    reference, first = next(iter(loaded.values()))
    if keep_embeddings and isinstance(first, SamPredictor):
        first.embeddings = session.cache.root / "embeddings"
    keys = {name: digest(RECORDS, key, reference, truth, best_of_three) for name, (key, _) in loaded.items()}
    predictors = {name: predictor for name, (_, predictor) in loaded.items()}
    return evaluate(
        predictors,
        samples,
        annotations=data.annotations,
        progress=session.progress,
        best_of_three=best_of_three,
        engine=session.engine,
        record_cache=RecordCache(session.cache, keys),
    )


def _load_with_key(source: str | Path, session: Session) -> tuple[str, Predictor]:
    """Load a model's fingerprint and its predictor: quantization is simulated, except in exported files."""
    path = Path(source).expanduser()
    if backend_of(path):
        files = sorted(file for file in path.iterdir() if file.is_file())
        return digest([digest_file(file) for file in files]), make_predictor(path)
    sam = load(source, device=session.device)
    return sam.fingerprint, SamPredictor(sam)


def with_reference(models: Sequence[str], reference: str | None) -> dict[str, str]:
    """Name → source of models to compare, the float model first: the named one, or the first model's origin.

    Raises:
        ModelError: the float model of the first directory is unknown.
    """
    first = reference or (float_source(Path(models[0])) if Path(models[0]).is_dir() else models[0])
    return {"float": first} | {model: model for model in models if model != first}


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
