"""Hard twins: the same function with outliers in single channels, as large SAMs have them.

    python -m benchmarks.hardened sam-tiny out/hard-twin   # writes a checkpoint in transformers' layout

Factors of 10 to 60 go into a few channels of the encoder's normalisations, and out of the weights behind them. In float
the twin gives the same masks; on few bits its activations have much coarser steps.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mixqsam.quantization.nearest import draft
from mixqsam.quantization.steps.folding import Fold, apply_fold
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.norms import ReadNorm, find_read_norms

# Of a normalisation's channels; at least one.
SHARE = 0.015
LEAST, MOST = 10.0, 60.0


def harden(sam: Sam, *, seed: int = 0) -> Sam:
    """A twin of a float model with outliers behind every normalisation that only units read.

    Args:
        sam: the model; it is not changed.
        seed: draws the channels and their factors.
    """
    generator = torch.Generator().manual_seed(seed)
    twin = draft(sam)
    for norm in find_read_norms(sam.config):
        apply_fold(twin.model, norm, _outliers(twin.model, norm, generator))
    return replace(twin, source=f"{sam.source}, hardened")


def _outliers(model: nn.Module, norm: ReadNorm, generator: torch.Generator) -> Fold:
    module = model.get_submodule(norm.name)
    assert isinstance(module, nn.LayerNorm)
    width = module.normalized_shape[0]
    count = max(1, round(SHARE * width))
    factors = torch.ones(width)
    chosen = torch.randperm(width, generator=generator)[:count]
    spread = torch.rand(count, generator=generator)
    factors[chosen] = 1 / (LEAST * (MOST / LEAST) ** spread)
    return Fold(torch.zeros(width), factors)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a twin of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    twin = harden(load_sam(given.model), seed=given.seed)
    twin.model.save_pretrained(given.output)
    twin.processor.save_pretrained(given.output)


if __name__ == "__main__":
    main()
