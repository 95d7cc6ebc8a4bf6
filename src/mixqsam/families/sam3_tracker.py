"""SAM 3's tracker for images, prompted with boxes and points: a ViT with rotary positions, and SAM 2's decoder."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import Sam3TrackerConfig, Sam3TrackerModel
from transformers.models.sam3.modeling_sam3 import Sam3FPNLayer, Sam3ViTRoPEAttention
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerAttention

from mixqsam.families import pyramid, two_way
from mixqsam.families.attention_hook import hook_attentions
from mixqsam.families.family import BlockPath, Family, Larger, Maps, Resizing
from mixqsam.families.hiera_sizes import check_decoder, config_of
from mixqsam.families.square import HALVES, square_framing

# Of the backbone: what its tensors do not tell.
_UNTOLD = (
    "num_attention_heads",
    "window_size",
    "global_attn_indexes",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "rope_parameters",
    "rope_theta",
)
# Starts of names in the checkpoint of the whole SAM 3: the detector, and what only videos need.
_LEFT_OUT = (
    *("detector_model.", "memory_", "mask_downsample.", "object_pointer_proj.", "no_object_pointer"),
    "no_memory_positional_encoding",
    "occlusion_spatial_embedding_parameter",
    "temporal_positional_encoding_projection_layer.",
)


class PyramidLayer(nn.Module):
    """One size of maps, without a cast to the type of a weight, which may be packed.

    Args:
        source: whose layers it shares.
    """

    def __init__(self, source: Sam3FPNLayer) -> None:
        super().__init__()
        self.scale_layers, self.proj1, self.proj2 = source.scale_layers, source.proj1, source.proj2

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [N, C, h, w] to [N, C', h', w']."""
        for layer in self.scale_layers:
            hidden_states = layer(hidden_states)
        out: Tensor = self.proj2(self.proj1(hidden_states))
        return out


def _blocks(config: Any) -> Sequence[BlockPath]:
    backbone = config.vision_config.backbone_config
    return pyramid.blocks(config, "layers", count=backbone.num_hidden_layers, spans=backbone.global_attn_indexes)


def _prepare(model: nn.Module) -> None:
    two_way.replace_modules(model, Sam3FPNLayer, PyramidLayer)
    hook_attentions(model, Sam3ViTRoPEAttention, Sam3TrackerAttention)
    pyramid.own_buffers(model)


def _check(values: Mapping[str, Any]) -> None:
    """Refuse sizes that no such model has, or that do not fit each other."""
    config = config_of(values, Sam3TrackerConfig)
    backbone = config.vision_config.backbone_config
    heads, width = backbone.num_attention_heads, backbone.hidden_size
    # Rotary positions take four channels at a time.
    if heads < 1 or width % (4 * heads):
        raise ValueError(f"backbone_config: {heads} heads do not divide {width} channels by a multiple of 4")
    side = config.prompt_encoder_config.image_size
    if backbone.image_size != side:
        raise ValueError(f"backbone_config.image_size is {backbone.image_size}, the prompt encoder's is {side}")
    check_decoder(config)


def _image_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """The tracker's part of a whole SAM 3; what its configuration leaves out is transformers' default."""
    tracker = values["tracker_config"] or {}
    parts = {name: dict(tracker.get(name) or {}) for name in ("prompt_encoder_config", "mask_decoder_config")}
    for part in parts.values():
        part.pop("model_type", None)
    vision = {"vision_config": dict(tracker["vision_config"])} if tracker.get("vision_config") else {}
    return {"model_type": "sam3_tracker", **vision, **parts}


def _decode(model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """See `Decode`; as transformers computes it, which gives the mark of a first frame to the smallest map there is."""
    if len(model.config.vision_config.scale_factors) == 3:
        return pyramid.decode(model, maps, prompts, multimask=multimask)
    return pyramid.decode_plain(model, maps, prompts, multimask=multimask)


def _sample() -> Sam3TrackerConfig:
    """A layer with padded windows and a global one, on 4 × 4 patches."""
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "window_size": 3,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    }
    sizes = [[16, 16], [8, 8], [4, 4]]
    vision = {"model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 16}
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return Sam3TrackerConfig(
        vision_config=vision | {"backbone_feature_sizes": sizes},
        prompt_encoder_config={"hidden_size": 16, "image_size": 56, "mask_input_channels": 8},
        mask_decoder_config=decoder,
    )


SAM3_TRACKER = Family(
    name="sam3_tracker",
    title="SAM 3 tracker",
    model=Sam3TrackerModel,
    config=Sam3TrackerConfig,
    part=pyramid.part,
    roles=pyramid.ROLES | {"fc1": "mlp-in", "fc2": "mlp-out"},
    block=pyramid.block,
    blocks=_blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied={},
    check=_check,
    prepare=_prepare,
    framing=square_framing(pyramid.image_size, public="Sam3ImageProcessor", statistics=HALVES),
    unusual=partial(pyramid.unusual, backbone=_UNTOLD, usual_size=1008),
    encode=pyramid.encode,
    embed=pyramid.embed,
    decode=_decode,
    larger={
        "sam3_video": Larger("SAM 3", image_part=_image_part, left_out=_LEFT_OUT, renames={r"^tracker_model\.": ""}),
    },
    # Absolute positions are tiled, and rotary ones follow from the size of the map.
    resizing=Resizing(multiple=pyramid.smallest_place, configure=pyramid.configure_size),
    hold_single_mask=pyramid.hold_single_mask,
    released={"sam3-tracker": "facebook/sam3"},
    sample=_sample,
)
