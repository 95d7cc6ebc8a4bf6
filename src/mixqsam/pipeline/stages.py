"""One function for each stage; the cache stores its result under the hash of its inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mixqsam.allocation.budget import Budget, UniformCosts, parse_keep
from mixqsam.allocation.choose import Allocation, allocate
from mixqsam.allocation.feasible import meets
from mixqsam.analysis.measure import MeasurementOptions, analyze
from mixqsam.artifact.store import is_quantized, load_model
from mixqsam.calibrate import Ranges, Watch, cached_ranges
from mixqsam.data.records import holds_masks
from mixqsam.data.samples import Sample, draw_calibration_samples
from mixqsam.deployed.backends import BACKENDS, backend_of
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import InputError
from mixqsam.evaluation.coco import Truth
from mixqsam.files import digest, read_json
from mixqsam.measurements import Analysis
from mixqsam.options.frames import split_frame
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, QuantizationOptions
from mixqsam.pipeline.session import Session, Source
from mixqsam.plan import BitPlan, Costs, UnitBits
from mixqsam.prediction import Predictor
from mixqsam.quantization.quantize import Quantized, quantize
from mixqsam.quantization.recipes import find_recipe
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor

# Tells a directory that `quantize` wrote.
MARKER = "allocation.json"
ANALYSIS = "analysis.json"
# PyTorch runs what is not exported.
TORCH = "torch"
BACKEND_NAMES = (TORCH, *BACKENDS)


def load(source: str | Path, *, device: str = "cpu") -> Sam:
    """Load a model: float (`sam-tiny`, directory, `.pth`, hub id) or a directory that mixqsam wrote.

    Raises:
        ModelError, ArtifactError: it cannot be loaded; the message says why.
    """
    path = Path(source).expanduser()
    if path.is_dir() and is_quantized(path):
        return load_model(path, device=device)[0]
    return load_sam(source, device=device)


def load_float(source: str | Path, session: Session) -> Sam:
    """Load the float model of a job, and say which one it is where its name has a size.

    Raises:
        InputError, ModelError: it cannot be loaded; the message says why.
    """
    sam = load_sam(source, device=session.device)
    note_frame(source, session)
    return sam


def note_frame(source: str | Path, session: Session) -> None:
    """Say which float model figures compare with, where its name has a size."""
    _, side = split_frame(source)
    if side is not None:
        session.progress.note(f"The float model is {source}: figures compare with it, at frames of {side} pixels.")


def note_frames(predictors: Mapping[str, Predictor], session: Session) -> None:
    """Say so where models that are compared see frames of different sizes."""
    sides = {name: predictor.frame_side for name, predictor in predictors.items()}
    if len(set(sides.values())) > 1:
        listed = ", ".join(f"{name} {side} pixels" for name, side in sides.items())
        session.progress.note(f"The frames differ in size, which agreement and AP include: {listed}.")


def make_predictor(source: str | Path, *, backend: str | None = None, device: str = "cpu") -> Predictor:
    """Make a predictor of a model, for any backend.

    Args:
        source: for `torch` a float model or a directory that mixqsam wrote (with integer arithmetic
            if possible); for `onnx` and `openvino` a directory that `export` wrote.
        backend: `torch`, `onnx` or `openvino`; None for the backend of the files.
        device: device of `torch`.

    Raises:
        InputError: the backend is unknown, not installed, or cannot run the model.
    """
    path = Path(source).expanduser()
    exported = backend_of(path)
    backend = backend or (exported.name if exported else TORCH)
    if backend == TORCH:
        if exported:
            raise InputError(f"{path} holds a model for {exported.name}, not for torch.")
        if path.is_dir() and is_quantized(path):
            return SamPredictor(load_model(path, device=device, integer=True)[0])
        return SamPredictor(load_sam(source, device=device))
    check_backend(backend)
    return ExportedPredictor(path, backend=backend)


def check_backend(name: str) -> None:
    """Check the name of a backend.

    Raises:
        InputError: it is unknown; the message lists the backends.
    """
    if name not in BACKEND_NAMES:
        raise InputError(f"The backend {name!r} is unknown; choose {', '.join(BACKEND_NAMES)}.")


def calibration_samples(data: Source, options: AnalysisOptions, session: Session) -> list[Sample]:
    """Select the images of calibration and analysis: a seeded sample, spread over folders."""
    samples = data.samples(count=options.count, progress=session.progress, seed=options.seed)
    return draw_calibration_samples(
        samples, count=options.count, prompts=options.prompts, progress=session.progress, seed=options.seed
    )


def select_left_over(everything: Sequence[Sample], used: Sequence[Sample], session: Session) -> list[Sample]:
    """Select the images that the calibration does not use; all images if it uses all."""
    seen = {sample.path for sample in used}
    rest = [sample for sample in everything if sample.path not in seen]
    if any(len(sample.prompts) for sample in rest):
        session.progress.note(f"Evaluating on images that the calibration does not use: {len(rest)}.")
        return rest
    session.progress.note("All images are used for calibration, so the evaluation uses them, too.")
    return list(everything)


def check_truth(data: Source) -> None:
    """Check before the long work that masks can be scored against the annotations.

    Raises:
        AnnotationError: they cannot be used.
    """
    if data.annotations is not None:
        Truth(data.annotations)


def select_annotations(data: Source, *, named: bool, session: Session) -> Path | None:
    """Select the annotations for the scores of masks, if any.

    Args:
        data: source of the evaluated images.
        named: whether the user named it for the evaluation; annotations of a calibration may hold boxes only.
        session: receives a note about annotations without masks.
    """
    if data.annotations is None or named or holds_masks(data.annotations):
        return data.annotations
    session.progress.note(f"{data.annotations} holds no masks, so the models are compared with the float one only.")
    return None


def find_ranges(
    sam: Sam, samples: Sequence[Sample], *, observer: str, session: Session, watch: Watch | None = None
) -> Ranges:
    """Calibrate, or use the cached calibration; `watch` is open while a sample passes."""
    with session.timed("calibration"):
        return cached_ranges(
            sam,
            samples,
            observer=observer,
            cache=session.cache,
            progress=session.progress,
            engine=session.engine,
            watch=watch,
        )


def analyze_model(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    options: AnalysisOptions,
    session: Session,
    observer: str | None = None,
    watch: Watch | None = None,
) -> Analysis:
    """Measure importance, synergy and sensitivities; measured images come from the cache.

    Only the sensitivities need a calibration. Its ranges are those of `observer`, by default the options' own, and
    `watch` is open while it passes a sample.
    """
    observer = observer or options.observer
    measured = bool(options.sensitivity_bits or options.fisher)
    ranges = find_ranges(sam, samples, observer=observer, session=session, watch=watch) if measured else None
    key = digest(sam.fingerprint, [sample.digest() for sample in samples])
    weights = session.grids.of(sam, observer=observer)
    with session.timed("analysis"), session.cache.lock("analysis", key, is_main_process=session.engine.rank == 0):
        return analyze(
            sam,
            samples,
            ranges=ranges,
            weights=weights,
            options=MeasurementOptions(
                importance=options.importance,
                pairs=options.importance and options.pairs,
                sensitivity_bits=options.sensitivity_bits,
                fisher=options.fisher,
                draws=options.fisher_draws,
            ),
            cache=session.cache,
            progress=session.progress,
            engine=session.engine,
        )


def quantize_model(
    sam: Sam, plan: BitPlan, samples: Sequence[Sample], *, options: QuantizationOptions, session: Session
) -> Quantized:
    """Quantize by a recipe; finished calibrations and pieces of a reconstruction come from the cache."""
    with session.timed("quantization"):
        return quantize(
            sam,
            plan,
            samples,
            recipe=find_recipe(options.recipe),
            cache=session.cache,
            progress=session.progress,
            grids=session.grids,
            options=options.reconstruction,
        )


def run_allocation(analysis: Analysis, budget: Budget, *, options: AllocationOptions, session: Session) -> Allocation:
    """Choose bits within a budget, from an analysis.

    Raises:
        BudgetError: no choice of bits fits, or a rule of `keep` matches no unit.
    """
    note_large_budget(analysis.costs, budget, options=options, session=session)
    label = f"Choosing bits, at most {options.time_limit:.0f} s"
    with session.timed("allocation"):
        (allocation,) = [
            choose_bits(analysis, budget, options=options)
            for _ in session.progress.track((None,), label=label, total=1)
        ]
    return allocation


def choose_bits(analysis: Analysis, budget: Budget, *, options: AllocationOptions) -> Allocation:
    """Choose bits within a budget by the options of the allocation.

    Raises:
        BudgetError: no choice of bits fits, or a rule of `keep` matches no unit.
    """
    return allocate(
        analysis,
        budget,
        objective=options.objective,
        candidates=options.choices,
        tied=options.tied,
        keep=options.keep,
        time_limit=options.time_limit,
    )


def note_large_budget(costs: Costs, budget: Budget, *, options: AllocationOptions, session: Session) -> None:
    """Say that a budget limits nothing: the float model meets it, or the most bits do."""
    if budget.uniform is not None:
        return
    most = max(options.choices)
    plan = BitPlan.uniform(costs.units, UnitBits(most, most))
    fixed = parse_keep(options.keep, names=list(plan.bits))
    plan = BitPlan({**plan.bits, **fixed})
    limits = budget.limits(costs, fixed=fixed)
    if not meets(costs, plan, limits) or any(isinstance(term, UniformCosts) for term in budget.terms):
        return
    taken = f"Bits go up to {most}, which take {costs.size(plan) / 1e6:.2f} MB."
    if meets(costs, costs.float_plan, limits):
        float_size = costs.size(costs.float_plan)
        session.progress.note(
            f"The float model ({float_size / 1e6:.2f} MB) meets the budget {budget}: nothing needs to be quantized. "
            f"{taken}"
        )
    else:
        session.progress.note(f"The budget {budget} is larger than the most bits need. {taken}")


def with_prompts(analysis: Analysis, options: AllocationOptions) -> Analysis:
    """Set the number of prompts in the BitOps, if the options have one."""
    return analysis if options.prompts_per_image is None else analysis.with_prompts(options.prompts_per_image)


def read_analysis(path: Path) -> Analysis:
    """Read an analysis file, or that of a quantized directory.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = path / ANALYSIS if path.is_dir() else path
    return Analysis.from_json(read_json(path, what="an analysis"), source=str(path))
