"""SAM (arXiv 2304.02643): a plain ViT with windows and decomposed relative positions, in sizes B, L and H."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamVisionAttention

from mixqsam.families import meta_layout, named_layout, plain_vit, two_way
from mixqsam.families.family import Family, Layout


def _check(values: Mapping[str, Any]) -> None:
    plain_vit.check(SamConfig, values)


def _prepare(model: nn.Module) -> None:
    two_way.replace_modules(model, SamVisionAttention, plain_vit.vision_attention)
    two_way.prepare_decoder(model)


def _sample() -> SamConfig:
    return SamConfig(vision_config=plain_vit.sample_vision(), **two_way.sample_decoder(image_size=48))


SAM = Family(
    name="sam",
    title="SAM",
    model=SamModel,
    config=SamConfig,
    part=plain_vit.part,
    roles=plain_vit.ROLES,
    block=plain_vit.block,
    blocks=plain_vit.blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied=two_way.TIED,
    check=_check,
    prepare=_prepare,
    framing=two_way.PADDED,
    unusual=plain_vit.unusual,
    encode=two_way.encode,
    embed=two_way.embed,
    decode=two_way.decode,
    layouts=(
        Layout("Meta's `sam_vit_*.pth`", marks=(meta_layout.MARK,), load=meta_layout.load_meta),
        Layout("transformers' names", marks=(named_layout.MARK,), load=named_layout.load_named),
    ),
    resizing=plain_vit.RESIZING,
    released={f"sam-vit-{size}": f"facebook/sam-vit-{size}" for size in ("base", "large", "huge")},
    sample=_sample,
)
