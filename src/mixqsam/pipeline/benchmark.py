"""The job that times a quantized model on every backend beside the float one."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mixqsam.artifact.store import CONFIG, is_quantized, load_model
from mixqsam.deployed.backends import BACKENDS
from mixqsam.errors import ArtifactError
from mixqsam.evaluation.latency import measure_latency, peak_memory
from mixqsam.families import find_family
from mixqsam.files import read_json
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import Session
from mixqsam.pipeline.stages import TORCH, check_backend, make_predictor
from mixqsam.pipeline.timed_models import make_middle_box, make_picture
from mixqsam.prediction import Predictor
from mixqsam.runtime.build import simulated_units
from mixqsam.sam.load import Sam, default_processor
from mixqsam.sam.predictor import SamPredictor

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
        file_bytes: of the model's files.
    """

    name: str
    encoder: float
    decoder: float
    speedup: float
    memory: int | None
    file_bytes: int


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        rows: the float model first.
        size, bitops: theoretical, of the quantized model.
        threads: that PyTorch used; the other runtimes choose for themselves.
        image: width and height.
    """

    rows: Sequence[Row]
    size: float
    bitops: int
    threads: int
    image: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def installed_backends() -> list[str]:
    """Backends that can be exported to and run here."""
    return [TORCH, *(name for name, backend in BACKENDS.items() if backend.is_installed)]


def _note_units_in_float(sam: Sam, session: Session) -> None:
    """Say which units PyTorch does not compute in integers."""
    reasons = Counter(why for _, why in simulated_units(sam.model))
    for why, count in reasons.most_common():
        session.progress.note(f"PyTorch computes {count} quantized units in float: {why}.")


def run_benchmark(
    source: Path,
    *,
    backends: Sequence[str],
    image: Image.Image | None,
    runs: int,
    memory: bool,
    session: Session,
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
    prompts = make_middle_box(picture)
    if TORCH in backends:
        _note_units_in_float(sam, session)
    del sam
    with tempfile.TemporaryDirectory() as folder:
        places = {name: source if name == TORCH else Path(folder) / name for name in backends}
        for name in backends:
            if name != TORCH:
                run_export(source, places[name], kind=name, session=session)
        makers = {FLOAT: partial(float_predictor, source)}
        makers |= {name: partial(make_predictor, place, backend=name) for name, place in places.items()}
        predictors: dict[str, Predictor] = {name: make() for name, make in makers.items()}
        latencies = measure_latency(predictors, picture, prompts, runs=runs, progress=session.progress)
        del predictors
        peaks: dict[str, int | None] = dict.fromkeys(makers)
        if memory:
            tracked = session.progress.track(makers.items(), label="Memory", total=len(makers))
            peaks = {name: peak_memory(make, picture, prompts) for name, make in tracked}
        sizes = {FLOAT: int(costs.size(costs.float_plan))} | {name: _bytes(place) for name, place in places.items()}
    rows = [
        Row(
            name,
            latency.encoder,
            latency.decoder,
            latencies[FLOAT].encoder / latency.encoder,
            peaks[name],
            sizes[name],
        )
        for name, latency in latencies.items()
    ]
    return Benchmark(
        rows, costs.size(plan), costs.bitops(plan), torch.get_num_threads(), (picture.width, picture.height)
    )


def float_predictor(source: Path) -> Predictor:
    """A float model of a quantized directory's architecture, with random weights and PyTorch's fused attention."""
    values = read_json(source / CONFIG, what="the configuration of a quantized model")
    family = find_family(str(values["model_type"]), source=str(source))
    config = family.config.from_dict({name: value for name, value in values.items() if name != "quantization_config"})
    torch.manual_seed(0)
    model = family.model._from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    for parameter in model.parameters():
        # Fresh models are almost zero in places, and numbers that small are slow.
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
    return SamPredictor(Sam(model, default_processor(config), "random weights"))


def _bytes(directory: Path) -> int:
    """Of the files that hold the model: weights, graphs, configuration."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.name.endswith(_ENDINGS))
