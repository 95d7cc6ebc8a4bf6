"""SAM-HQ (arXiv 2306.01567): SAM with a token for masks of high quality, and features of an early layer for it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import SamHQConfig, SamHQModel
from transformers.models.sam_hq.modeling_sam_hq import SamHQAttention, SamHQMLPBlock, SamHQVisionAttention

from mixqsam.families import meta_layout, named_layout, plain_vit, two_way
from mixqsam.families.attention_hook import hook_attentions
from mixqsam.families.family import Family, Layout, Maps
from mixqsam.families.sam_hq_decoder import mend

_MARK = "mask_decoder.hq_token.weight"
RELEASED_MARK = "mask_decoder.hf_token.weight"
# The released code's names of what SAM does not have.
_RENAMES = {
    "mask_decoder.hf_token.": "mask_decoder.hq_token.",
    "mask_decoder.hf_mlp.": "mask_decoder.hq_mask_mlp.",
    **{
        f"mask_decoder.{theirs}.{index}.": f"mask_decoder.{ours}_{part}."
        for theirs, ours in (
            ("compress_vit_feat", "compress_vit"),
            ("embedding_encoder", "encoder"),
            ("embedding_maskfeature", "mask"),
        )
        for index, part in ((0, "conv1"), (1, "norm"), (3, "conv2"))
    },
}


def _check(values: Mapping[str, Any]) -> None:
    """Refuse sizes that no SAM-HQ has, or that do not fit each other."""
    config = plain_vit.check(SamHQConfig, values)
    width, taken = config.vision_config.hidden_size, config.mask_decoder_config.vit_dim
    if width != taken:
        raise ValueError(f"vision_config.hidden_size is {width}, but mask_decoder_config.vit_dim is {taken}")


def prepare(model: nn.Module) -> None:
    """Put the engine's attentions and MLPs in place, and the authors' decoder."""
    mend(model)
    two_way.replace_modules(model, SamHQVisionAttention, plain_vit.vision_attention)
    two_way.replace_modules(model, SamHQMLPBlock, two_way.engine_mlp)
    hook_attentions(model, SamHQAttention)


def _encode(model: Any, pixels: Tensor) -> Maps:
    """Image embedding [N, C, h, w], and what the first layer with global attention gives, [N, h, w, C']."""
    found = model.vision_encoder(pixels)
    # A model whose layers all have windows gives none, and its decoder does without.
    early = {"early": found.intermediate_embeddings[0]} if found.intermediate_embeddings else {}
    return {"embedding": found.last_hidden_state, **early}


def decode(model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """See `Decode`: the sum of SAM's mask and the one of high quality, as the model gives it by default."""
    logits, scores = model.mask_decoder(
        **two_way.decoder_inputs(model, maps, prompts),
        multimask_output=multimask,
        hq_token_only=False,
        intermediate_embeddings=[maps["early"]] if "early" in maps else None,
    )
    return logits, scores


def _config(state: Mapping[str, Tensor]) -> SamHQConfig:
    """The configuration that shapes imply."""
    values = named_layout.config_values(state)
    values["mask_decoder_config"]["vit_dim"] = values["vision_config"]["hidden_size"]
    return SamHQConfig(**values)


_load = partial(named_layout.load_tensors, kind="SAM-HQ", make_config=_config, model=SamHQModel)


def _load_released(state: Mapping[str, Tensor], path: Path) -> tuple[SamHQModel, Any]:
    return _load(meta_layout.rename(rename_released(state)), path, norm_eps=meta_layout.TWO_WAY_EPS)


def rename_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the decoder that SAM does not have, under transformers' names; the others as they are."""
    return {_rename(name): tensor for name, tensor in state.items()}


def _rename(name: str) -> str:
    start = next((old for old in _RENAMES if name.startswith(old)), "")
    return _RENAMES[start] + name.removeprefix(start) if start else name


def _load_named(state: Mapping[str, Tensor], path: Path) -> tuple[SamHQModel, Any]:
    named_layout.check_alone(path)
    return _load(state, path)


def _sample() -> SamHQConfig:
    parts = two_way.sample_decoder(image_size=48)
    parts["mask_decoder_config"]["vit_dim"] = 8
    return SamHQConfig(vision_config=plain_vit.sample_vision(), **parts)


SAM_HQ = Family(
    name="sam_hq",
    title="SAM-HQ",
    model=SamHQModel,
    config=SamHQConfig,
    part=plain_vit.part,
    roles=plain_vit.ROLES,
    block=plain_vit.block,
    blocks=plain_vit.blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied=two_way.TIED,
    check=_check,
    prepare=prepare,
    mend=mend,
    framing=two_way.PADDED,
    unusual=plain_vit.unusual,
    encode=_encode,
    embed=two_way.embed,
    decode=decode,
    layouts=(
        Layout("SAM-HQ's `sam_hq_vit_*.pth`", marks=(meta_layout.MARK, RELEASED_MARK), load=_load_released),
        Layout("transformers' names of SAM-HQ", marks=(named_layout.MARK, _MARK), load=_load_named),
    ),
    resizing=plain_vit.RESIZING,
    released={f"sam-hq-vit-{size}": f"syscv-community/sam-hq-vit-{size}" for size in ("base", "large", "huge")},
    sample=_sample,
)
