"""What a user asks for, and the session that the asking belongs to."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mixqsam.allocation.program import Objective, Utility
from mixqsam.calibrate import GridLibrary
from mixqsam.data.coco import annotated_samples
from mixqsam.data.loose_boxes import boxed_samples
from mixqsam.data.samples import Sample, folder_samples
from mixqsam.files import Cache, default_cache
from mixqsam.parallel.engine import Alone, Engine
from mixqsam.plan import CANDIDATE_BITS
from mixqsam.progress import Progress, Silent
from mixqsam.quantization.reconstruction.method import ReconstructionOptions


class Source(Protocol):
    """Where samples come from."""

    @property
    def annotations(self) -> Path | None:
        """The COCO file that AP is scored against, if any."""
        ...

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> list[Sample]:
        """All samples, or at least `count`: the first, or with a seed those of a sample spread over folders."""
        ...


@dataclass(frozen=True)
class Data:
    """Images and their prompts, as a user names them.

    Attributes:
        images: a folder of images.
        annotations: a COCO file for them; without it each image is prompted with a grid of points.
        detections: a COCO-results file whose boxes take the place of the annotations' boxes.
        grid: points per side of the grid.
        skip_missing: leave out images that the folder does not hold, and count them.
    """

    images: Path
    annotations: Path | None = None
    detections: Path | None = None
    grid: int = 4
    skip_missing: bool = False

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> list[Sample]:
        """All samples, or (in a folder) `count`: the first, or with a seed those of a sample spread over folders.

        Detections without annotations prompt the images that they name; see `boxed_samples`.
        """
        if self.annotations is not None:
            return annotated_samples(
                self.annotations,
                images=self.images,
                detections=self.detections,
                skip_missing=self.skip_missing,
                progress=progress,
            )
        if self.detections is not None:
            return boxed_samples(self.detections, images=self.images, skip_missing=self.skip_missing, progress=progress)
        return folder_samples(self.images, count=count, grid=self.grid, progress=progress, seed=seed)


@dataclass(frozen=True)
class OrientedData:
    """An oriented data set, as a user names it.

    Attributes:
        images, labels: folders.
        boxes: folder of a detector's `Task2_<category>.txt`; None for the rectangles around the labelled objects.
        tile, overlap: pixels.
        merge: rotated IoU above which the weaker of two results of a category goes.
    """

    images: Path
    labels: Path
    boxes: Path | None = None
    tile: int = 1024
    overlap: int = 200
    merge: float = 0.1


@dataclass(frozen=True)
class SemanticData:
    """A data set of label maps, as a user names it.

    Attributes:
        images, labels: folders.
        prompts: `boxes` around regions, or `points` inside them.
        background: the class that fills what no mask covers, and gives no prompts.
        least: pixels of a region that prompts.
    """

    images: Path
    labels: Path
    prompts: str = "boxes"
    background: int | None = None
    least: int = 64


@dataclass(frozen=True)
class AnalysisOptions:
    """How a model is analysed.

    Attributes:
        count: calibration images.
        prompts: of each image, at most.
        observer: of the ranges that the sensitivity is measured with; `quantize` takes the recipe's.
        pairs: measure the synergy estimator `interaction` too.
        sensitivity_bits: where the `measured` utility is measured; empty for not at all.
        prompts_per_image: in the BitOps.
        seed: of the sample of calibration images.
    """

    count: int = 32
    prompts: int = 4
    observer: str = "omse"
    pairs: bool = True
    sensitivity_bits: tuple[int, ...] = (2, 4, 8)
    prompts_per_image: int = 1
    seed: int = 0


@dataclass(frozen=True)
class AllocationOptions:
    """How bits are chosen; the defaults are those of docs/experiments.md.

    Attributes:
        output: P_Y definition.
        utility: u(b).
        synergy: estimator.
        coupling: λ.
        tied: one bit-width for a unit's weight and activation.
        candidates: bit-widths to choose from.
        keep: fixed bits by pattern.
        time_limit: seconds for solving.
    """

    output: str = "bernoulli"
    utility: Utility = "exponential"
    synergy: str = "proximity"
    coupling: float = 0.0
    tied: bool = False
    candidates: tuple[int, ...] = CANDIDATE_BITS
    keep: tuple[str, ...] = ()
    time_limit: float = 50.0

    @property
    def objective(self) -> Objective:
        """The part that the program maximises."""
        return Objective(self.output, self.utility, self.synergy, self.coupling)


@dataclass(frozen=True)
class QuantizationOptions:
    """How a bit plan becomes a quantized model.

    Attributes:
        recipe: by name.
        reconstruction: how long, for the recipes that reconstruct.
    """

    recipe: str = "omse"
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)


@dataclass(frozen=True)
class Options:
    """All that can be chosen of a job; the defaults are the tool's.

    Attributes:
        analysis: how a model is analysed, and on how many images it is calibrated.
        allocation: how bits are chosen.
        quantization: by which recipe, and how long.
    """

    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    allocation: AllocationOptions = field(default_factory=AllocationOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)


@dataclass(frozen=True)
class Checking:
    """On what a finished model is compared with the float one.

    Attributes:
        data: images and prompts; None for those that the calibration leaves over, or if there are none, its own.
        limit: at most so many images; None for all, 0 for no comparison.
    """

    data: Source | None = None
    limit: int | None = 8


@dataclass
class Session:
    """One user's work: where stages are kept, who is told, and how long each stage took.

    Attributes:
        cache: finished stages.
        progress: listener.
        device: where models compute.
        engine: the group of processes that this one belongs to.
        grids: weights' grids, each searched once.
        seconds: stage → wall time; a stage found in the cache takes next to none.
        command: what the user said, for the record.
    """

    cache: Cache = field(default_factory=lambda: Cache(default_cache()))
    progress: Progress = field(default_factory=Silent)
    device: str = "cpu"
    engine: Engine = field(default_factory=Alone)
    grids: GridLibrary = field(default_factory=GridLibrary)
    seconds: dict[str, float] = field(default_factory=dict)
    command: str = ""

    def timed(self, stage: str) -> "_Timer":
        """A context that adds its wall time to a stage."""
        return _Timer(self.seconds, stage)


class _Timer:
    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + time.monotonic() - self._started
