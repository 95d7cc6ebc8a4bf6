"""A SAM with random weights that is quantized in seconds, and pictures for it: what faults are tried on."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from mixqsam.sam.load import default_processor

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def make_model(folder: Path) -> Path:
    """Two encoder blocks, 5 × 5 patches, a decoder 16 wide, in transformers' layout."""
    config = SamConfig(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "image_size": 80,
            "patch_size": 16,
            "window_size": 3,
            "mlp_dim": 32,
            "output_channels": 16,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 80,
            "image_embedding_size": 5,
            "mask_input_channels": 8,
        },
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    torch.manual_seed(0)
    model = SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5))
    model.tie_weights()
    model.save_pretrained(folder)
    default_processor(config).save_pretrained(folder)
    return folder


def make_pictures(folder: Path, *, count: int) -> Path:
    """Bright discs on noise."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:60, :64]
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 90, (60, 64, 3), dtype=np.uint8)
        pixels[(x - 20 - index) ** 2 + (y - 30) ** 2 < 200] += 120
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def command(*words: object) -> list[str]:
    """`mixqsam …` in this environment."""
    return [sys.executable, "-m", "mixqsam", *map(str, words)]


def environment(cache: Path) -> dict[str, str]:
    """One thread, no hub, a cache of its own."""
    return {**os.environ, **ENVIRONMENT, "MIXQSAM_CACHE": str(cache)}
