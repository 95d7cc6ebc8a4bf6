"""The record of a run: figures, times, versions and pictures.

Every quantized directory contains it as `run.json`. Reports read it and do not need the model.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixqsam.errors import ArtifactError, shortened

NAME = "run.json"
Which = Literal["worst", "median", "best"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Figures(_Strict):
    """Figures of one model of a run.

    Attributes:
        bits: bits of a uniform model, e.g. `W4A4`; empty for the others.
        size: bytes.
        bitops: BitOps per image.
        mean_iou: mean IoU with the float model's masks.
        mean_iou_interval: its 95% interval; None for one image, and in records of older versions.
        iou_counts: prompts by their IoU with the float model's masks, in bins of equal width from 0 to 1.
        truth_iou: mean IoU with the annotated masks.
        ap: COCO mask AP.
        kl: KL divergence from the float model's output.
    """

    bits: str = ""
    size: float
    bitops: float
    mean_iou: float | None = None
    mean_iou_interval: tuple[float, float] | None = None
    iou_counts: list[int] = Field(default_factory=list)
    truth_iou: float | None = None
    ap: float | None = None
    kl: float | None = None


class TriedSize(_Strict):
    """A model that a search measured.

    Attributes:
        size: bytes.
        bitops: BitOps per image.
        quality: its quality, in the unit of the target.
    """

    size: float
    bitops: float
    quality: float


class Search(_Strict):
    """The search for the smallest model of a quality.

    Attributes:
        metric: `iou`, the mean IoU with the float masks, or `ap`, the share of the float model's AP.
        target: the least quality that the model keeps.
        size: bytes of the chosen model.
        reached: whether a model keeps the target on the images that judged.
        tried: the measured models, by size.
        images, prompts: numbers of images and prompts that judged.
        kind: kind of these prompts.
        advice: what to try where the target is not reached.
        final: quality of the chosen model on images that the search did not use; None if it is undefined there.
        interval: 95% interval of `final`; None if there are too few images.
    """

    metric: Literal["iou", "ap"]
    target: float
    size: float
    reached: bool
    tried: list[TriedSize]
    images: int
    prompts: int
    kind: str = ""
    advice: list[str] = Field(default_factory=list)
    final: float | None = None
    interval: tuple[float, float] | None = None


class Latency(_Strict):
    """Time of an image in the backend of the budget, on the machine of the run.

    Attributes:
        backend: name of the backend.
        threads: number of threads of the runtime.
        prompts: number of prompts of the image.
        limit: most seconds that the budget allows.
        predicted: seconds that the times of the units add up to.
        measured: median seconds of the finished model.
        float_predicted: as `predicted`, of the float model; None where the times of the units were not at hand.
        float_measured: median seconds of the float model in the same backend, in turns with the other.
        runs: number of timed runs of each.
    """

    backend: str
    threads: int
    prompts: int
    limit: float
    predicted: float
    measured: float
    float_predicted: float | None = None
    float_measured: float
    runs: int


class EvaluationImages(_Strict):
    """The images of the figures of quality.

    Attributes:
        images, prompts: numbers of images and prompts.
        kind: kind of the prompts, e.g. `grid points`; empty in records of older versions.
        seen: whether the calibration used these images, too.
        digest: hash of images and prompts.
    """

    images: int
    prompts: int
    kind: str = ""
    seen: bool
    digest: str


class CalibrationImages(_Strict):
    """The images that a model was calibrated on.

    Attributes:
        seed: of the sample.
        images: names of the files, without their common folders.
    """

    seed: int
    images: list[str]


class Example(_Strict):
    """Pictures of one image.

    Attributes:
        which: position among all images, by the IoU of the masks.
        image: name of the file.
        mean_iou: mean over its prompts.
        prompts: number of its prompts.
        shown: number of drawn prompts: one, in older records up to six with the lowest IoU.
        shown_iou: IoU of the one mask that is drawn; older records lack it.
        pictures: name of a model, or `difference` → file, relative to the directory.
    """

    which: Which
    image: str
    mean_iou: float
    prompts: int
    shown: int
    shown_iou: float | None = None
    pictures: dict[str, str]


class Piece(_Strict):
    """Reconstruction of one piece.

    Attributes:
        piece: name of the piece.
        before, after: squared distance to the float model's output, rounded to nearest and as deployed.
        iterations: number of iterations.
        ending: reason of its end.
    """

    piece: str
    before: float
    after: float
    iterations: int
    ending: str


class Run(_Strict):
    """One run of `quantize`.

    Attributes:
        command: command line.
        options: options as `mixqsam quantize --config` reads them; empty in runs of earlier versions.
        finished: date and time, ISO 8601.
        recipe: name of the recipe.
        versions: package → version.
        machine: processor, cores and system.
        seconds: stage → wall time.
        models: `float`, `uniform`, `mixed` → figures. The run of a uniform budget has no `mixed`.
        check: images of the figures of quality; None without these figures.
        calibration: images of the calibration; None in records of older versions.
        file_bytes: size of `model.safetensors`.
        reconstruction: reconstructed pieces.
        examples: pictures of examples.
        search: the search for the smallest model, after a budget that names a quality.
        latency: predicted and measured time, after a budget that limits the latency.
    """

    format: Literal["mixqsam-run"] = "mixqsam-run"
    version: Literal[1] = 1
    command: str
    options: dict[str, Any] = Field(default_factory=dict)
    finished: str
    recipe: str
    versions: dict[str, str]
    machine: dict[str, str]
    seconds: dict[str, float]
    models: dict[str, Figures]
    check: EvaluationImages | None = None
    calibration: CalibrationImages | None = None
    file_bytes: int = Field(ge=0)
    reconstruction: list[Piece] = Field(default_factory=list)
    examples: list[Example] = Field(default_factory=list)
    search: Search | None = None
    latency: Latency | None = None

    @property
    def preset(self) -> str:
        """Name of the preset of the run; empty without one."""
        return str(self.options.get("preset") or "")

    @property
    def quantized_name(self) -> str:
        """Name of the model that the run wrote: `mixed`, or `uniform` after a uniform budget."""
        return "mixed" if "mixed" in self.models else "uniform"

    @property
    def quantized(self) -> Figures:
        """Figures of the model that the run wrote."""
        return self.models[self.quantized_name]

    @property
    def lacks_uniform(self) -> bool:
        """Whether quality was measured, but the uniform model was not made for the comparison."""
        uniform = self.models.get("uniform")
        if uniform is None or self.check is None or self.quantized_name == "uniform":
            return False
        return uniform.mean_iou is None

    @classmethod
    def from_json(cls, value: Any, *, source: str) -> "Run":
        """Validate; `source` names the file in errors.

        Raises:
            ArtifactError: the value is not the record of a run, or is malformed; the message names the field.
        """
        if not isinstance(value, dict) or value.get("format") != "mixqsam-run":
            raise ArtifactError(f"{source} is not the record of a run; it is written by `mixqsam quantize`.")
        try:
            run = cls.model_validate(value)
        except ValidationError as error:
            detail = error.errors()[0]
            place = ".".join(str(part) for part in detail["loc"])
            problem = shortened(f"{place}: {detail['msg']}")
            raise ArtifactError(f"{source}: {problem}; run `mixqsam quantize` again.") from error
        if "float" not in run.models or run.quantized_name not in run.models:
            raise ArtifactError(f"{source} lacks the figures of its models; run `mixqsam quantize` again.")
        return run
