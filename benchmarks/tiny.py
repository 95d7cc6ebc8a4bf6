"""A SAM with random weights that is quantized in seconds, and pictures for it."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from mixqsam.allocation.budget import Budget
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.sam.load import default_processor

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


# transformers' names → Meta's, written down apart from the product's table.
_TO_META = (
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm(\d)", r"image_encoder.blocks.\1.norm\2"),
    (r"^vision_encoder\.layers", "image_encoder.blocks"),
    (r"^vision_encoder\.patch_embed\.projection", "image_encoder.patch_embed.proj"),
    (r"^vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
    (r"^vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
    (r"^vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
    (r"^vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
    (r"^vision_encoder", "image_encoder"),
    (r"^shared_image_embedding\.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed", "prompt_encoder.point_embeddings"),
    (r"^prompt_encoder\.mask_embed\.conv1", "prompt_encoder.mask_downscaling.0"),
    (r"^prompt_encoder\.mask_embed\.layer_norm1", "prompt_encoder.mask_downscaling.1"),
    (r"^prompt_encoder\.mask_embed\.conv2", "prompt_encoder.mask_downscaling.3"),
    (r"^prompt_encoder\.mask_embed\.layer_norm2", "prompt_encoder.mask_downscaling.4"),
    (r"^prompt_encoder\.mask_embed\.conv3", "prompt_encoder.mask_downscaling.6"),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.layer_norm(\d)", r"\1.norm\2"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"^mask_decoder\.upscale_conv1", "mask_decoder.output_upscaling.0"),
    (r"^mask_decoder\.upscale_layer_norm", "mask_decoder.output_upscaling.1"),
    (r"^mask_decoder\.upscale_conv2", "mask_decoder.output_upscaling.3"),
)


def tiny_config(*, decoder_layers: int = 1) -> SamConfig:
    """Two blocks (a padded window and a global one), 5 × 5 patches, a decoder 16 wide.

    Released models have two layers in the decoder; one is enough for most tests, and quicker.
    """
    return SamConfig(
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
        mask_decoder_config={
            "hidden_size": 16,
            "num_hidden_layers": decoder_layers,
            "mlp_dim": 24,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )


def random_model(config: SamConfig, *, seed: int = 0) -> SamModel:
    """Random weights that give every unit an effect."""
    torch.manual_seed(seed)
    model = SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * (0.5 if parameter.ndim < 2 else 1.2 / parameter.shape[-1] ** 0.5)
            )
    model.tie_weights()
    return model


def make_model(folder: Path) -> Path:
    """The tiny SAM with random weights, in transformers' layout."""
    config = tiny_config()
    random_model(config).save_pretrained(folder)
    default_processor(config).save_pretrained(folder)
    return folder


def to_meta(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of transformers' under the names of Meta's checkpoints."""
    found = {}
    for name, tensor in state.items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        new = name
        if ".proj_in." in name:
            new = name.replace(".proj_in.", ".layers.0.")
        elif ".proj_out." in name:
            new = name.replace(".proj_out.", ".layers.2.")
        elif re.search(r"(iou_prediction_head|mlps\.\d|hq_mask_mlp)\.layers\.0\.", name):
            new = name.replace(".layers.0.", ".layers.1.")
        else:
            for pattern, replacement in _TO_META:
                new = re.sub(pattern, replacement, new)
        found[new] = tensor.clone()
    return found


def make_pictures(folder: Path, *, count: int) -> Path:
    """Bright discs on noise."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:60, :64]
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 90, (60, 64, 3), dtype=np.uint8)
        pixels[(x - 20 - index) ** 2 + (y - 30) ** 2 < 200] += 120
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def quantize(model: Path, pictures: Path, output: Path, *, check: int = 0) -> Path:
    """The tiny model at W4A4, calibrated on two pictures with four points each."""
    run_quantization(
        model,
        Data(pictures, grid=2),
        budget=Budget.parse("W4A4"),
        output=output,
        options=Options(analysis=AnalysisOptions(count=2, fisher_draws=2)),
        session=Session(),
        evaluation=Evaluation(limit=check),
    )
    return output


def command(*words: object) -> list[str]:
    """`mixqsam …` in this environment."""
    return [sys.executable, "-m", "mixqsam", *map(str, words)]


def environment(cache: Path) -> dict[str, str]:
    """One thread, no hub, a cache of its own."""
    return {**os.environ, **ENVIRONMENT, "MIXQSAM_CACHE": str(cache)}
