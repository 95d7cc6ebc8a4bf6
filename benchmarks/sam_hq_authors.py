"""Compare SAM-HQ with its authors' code, on random weights at full size.

    git clone https://github.com/SysCV/sam-hq
    python -m benchmarks.sam_hq_authors --code sam-hq

For each size, the authors' code writes a checkpoint with random weights, which mixqsam loads. Both get the same frame
and the same box. The same is measured with transformers' own mask decoder in place. Takes about a minute.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.sam_hq.modeling_sam_hq import SamHQMaskDecoder

from benchmarks.experiments_page import fill
from benchmarks.performance_tables import line
from mixqsam.families.family import Maps, PromptTensors
from mixqsam.files import write_json
from mixqsam.sam.load import Sam, load_sam

OUTPUT = Path("docs/data/sam_hq_authors.json")
PAGE = Path("docs/families.md")
# File of the authors → their function.
SIZES = {"sam_hq_vit_b.pth": "build_sam_vit_b", "sam_hq_vit_tiny.pth": "build_sam_vit_t"}
BOX = torch.tensor([[[100.0, 120.0, 700.0, 800.0]]])


class _Through(nn.Module):
    """A layer of timm's that does nothing in evaluation mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor) -> Tensor:
        return values


def find_builders(code: Path) -> Any:
    """The authors' module with the functions that make models, without what they import and do not need here."""
    parts: dict[str, dict[str, Any]] = {
        "timm.models.layers": {
            "DropPath": _Through,
            "to_2tuple": lambda side: (side, side),
            "trunc_normal_": nn.init.trunc_normal_,
        },
        "timm.models.registry": {"register_model": lambda function: function},
        # Its own __init__ imports torchvision.
        "segment_anything": {"__path__": [str(code / "segment_anything")]},
    }
    for name, values in parts.items():
        module = ModuleType(name)
        vars(module).update(values)
        sys.modules[name] = module
    return importlib.import_module("segment_anything.build_sam")


def randomize(model: nn.Module) -> None:
    """Random weights and statistics under which values neither vanish nor explode."""
    for name, parameter in model.named_parameters():
        small = parameter.ndim < 2 or "pos" in name
        parameter.copy_(torch.randn_like(parameter) * (0.1 if small else 0.7 / parameter[0].numel() ** 0.5))
    for name, statistics in model.named_buffers():
        if name.endswith("running_mean"):
            statistics.normal_(std=0.1)
        elif name.endswith("running_var"):
            statistics.uniform_(0.5, 2)


def decode(ours: Sam, maps: Maps, *, multimask: bool) -> Tensor:
    """Logits [4h, 4w] of the best mask for the box."""
    prompts = ours.family.embed(ours.model, PromptTensors(BOX, None, None))
    logits, _ = ours.family.decode(ours.model, maps, prompts, multimask=multimask)
    return logits[0, 0, 0]


def decode_theirs(model: Any, embedding: Tensor, early: list[Tensor], *, multimask: bool) -> Tensor:
    """The same with the authors' code."""
    sparse, dense = model.prompt_encoder(points=None, boxes=BOX[0], masks=None)
    logits, _ = model.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        hq_token_only=False,
        interm_embeddings=early,
    )
    found: Tensor = logits[0, 0]
    return found


def error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, as a part of the norm."""
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def measure(build: Any, file: str) -> dict[str, float]:
    """The largest relative error of one mask and of the best of three."""
    torch.manual_seed(0)
    theirs = build().eval()
    randomize(theirs)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs.state_dict(), Path(folder) / file)
        ours = load_sam(Path(folder) / file)
    pixels = torch.randn(1, 3, 1024, 1024)
    embedding, early = theirs.image_encoder(pixels)
    maps = ours.family.encode(ours.model, pixels)
    decoder: Any = ours.model.mask_decoder
    found = {"embedding": error(maps["embedding"], embedding), "mixqsam": 0.0, "transformers": 0.0}
    for multimask in (False, True):
        expected = decode_theirs(theirs, embedding, early, multimask=multimask)
        found["mixqsam"] = max(found["mixqsam"], error(decode(ours, maps, multimask=multimask), expected))
        kept, decoder.__class__ = decoder.__class__, SamHQMaskDecoder
        found["transformers"] = max(found["transformers"], error(decode(ours, maps, multimask=multimask), expected))
        decoder.__class__ = kept
    return found


def main() -> None:
    """Measure, write the file and the table of the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--code", type=Path, required=True, help="a clone of github.com/SysCV/sam-hq")
    builders = find_builders(parser.parse_args().code)
    rows = {file: measure(getattr(builders, function), file) for file, function in SIZES.items()}
    write_json(OUTPUT, rows)
    lines = [line(["relative error of logits, one box", "mixqsam", "transformers"]), line(["---", "---:", "---:"])]
    lines += [line([f"`{file}`", f"{row['mixqsam']:.0e}", f"{row['transformers']:.2f}"]) for file, row in rows.items()]
    fill(PAGE, {"authors": "\n".join(lines)})
    print(rows)


if __name__ == "__main__":
    main()
