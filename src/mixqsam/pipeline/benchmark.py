"""The job that times a quantized model on every backend beside the float one."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mixqsam.artifact.store import CONFIG, is_quantized, load_model
from mixqsam.data.images import open_image
from mixqsam.deployed.backends import BACKENDS
from mixqsam.errors import ArtifactError, InputError
from mixqsam.evaluation.latency import measure_latency, peak_memory
from mixqsam.families import find_family, prepare
from mixqsam.files import read_json
from mixqsam.pipeline.estimate import announce, measure_speed, timing_stage
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import Session
from mixqsam.pipeline.stages import TORCH, check_backend, make_predictor
from mixqsam.pipeline.throughput import PointBatch, Throughput
from mixqsam.pipeline.timed_models import check_installed, make_middle_box, make_picture
from mixqsam.pipeline.unit_times import count_models, find_times, read_times
from mixqsam.plan import FLOAT as FLOAT_UNIT
from mixqsam.plan import BitPlan, Costs, UnitBits
from mixqsam.prediction import Predictor
from mixqsam.progress import begin_job, following
from mixqsam.runtime.build import simulated_units
from mixqsam.sam.automatic_options import Automatic
from mixqsam.sam.load import Sam, default_processor, load_sam
from mixqsam.sam.predictor import SamPredictor
from mixqsam.times import UnitTimes

FLOAT = "float32, PyTorch"
_ENDINGS = (".safetensors", *(ending for backend in BACKENDS.values() for ending in backend.endings))


@dataclass(frozen=True)
class Row:
    """One way to run a model.

    Attributes:
        name: which.
        encoder, decoder: median seconds.
        speedup: of the encoder, against float32 in PyTorch.
        memory: bytes that a process of its own needs, Python and libraries included.
        file_bytes: of the model's files; theoretical where units were timed.
        everything: how fast everything in an image is segmented; None where this was not measured.
    """

    name: str
    encoder: float
    decoder: float
    speedup: float
    memory: int | None
    file_bytes: int
    everything: Throughput | None = None


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        rows: the float model first; of units, the sums of their times where all have the same bits.
        size, bitops: theoretical, of the quantized model.
        threads: that PyTorch used; the other runtimes choose for themselves.
        image: width and height.
        units: backend → times of the units; empty where models were timed.
    """

    rows: Sequence[Row]
    size: float
    bitops: int
    threads: int
    image: tuple[int, int]
    units: Mapping[str, UnitTimes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def installed_backends() -> list[str]:
    """Backends that can be exported to and run here."""
    return [TORCH, *(name for name, backend in BACKENDS.items() if backend.is_installed)]


def check_everything(everything: bool, *, units: bool) -> None:
    """Refuse the time of segmenting everything where units are timed.

    Raises:
        InputError: both are wanted.
    """
    if everything and units:
        raise InputError("Units and segmenting everything are not timed together: leave out --everything or --units.")


def _note_units_in_float(sam: Sam, session: Session) -> None:
    """Say which units PyTorch does not compute in integers."""
    reasons = Counter(why for _, why in simulated_units(sam.model))
    for why, count in reasons.most_common():
        units = "1 quantized unit" if count == 1 else f"{count} quantized units"
        reason = why if count == 1 else re.sub(r"^its\b", "their", why)
        session.progress.note(f"PyTorch computes {units} in float: {reason}.")


def time_model(
    source: Path,
    *,
    backends: Sequence[str],
    units: bool,
    image: Path | None,
    runs: int,
    memory: bool,
    everything: bool,
    session: Session,
) -> Benchmark:
    """Time a quantized directory, or the units of a model; see `run_benchmark` and `run_unit_benchmark`.

    Args:
        source: a quantized directory; for units also a float model.
        backends: backends of `stages.BACKEND_NAMES`; none stands for all installed ones.
        units: measure the times of the units.
        image: image for the encoder; None for a synthetic one.
        runs: number of timed runs of each backend.
        memory: also measure memory.
        everything: also time a batch of points; not with `units`.
        session: cache and progress.

    Raises:
        ArtifactError: the source is not a quantized directory.
        InputError: a backend is unknown or not installed, or units are timed together with everything.
    """
    check_everything(everything, units=units)
    names = backends or installed_backends()
    if units:
        return run_unit_benchmark(source, backends=names, session=session)
    picture = None if image is None else open_image(image)
    return run_benchmark(
        source, backends=names, image=picture, runs=runs, memory=memory, session=session, everything=everything
    )


def run_benchmark(
    source: Path,
    *,
    backends: Sequence[str],
    image: Image.Image | None,
    runs: int,
    memory: bool,
    session: Session,
    everything: bool = False,
) -> Benchmark:
    """Time encoder and decoder of a quantized directory.

    The float model has the architecture of the quantized one and random weights (which time does not depend on), and
    PyTorch's fused attention. Where a backend needs files, they are made for the occasion.

    Args:
        source: a directory that `quantize` wrote.
        backends: backends of `stages.BACKEND_NAMES`.
        image: image for the encoder; None for a synthetic one of the encoder's resolution.
        runs: number of timed runs of each backend.
        memory: also measure memory, each backend in a separate process.
        session: receives the progress.
        everything: also time a batch of points, as segmenting everything prompts them.

    Raises:
        ArtifactError: the source is not a quantized directory.
        InputError: a backend is unknown or not installed.
    """
    if not is_quantized(source):
        raise ArtifactError(f"{source} is not a quantized directory; make one with `mixqsam quantize`.")
    for name in backends:
        check_backend(name)
    sam, manifest = load_model(source, integer=True)
    costs = sam.costs(prompts_per_image=manifest.prompts_per_image)
    plan = manifest.plan(costs)
    picture = image or make_picture(sam.image_size)
    prompts, points = make_middle_box(picture), PointBatch(picture, Automatic())
    if TORCH in backends:
        _note_units_in_float(sam, session)
    del sam
    with tempfile.TemporaryDirectory() as folder:
        places = {name: _export(source, name, Path(folder), session) for name in backends}
        makers = {FLOAT: partial(float_predictor, source)}
        makers |= {name: partial(make_predictor, place, backend=name) for name, place in places.items()}
        predictors: dict[str, Predictor] = {name: make() for name, make in makers.items()}
        batch = points.find if everything else None
        latencies = measure_latency(predictors, picture, prompts, runs=runs, progress=session.progress, batch=batch)
        del predictors
        peaks: dict[str, int | None] = dict.fromkeys(makers)
        if memory:
            tracked = session.progress.track(makers.items(), label="Memory", total=len(makers))
            peaks = {name: peak_memory(make, picture, prompts) for name, make in tracked}
        sizes = {FLOAT: int(costs.size(costs.float_plan))} | {name: _bytes(place) for name, place in places.items()}
    base = latencies[FLOAT].encoder
    rows = [
        Row(name, one.encoder, one.decoder, base / one.encoder, peaks[name], sizes[name], points.throughput(one))
        for name, one in latencies.items()
    ]
    return Benchmark(
        rows, costs.size(plan), costs.bitops(plan), torch.get_num_threads(), (picture.width, picture.height)
    )


def _export(source: Path, backend: str, folder: Path, session: Session) -> Path:
    """Make the files that a backend loads in a folder, and name their directory; PyTorch loads the source itself."""
    if backend == TORCH:
        return source
    run_export(source, folder / backend, kind=backend, session=session)
    return folder / backend


def run_unit_benchmark(source: Path, *, backends: Sequence[str], session: Session) -> Benchmark:
    """Measure the times of a model's units, or read those that were measured on this machine.

    Args:
        source: a float model, or a quantized directory, whose architecture then gets random weights.
        backends: backends of `stages.BACKEND_NAMES`.
        session: cache and progress.

    Raises:
        InputError: a backend is unknown or not installed, or the model cannot be exported to it.
    """
    for name in backends:
        check_installed(name)
    with session.timed("loading"):
        sam = _random_sam(source, attention="eager") if is_quantized(source) else load_sam(str(source))
    sam = replace(sam, model=prepare(sam.model))
    costs, picture = sam.costs(), make_picture(sam.image_size)
    with following(session.progress):
        missing = [name for name in backends if read_times(costs.units, name, session.cache) is None]
        stages = [timing_stage(measure_speed(sam, prompts=1), models=count_models(sam), parts=len(missing))]
        if missing:
            announce(stages, (), session)
            begin_job(session.progress, stages)
        times = {name: find_times(sam, name, session) for name in backends}
    rows = [row for name, found in times.items() for row in _unit_rows(name, replace(costs, times=found))]
    plan, size = costs.float_plan, (picture.width, picture.height)
    return Benchmark(rows, costs.size(plan), costs.bitops(plan), torch.get_num_threads(), size, units=times)


def _unit_rows(backend: str, costs: Costs) -> Iterator[Row]:
    """Rows of models whose units have the same bits: the sums of their times."""
    slowest = replace(costs, prompts_per_image=0).latency(costs.float_plan)
    for bits in (UnitBits(8, 8), UnitBits(4, 4), UnitBits(8, 16), UnitBits(16, 16), FLOAT_UNIT):
        plan = BitPlan.uniform(costs.units, bits)
        encoder = replace(costs, prompts_per_image=0).latency(plan)
        decoder = costs.latency(plan) - encoder
        yield Row(f"{backend}, {bits}", encoder, decoder, slowest / encoder, None, int(costs.size(plan)))


def float_predictor(source: Path) -> Predictor:
    """A float model of a quantized directory's architecture, with random weights and PyTorch's fused attention."""
    return SamPredictor(_random_sam(source, attention="sdpa"))


def _random_sam(source: Path, *, attention: str) -> Sam:
    """A model of a quantized directory's architecture with random weights."""
    values = read_json(source / CONFIG, what="the configuration of a quantized model")
    family = find_family(str(values["model_type"]), source=str(source))
    config = family.config.from_dict({name: value for name, value in values.items() if name != "quantization_config"})
    torch.manual_seed(0)
    model = family.model._from_config(config, attn_implementation=attention).eval().requires_grad_(False)
    for parameter in model.parameters():
        # Fresh models are almost zero in places, and numbers that small are slow.
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
    return Sam(model, default_processor(config), "random weights")


def _bytes(directory: Path) -> int:
    """Of the files that hold the model: weights, graphs, configuration."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.name.endswith(_ENDINGS))
