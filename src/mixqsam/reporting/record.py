"""What is kept of a run beside the model: figures, times, versions, and which pictures show what.

It lies as `run.json` in every quantized directory; reports are made of it, and of nothing that needs the model.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixqsam.errors import ArtifactError, shortened

NAME = "run.json"
Which = Literal["worst", "median", "best"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Figures(_Strict):
    """One model of a run.

    Attributes:
        bits: what uniform bits it has, e.g. `W4A4`; empty for the others.
        size: bytes.
        bitops: per image.
        mean_iou: of its masks with the float model's.
        truth_iou: with the annotated masks.
        ap: COCO mask AP.
        kl: of its output from the float model's.
    """

    bits: str = ""
    size: float
    bitops: float
    mean_iou: float | None = None
    truth_iou: float | None = None
    ap: float | None = None
    kl: float | None = None


class Check(_Strict):
    """What the figures of quality were measured on.

    Attributes:
        images, prompts: how many.
        kind: of the prompts, e.g. `grid points`; empty in records of older versions.
        seen: whether these images were used for the calibration too.
        digest: the same for the same images and prompts.
    """

    images: int
    prompts: int
    kind: str = ""
    seen: bool
    digest: str


class Calibration(_Strict):
    """The images that a model was calibrated on.

    Attributes:
        seed: of the sample.
        images: their files, without the folders that all share.
    """

    seed: int
    images: list[str]


class Example(_Strict):
    """Pictures of one image.

    Attributes:
        which: of all images, by the IoU of the masks.
        image: the file's name.
        mean_iou: over all its prompts.
        prompts: how many it has.
        shown: how many of them are drawn, those with the lowest IoU.
        pictures: name of a model, or `difference` → file, relative to the directory.
    """

    which: Which
    image: str
    mean_iou: float
    prompts: int
    shown: int
    pictures: dict[str, str]


class Piece(_Strict):
    """How the reconstruction of one piece went.

    Attributes:
        piece: its name.
        before, after: squared distance to the float model's output, rounded to nearest and as deployed.
        iterations: done.
        ending: why it ended.
    """

    piece: str
    before: float
    after: float
    iterations: int
    ending: str


class Run(_Strict):
    """One run of `quantize`.

    Attributes:
        command: as it was given.
        options: as `mixqsam quantize --config` reads them; empty in runs of earlier versions.
        finished: date and time, ISO 8601.
        recipe: by name.
        versions: package → version.
        machine: what a reader needs to know of it.
        seconds: stage → wall time.
        models: `float`, `uniform`, `mixed` → figures.
        check: what these were measured on; None if they were not.
        calibration: images of the calibration; None in records of older versions.
        file_bytes: of `model.safetensors`.
        reconstruction: its pieces.
        examples: pictures.
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
    check: Check | None = None
    calibration: Calibration | None = None
    file_bytes: int = Field(ge=0)
    reconstruction: list[Piece] = Field(default_factory=list)
    examples: list[Example] = Field(default_factory=list)

    @classmethod
    def from_json(cls, value: Any, *, source: str) -> "Run":
        """Validate; `source` names the file in errors.

        Raises:
            ArtifactError: it is no record of a run, or malformed; says which field.
        """
        if not isinstance(value, dict) or value.get("format") != "mixqsam-run":
            raise ArtifactError(f"{source} is not the record of a run; it is written by `mixqsam quantize`.")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            detail = error.errors()[0]
            place = ".".join(str(part) for part in detail["loc"])
            wrong = shortened(f"{place}: {detail['msg']}")
            raise ArtifactError(f"{source}: {wrong}; quantize again to make it anew.") from error
