"""SAM (arXiv 2304.02643): a plain ViT with windows and decomposed relative positions, in sizes B, L and H."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamVisionAttention

from mixqsam.families import meta_layout, named_layout, two_way
from mixqsam.families.family import BlockPath, Family, Layout
from mixqsam.families.sizes import check_fit, check_sizes, check_vit
from mixqsam.numeric.attention import VisionAttention
from mixqsam.plan import Part

_ENCODER, _NECK = "vision_encoder", "vision_encoder.neck"


def _part(name: str) -> Part | None:
    """Layers and neck of the encoder, and the two-way transformer; patch and position embedding stay float."""
    if name.startswith((f"{_ENCODER}.layers.", f"{_NECK}.")):
        return "encoder"
    return two_way.decoder_part(name)


def _block(name: str) -> str:
    if not name.startswith(f"{_ENCODER}."):
        return two_way.decoder_block(name)
    return next((part for part in name.split(".") if part.isdigit()), "neck")


def _blocks(config: Any) -> Sequence[BlockPath]:
    """The encoder's layers, its neck, and the decoder's blocks."""
    vision = config.vision_config
    spans = vision.global_attn_indexes
    layers = [
        BlockPath(f"{_ENCODER}.layers.{index}", is_global=index in spans or vision.window_size == 0)
        for index in range(vision.num_hidden_layers)
    ]
    return [*layers, BlockPath(_NECK), *two_way.decoder_blocks(config)]


def _check(values: Mapping[str, Any]) -> None:
    """Refuse sizes that no SAM has, or that do not fit each other."""
    check_sizes(values)
    config = SamConfig.from_dict({name: value for name, value in values.items() if name != "quantization_config"})
    check_fit(config)
    check_vit(config.vision_config)


def _prepare(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SamVisionAttention):
                setattr(parent, name, vision_attention(child))
    two_way.prepare_decoder(model)


def vision_attention(source: SamVisionAttention) -> VisionAttention:
    """The engine's attention with the same weights."""
    return VisionAttention(
        heads=source.num_attention_heads,
        scale=source.scale,
        qkv=source.qkv,
        proj=source.proj,
        positions=(source.rel_pos_h, source.rel_pos_w) if source.use_rel_pos else None,
    )


def _sample() -> SamConfig:
    """A layer with padded windows and a global one, on 3 × 3 patches."""
    return SamConfig(
        vision_config={
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "image_size": 48,
            "window_size": 2,
            "mlp_dim": 16,
            **two_way.SAMPLE_NECK,
        },
        **two_way.sample_decoder(image_size=48),
    )


SAM = Family(
    name="sam",
    model=SamModel,
    config=SamConfig,
    part=_part,
    roles=two_way.ROLES | {"qkv": "query-key-value", "proj": "projection"},
    block=_block,
    blocks=_blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied=two_way.TIED,
    check=_check,
    prepare=_prepare,
    framing=two_way.PADDED,
    unusual=two_way.unusual,
    encode=two_way.encode,
    embed=two_way.embed,
    decode=two_way.decode,
    layouts=(
        Layout("Meta's `sam_vit_*.pth`", mark=meta_layout.MARK, load=meta_layout.load_meta),
        Layout("transformers' names", mark=named_layout.MARK, load=named_layout.load_named),
    ),
    released={f"sam-vit-{size}": f"facebook/sam-vit-{size}" for size in ("base", "large", "huge")},
    sample=_sample,
)
