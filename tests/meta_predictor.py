"""segment-anything's own predictor over a model of ours, to compare with.

It needs a few functions of torchvision, which the tests do without: where that is not installed, they are Pillow's.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmarks.tiny import random_model, tiny_config, to_meta
from PIL import Image

from mixqsam.boxes import Detections, suppress


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    found = Detections.of(boxes.numpy(), scores.numpy(), labels.numpy())
    return torch.from_numpy(suppress(found, iou_threshold))


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


@contextmanager
def vision() -> Iterator[None]:
    """torchvision, or what segment-anything takes of it."""
    if find_spec("torchvision") is not None:
        yield
        return
    names = [
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "torchvision.ops",
        "torchvision.ops.boxes",
    ]
    modules = {name: ModuleType(name) for name in names}
    modules[names[2]].__dict__.update(resize=resize, to_pil_image=Image.fromarray)
    modules[names[4]].__dict__.update(batched_nms=batched_nms, box_area=box_area)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def meta_model() -> Any:
    """Meta's model with the weights of `benchmarks.tiny.make_model`."""
    with vision():
        pytest.importorskip("segment_anything")
        from segment_anything import modeling
    config = tiny_config()
    encoder, decoder = config.vision_config, config.mask_decoder_config
    size, side = encoder.image_size, encoder.image_size // encoder.patch_size
    model = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            depth=encoder.num_hidden_layers,
            embed_dim=encoder.hidden_size,
            img_size=size,
            mlp_ratio=encoder.mlp_dim / encoder.hidden_size,
            norm_layer=partial(torch.nn.LayerNorm, eps=encoder.layer_norm_eps),
            num_heads=encoder.num_attention_heads,
            patch_size=encoder.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=encoder.global_attn_indexes,
            window_size=encoder.window_size,
            out_chans=encoder.output_channels,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=decoder.hidden_size,
            image_embedding_size=(side, side),
            input_image_size=(size, size),
            mask_in_chans=config.prompt_encoder_config.mask_input_channels,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=decoder.num_hidden_layers,
                embedding_dim=decoder.hidden_size,
                mlp_dim=decoder.mlp_dim,
                num_heads=decoder.num_attention_heads,
            ),
            transformer_dim=decoder.hidden_size,
            iou_head_depth=decoder.iou_head_depth,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
        ),
    )
    model.load_state_dict(to_meta(dict(random_model(config).state_dict())))
    return model.eval()


def meta_predictor(model: Any) -> Any:
    """Its predictor."""
    with vision():
        from segment_anything import SamPredictor
    return SamPredictor(model)
