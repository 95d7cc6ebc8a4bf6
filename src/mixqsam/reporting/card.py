"""Write the model card of a quantized directory: what the hub shows, and how the model loads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixqsam.measurements import Analysis
from mixqsam.options.numbers import format_giga
from mixqsam.plan import HALF_BITS, BitPlan
from mixqsam.prompts import describe_basis
from mixqsam.reporting.page import QUALITIES
from mixqsam.reporting.record import Figures, Run
from mixqsam.reporting.verdict import describe_missing_uniform, describe_verdict

NAME = "README.md"
# Stands for the repository's name until the model is pushed.
REPOSITORY = "OWNER/NAME"
_TAGS = ("mixqsam", "segment-anything", "quantized", "mixed-precision")


@dataclass(frozen=True)
class CardContent:
    """Content of a model card; all of it is in the directory's records.

    Attributes:
        analysis: units of the model.
        allocation: allocation as JSON.
        run: record of the run.
        base_model: id of the float model on the hub; None for a model that is not there.
        licence: identifier of the licence; None for none.
    """

    analysis: Analysis
    allocation: Mapping[str, Any]
    run: Run
    base_model: str | None
    licence: str | None


def write_card(content: CardContent) -> str:
    """Write the card as Markdown with the hub's front matter."""
    analysis, run = content.analysis, content.run
    name = analysis.model.rstrip("/").rsplit("/", maxsplit=1)[-1]
    quantized = run.quantized
    lines = [
        *_front_matter(content),
        f"# {name}, quantized to {quantized.size / 1e6:.1f} MB",
        "",
        f"mixqsam quantized this Segment Anything Model after training. {_describe_bits(content)}",
        "",
        describe_verdict(run),
        "",
        *_figures(run),
        "",
        *_protocol(content),
        "",
        *_LOADING.strip().splitlines(),
        "",
    ]
    return "\n".join(lines)


def _front_matter(content: CardContent) -> list[str]:
    """The hub's metadata in YAML; JSON's texts are YAML's, too."""
    base = content.base_model
    values = [] if base is None else [f"base_model: {json.dumps(base)}", "base_model_relation: quantized"]
    values.append("library_name: mixqsam")
    values += [] if content.licence is None else [f"license: {json.dumps(content.licence)}"]
    values += ["pipeline_tag: mask-generation", "tags:", *(f"- {tag}" for tag in _TAGS)]
    return ["---", *values, "---", ""]


def _describe_bits(content: CardContent) -> str:
    units, plan = content.analysis.units, BitPlan.from_json(content.allocation["plan"])
    if content.allocation["objective"] is None:
        return f"All layers have the same bits, {content.run.quantized.bits}."
    total = max(1, sum(unit.parameters for unit in units))
    mean = sum(unit.parameters * plan.bits[unit.name].weight for unit in units) / total
    most = max(bits.activation for bits in plan.bits.values())
    in_float = " Activations of 16 bits stay in float." if most == HALF_BITS else ""
    return f"Every layer has a separate number of bits; the weights have {mean:.1f} on average.{in_float}"


def _figures(run: Run) -> list[str]:
    names = {"float": "float", "uniform": f"uniform {run.models.get('uniform', run.quantized).bits}"}
    own = run.quantized_name
    columns = {name: figures for name, figures in run.models.items() if name in {"float", "uniform", own}}
    headings = [f"**{names.get(name, 'this model')}**" if name == own else names[name] for name in columns]
    rows = [
        ["size", *(f"{figures.size / 1e6:.2f} MB" for figures in columns.values())],
        ["BitOps per image", *(f"{format_giga(figures.bitops)} G" for figures in columns.values())],
        *_quality_rows(columns),
    ]
    return [_line(["", *headings]), _line(["---", *["---:"] * len(columns)]), *map(_line, rows)]


def _quality_rows(columns: Mapping[str, Figures]) -> list[list[str]]:
    rows = []
    for key, heading, digits in QUALITIES:
        values = {name: getattr(figures, key) for name, figures in columns.items()}
        if key == "mean_iou" and any(value is not None for value in values.values()):
            values["float"] = 1.0
        if any(value is not None for value in values.values()):
            cells = ["–" if value is None else f"{value:.{digits}f}" for value in values.values()]
            rows.append([heading, *cells])
    return rows


def _protocol(content: CardContent) -> list[str]:
    run, check = content.run, content.run.check
    preset = f"the preset `{run.preset}`, " if run.preset else ""
    about = (
        "Weights and activations of encoder and decoder are quantized. The budget was "
        f"`{content.allocation['budget']['text']}`, {preset}the recipe `{run.recipe}`. "
        f"{content.analysis.images} images calibrated the model."
    )
    if check is None:
        measured = "The quality was not measured."
    else:
        usage = "used them, too" if check.seen else "did not use them"
        measured = (
            f"The quality was measured on {describe_basis(check.images, check.prompts, check.kind)}; the calibration "
            f"{usage}. Masks of integer kernels are those of a simulation in float."
        )
        measured = " ".join([measured, *describe_missing_uniform(run)])
    made = f"mixqsam {run.versions.get('mixqsam', '')} made the model with torch {run.versions.get('torch', '')}."
    return ["## How it was made and measured", "", f"{about} {measured} {made}"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_LOADING = f"""
## Use it

All of this needs the package `mixqsam`. Load the model in transformers:

```python
import mixqsam
from transformers import AutoModelForMaskGeneration

model = AutoModelForMaskGeneration.from_pretrained("{REPOSITORY}")
```

The predictor has the interface of segment-anything, and computes with integers where the processor can:

```python
import mixqsam
from huggingface_hub import snapshot_download

predictor = mixqsam.predictor(snapshot_download("{REPOSITORY}"))
```

ONNX Runtime and OpenVINO run an export, with the extras `mixqsam[onnx]` and `mixqsam[openvino]`:

```sh
hf download {REPOSITORY} --local-dir model
mixqsam export model --format onnx -o model-onnx
mixqsam export model --format openvino -o model-openvino
```

`mixqsam.predictor("model-onnx")` and `mixqsam.predictor("model-openvino")` load these files.
"""
