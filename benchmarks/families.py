"""Every family at full size: units, sizes, and (with --times) seconds of the encoder, float and quantized.

python -m benchmarks.families                          # units and sizes, no weights: half a minute
python -m benchmarks.families --times                  # random weights at W4A4 on the CPU; rows that are there are kept
python -m benchmarks.families --times --only sam2.1-hiera-tiny
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Sam2Config, Sam3TrackerConfig, SamConfig, SamHQConfig

from benchmarks.experiments_page import fill
from benchmarks.harness import machine, medians
from benchmarks.importance_cost import photograph
from benchmarks.performance_tables import line
from mixqsam.families import family_of, prepare
from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.families.sam2_layout import SIZES
from mixqsam.families.sam_hq_light_config import SamHqLightConfig
from mixqsam.files import Cache, read_json, write_json
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.runtime.build import integer_model
from mixqsam.sam.forward import encode, make_frame
from mixqsam.sam.load import Sam, default_processor
from mixqsam.sam.units import count_costs

OUTPUT = Path("docs/data/families.json")
PAGE = Path("docs/families.md")
# Tables have at most eight rows; the file has all models.
NOT_SHOWN = ("sam2.1-hiera-small",)


def sam2(width: int, depths: tuple[int, ...]) -> Sam2Config:
    """A released size of SAM 2.1."""
    heads, windows, spans = SIZES[width, depths]
    dims = [width << stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "embed_dim_per_stage": dims,
        "blocks_per_stage": list(depths),
        "num_attention_heads_per_stage": [heads << stage for stage in range(4)],
        "window_size_per_stage": list(windows),
        "global_attention_blocks": list(spans),
        "window_positional_embedding_background_size": [14, 14] if width == 112 else [7, 7],
    }
    vision = {"model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": dims[::-1]}
    return Sam2Config(vision_config=vision)


MODELS: dict[str, Callable[[], Any]] = {
    "sam-vit-base": SamConfig,
    "mobile-sam": MobileSamConfig,
    "sam-hq-vit-base": SamHQConfig,
    "sam-hq-vit-tiny": SamHqLightConfig,
    "sam2.1-hiera-tiny": lambda: sam2(96, (1, 2, 7, 2)),
    "sam2.1-hiera-small": lambda: sam2(96, (1, 2, 11, 2)),
    "sam2.1-hiera-base-plus": lambda: sam2(112, (2, 3, 16, 3)),
    "sam2.1-hiera-large": lambda: sam2(144, (2, 6, 36, 4)),
    "sam3-tracker": Sam3TrackerConfig,
}


def count(config: Any) -> dict[str, float]:
    """What a model without weights says of itself."""
    costs = count_costs(config)
    plan = BitPlan.uniform(costs.units, UnitBits(4, 4))
    return {
        "units": len(costs.units),
        "encoder_gmacs": sum(unit.multiply_adds for unit in costs.units if unit.part == "encoder") / 1e9,
        "float_mb": costs.size(costs.float_plan) / 1e6,
        "w4a4_mb": costs.size(plan) / 1e6,
    }


@torch.no_grad()
def random_sam(config: Any) -> Sam:
    """A model with random weights that are not degenerate."""
    torch.manual_seed(0)
    model = family_of(config).model._from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
    return Sam(prepare(model).eval().requires_grad_(False), default_processor(config), "random")


def time_encoder(config: Any, *, repeats: int) -> dict[str, float]:
    """Median seconds of the image encoder, float and at W4A4 in whole numbers; the models alternate."""
    sam = random_sam(config)
    with tempfile.TemporaryDirectory() as folder:
        sample = photograph(Path(folder))
        plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
        cache = Cache(Path(folder))
        made = quantize(sam, plan, [sample], recipe=RECIPES["minmax"], cache=cache, progress=Silent()).sam
        integer, frame = integer_model(made), make_frame(sam, sample.open())
    actions = {"float_seconds": lambda: encode(sam, frame), "w4a4_seconds": lambda: encode(integer, frame)}
    medians(actions, repeats=1)
    return medians(actions, repeats=repeats)


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows of the page."""
    head = ["model", "units", "encoder", "float", "W4A4", "encoder float", "encoder W4A4"]
    lines = [line(head), line(["---", *["---:"] * (len(head) - 1)])]
    for name, row in rows.items():
        if name in NOT_SHOWN:
            continue
        times = [f"{row[key]:.2f} s" if key in row else "–" for key in ("float_seconds", "w4a4_seconds")]
        sizes = [f"{row['float_mb']:.0f} MB", f"{row['w4a4_mb']:.1f} MB"]
        lines.append(line([f"`{name}`", f"{row['units']:.0f}", f"{row['encoder_gmacs']:.0f} GMAC", *sizes, *times]))
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, measure what is not known yet, write the file and the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--only", choices=list(MODELS), nargs="*", default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    known = read_json(OUTPUT, what="results of a benchmark") if OUTPUT.is_file() else {"models": {}}
    for name in arguments.only:
        row = known["models"].setdefault(name, {})
        row |= count(MODELS[name]())
        if arguments.times and "w4a4_seconds" not in row:
            known["machine"] = machine()
            row |= time_encoder(MODELS[name](), repeats=arguments.repeats)
        # After each model, so that a run that was stopped goes on where it was.
        write_json(OUTPUT, known)
        print(name, row, flush=True)
    known["models"] = {name: known["models"][name] for name in MODELS if name in known["models"]}
    write_json(OUTPUT, known)
    fill(PAGE, {"families": table(known["models"])})


if __name__ == "__main__":
    main()
