"""The options that several commands share, in the words of `--help`."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", "-m", help="sam-tiny (embedded), a directory, Meta's .pth, or a hub id.")
]
Images = Annotated[Path, typer.Option("--images", "-i", help="Folder of images (jpg, png, webp).")]
Annotations = Annotated[
    Path | None,
    typer.Option(help="COCO annotation file of the images; its boxes are prompts.", rich_help_panel="Images"),
]
Detections = Annotated[
    Path | None,
    typer.Option("--boxes", help="COCO-results JSON whose boxes are the prompts.", rich_help_panel="Images"),
]
SkipMissing = Annotated[
    bool,
    typer.Option("--skip-missing", help="Leave out images that the folder does not hold.", rich_help_panel="Images"),
]
Grid = Annotated[
    int,
    typer.Option(min=1, max=64, help="Without annotations: prompt with GRID × GRID points.", rich_help_panel="Images"),
]
EvalImages = Annotated[
    Path | None,
    typer.Option(help="Images to compare on; default: those the calibration leaves over.", rich_help_panel="Images"),
]
EvalAnnotations = Annotated[Path | None, typer.Option(help="Their COCO annotations, for AP.", rich_help_panel="Images")]
EvalBoxes = Annotated[
    Path | None, typer.Option(help="COCO-results JSON whose boxes are their prompts.", rich_help_panel="Images")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many images.")]
Reference = Annotated[
    str | None, typer.Option("--float", help="The float model; default: the one the first was made from.")
]
Count = Annotated[int, typer.Option("--count", "-n", min=1, help="Calibration images.", rich_help_panel="Analysis")]
Prompts = Annotated[
    int, typer.Option(min=1, help="Prompts of each calibration image, at most.", rich_help_panel="Analysis")
]
# For the shell, which must not wait for what the recipes are made of; a test holds them equal.
RECIPE_NAMES = (
    "minmax",
    "percentile",
    "omse",
    "adaround",
    "brecq",
    "qdrop",
    "ptq4sam-s",
    "ptq4sam-l",
    "ahcptq",
    "saq-sam",
)


def _recipe_names(typed: str) -> list[str]:
    return [name for name in RECIPE_NAMES if name.startswith(typed)]


def _backends(typed: str) -> list[str]:
    return [name for name in ("onnx", "openvino") if name.startswith(typed)]


Recipe_ = Annotated[
    str,
    typer.Option("--recipe", "-r", help="How to quantize; `mixqsam recipes` lists them.", autocompletion=_recipe_names),
]
Format = Annotated[str, typer.Option("--format", "-f", help="onnx or openvino.", autocompletion=_backends)]
Iterations = Annotated[
    int,
    typer.Option(min=1, help="Of a reconstruction, on each block at most.", rich_help_panel="Reconstruction"),
]
Batch = Annotated[int, typer.Option(min=1, help="Images in a step.", rich_help_panel="Reconstruction")]
Seed = Annotated[int, typer.Option(help="Of what is drawn by chance.", rich_help_panel="Reconstruction")]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="Refuse to run unless torchrun launched so many processes; they share the work."),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, …")]
Observer = Annotated[
    str, typer.Option(help="minmax, avgminmax, percentile, omse or omse-2.4.", rich_help_panel="Analysis")
]
Bits = Annotated[
    str,
    typer.Option(
        "--sensitivity-bits",
        help="Where the sensitivity is measured, for --utility measured; '' for none.",
        rich_help_panel="Analysis",
    ),
]
Pairs = Annotated[
    bool,
    typer.Option(
        "--pairs/--no-pairs", help="Measure the synergy estimator 'interaction' too.", rich_help_panel="Analysis"
    ),
]
PromptsPerImage = Annotated[
    int, typer.Option(min=1, help="Prompts per image that the BitOps count.", rich_help_panel="Allocation")
]
Budget = Annotated[
    str,
    typer.Option(
        "--budget",
        "-b",
        help="W4A4 (as that uniform model), 12.5MB, 0.2x, bitops=3T, bitops=0.03x; several by commas. "
        "uniform:W4A4 gives all units the same bits.",
    ),
]
Output_ = Annotated[
    str, typer.Option("--output-distribution", help="P_Y: bernoulli or spatial.", rich_help_panel="Allocation")
]
Utility_ = Annotated[
    str,
    typer.Option(
        "--utility", help="u(b): linear (the paper's), exponential or measured.", rich_help_panel="Allocation"
    ),
]
Synergy = Annotated[str, typer.Option(help="proximity (the paper's) or interaction.", rich_help_panel="Allocation")]
Coupling = Annotated[
    float,
    typer.Option(
        "--lambda", min=0.0, help="Weight of the synergy; 1 is as strong as utility.", rich_help_panel="Allocation"
    ),
]
Free = Annotated[
    bool, typer.Option("--free/--tied", help="Choose weight and activation bits apart.", rich_help_panel="Allocation")
]
Candidates = Annotated[
    str, typer.Option(help="Bit-widths to choose from, e.g. 2-8 or 2,4,8.", rich_help_panel="Allocation")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="Fix bits by pattern: 'neck.*=8', '*.av=W8A8', '*=float'.", rich_help_panel="Allocation"),
]
TimeLimit = Annotated[float, typer.Option(min=1.0, help="Seconds for solving.", rich_help_panel="Allocation")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that mixqsam wrote before.")]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", help="Where finished stages are kept.", show_default=False)
]
