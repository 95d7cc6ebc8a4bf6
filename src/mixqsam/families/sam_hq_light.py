"""Light SAM-HQ (arXiv 2306.01567): MobileSAM's encoder before SAM-HQ's mask decoder.

The features of an early layer, which SAM-HQ takes from its first global attention, come from the TinyViT's stage 1
behind its merge (`segment_anything/modeling/tiny_vit_sam.py` of SAM-HQ's project).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mixqsam.families import sam_hq, tiny_encoder, two_way
from mixqsam.families.family import Family, Layout, Maps
from mixqsam.families.meta_layout import TWO_WAY_EPS
from mixqsam.families.mobile_sam_checkpoint import MARK, config_values, fill_released, without_prefix
from mixqsam.families.sam_hq_light_config import EARLY, SamHqLightConfig
from mixqsam.families.sam_hq_light_model import SamHqLightModel


def _encode(model: Any, pixels: Tensor) -> Maps:
    """Image embedding [N, C, h, w], and what an early stage gives, [N, C', h, w]."""
    # As a block gives it: reconstruction knows the map by its identity.
    maps = model.vision_encoder.features(pixels)
    return {"embedding": model.vision_encoder.neck(maps[-1]), "early": maps[EARLY]}


def _decode(model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """See `Decode`."""
    early = maps["early"].permute(0, 2, 3, 1)
    return sam_hq.decode(model, {**maps, "early": early}, prompts, multimask=multimask)


def _config(state: Mapping[str, Tensor]) -> SamHqLightConfig:
    """The configuration that shapes imply."""
    values = config_values(state)
    values["mask_decoder_config"]["vit_dim"] = state["mask_decoder.compress_vit_conv1.weight"].shape[0]
    return SamHqLightConfig(**values)


def _load(state: Mapping[str, Tensor], path: Path) -> tuple[SamHqLightModel, Any]:
    """Read the layout of `sam_hq_vit_tiny.pth`; `path` names the file in errors."""
    tensors = sam_hq.rename_released(without_prefix(state, path))
    model = fill_released(tensors, path, kind="light SAM-HQ", make_config=_config, model=SamHqLightModel)
    return model, two_way.default_processor(model.config)


def _sample() -> SamHqLightConfig:
    return SamHqLightConfig(vision_config=tiny_encoder.sample_vision(), **two_way.sample_decoder(image_size=48))


SAM_HQ_LIGHT = Family(
    name="sam_hq_light",
    title="light SAM-HQ",
    model=SamHqLightModel,
    config=SamHqLightConfig,
    part=tiny_encoder.part,
    roles=tiny_encoder.ROLES,
    block=tiny_encoder.block,
    blocks=tiny_encoder.blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied=two_way.TIED,
    check=partial(tiny_encoder.check, SamHqLightConfig),
    prepare=sam_hq.prepare,
    framing=two_way.PADDED,
    unusual=partial(two_way.unusual, norm_eps=TWO_WAY_EPS, usual_size=1024),
    encode=_encode,
    embed=two_way.embed,
    decode=_decode,
    layouts=(Layout("SAM-HQ's `sam_hq_vit_tiny.pth`", marks=(MARK, sam_hq.RELEASED_MARK), load=_load),),
    resizing=tiny_encoder.RESIZING,
    sample=_sample,
)
