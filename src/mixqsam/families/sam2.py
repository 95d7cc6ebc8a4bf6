"""SAM 2 and 2.1 (arXiv 2408.00714) for images: a Hiera encoder, a neck, and SAM's decoder with maps of three sizes."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import Sam2Config, Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2Attention, Sam2MultiScaleAttention, Sam2VisionNeck

from mixqsam.families import pyramid, sam2_layout, two_way
from mixqsam.families.attention_hook import hook_attentions
from mixqsam.families.family import BlockPath, Family, Larger, Layout, Resizing
from mixqsam.families.hiera_sizes import check_hiera
from mixqsam.families.square import IMAGENET, square_framing

# Of the backbone: what its tensors do not tell.
_UNTOLD = (
    "num_attention_heads_per_stage",
    "window_size_per_stage",
    "global_attention_blocks",
    "query_stride",
    "num_query_pool_stages",
    "patch_stride",
    "hidden_act",
    "layer_norm_eps",
)


class Neck(nn.Module):
    """The neck, without casts to the type of a weight, which may be packed, and without positions that nothing reads.

    Args:
        source: whose convolutions it shares.
    """

    def __init__(self, source: Sam2VisionNeck) -> None:
        super().__init__()
        self.convs, self.levels = source.convs, tuple(source.fpn_top_down_levels)

    def forward(self, hidden_states: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Map what each stage gives, [N, h, w, C], to maps [N, C', h, w], the smallest first; no positions."""
        last = len(hidden_states) - 1
        found: list[Tensor] = []
        for level in range(last, -1, -1):
            maps = self.convs[last - level](hidden_states[level].permute(0, 3, 1, 2))
            if level in self.levels and found:
                maps = maps + functional.interpolate(found[-1], scale_factor=2.0, mode="nearest")
            found.append(maps)
        return tuple(found), ()


def _blocks(config: Any) -> Sequence[BlockPath]:
    backbone = config.vision_config.backbone_config
    spans = backbone.global_attention_blocks
    return pyramid.blocks(config, "blocks", count=sum(backbone.blocks_per_stage), spans=spans)


def _prepare(model: nn.Module) -> None:
    two_way.replace_modules(model, Sam2VisionNeck, Neck)
    hook_attentions(model, Sam2MultiScaleAttention, Sam2Attention)
    pyramid.own_buffers(model)


def _check(values: Mapping[str, Any]) -> None:
    """Refuse sizes that no SAM 2 has, or that do not fit each other."""
    check_hiera(values, Sam2Config)


def _image_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a video model's configuration what the image model has; the parts are the same but for their type."""
    parts = {name: dict(values[name]) for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    for name in ("prompt_encoder_config", "mask_decoder_config"):
        parts[name].pop("model_type", None)
    return {"model_type": "sam2", **parts}


def _multiple(config: Any) -> int:
    """Pixels that whole windows of the first stage and whole places of the last one take."""
    backbone = config.vision_config.backbone_config
    windows, last = backbone.window_size_per_stage[0], 2 ** (len(backbone.blocks_per_stage) - 1)
    return int(backbone.patch_stride[0] * math.lcm(windows, last))


def _sample() -> Sam2Config:
    """Stages with padded windows, a pooled query in each but the first, and a block with global attention."""
    backbone = {
        "hidden_size": 4,
        "image_size": [64, 64],
        "embed_dim_per_stage": [4, 8, 12, 16],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "blocks_per_stage": [1, 1, 2, 1],
        "window_size_per_stage": [4, 2, 3, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [3, 3],
        "model_type": "sam2_hiera_det_model",
    }
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": [16, 12, 8, 4],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
            "model_type": "sam2_vision_model",
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "mask_input_channels": 8},
        mask_decoder_config=decoder,
    )


SAM2 = Family(
    name="sam2",
    title="SAM 2",
    model=Sam2Model,
    config=Sam2Config,
    part=pyramid.part,
    roles=pyramid.ROLES | {"qkv": "query-key-value", "proj": "projection"},
    block=pyramid.block,
    blocks=_blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied={},
    check=_check,
    prepare=_prepare,
    framing=square_framing(pyramid.image_size, public="Sam2ImageProcessor", statistics=IMAGENET),
    unusual=partial(pyramid.unusual, backbone=_UNTOLD, usual_size=1024),
    encode=pyramid.encode,
    embed=pyramid.embed,
    decode=pyramid.decode,
    layouts=(Layout("Meta's `sam2.1_hiera_*.pt`", marks=(sam2_layout.MARK,), load=sam2_layout.load_released),),
    larger={
        "sam2_video": Larger("SAM 2 for videos", image_part=_image_part, left_out=sam2_layout.VIDEO),
    },
    # Hiera interpolates its positions in every forward.
    resizing=Resizing(multiple=_multiple, configure=pyramid.configure_size),
    hold_single_mask=pyramid.hold_single_mask,
    released={
        f"sam2.1-hiera-{size}": f"facebook/sam2.1-hiera-{size}" for size in ("tiny", "small", "base-plus", "large")
    },
    sample=_sample,
)
