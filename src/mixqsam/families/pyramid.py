"""What SAM 2 and the tracker of SAM 3 share: maps of three sizes, and a two-way decoder that takes all of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixqsam.families import two_way
from mixqsam.families.family import BlockPath, Maps, PromptTensors
from mixqsam.plan import Part, Role

_BACKBONE, _NECK = "vision_encoder.backbone", "vision_encoder.neck"
# 1×1 convolutions that run once for each image, though they lie in the decoder.
_HIGH = {"mask_decoder.conv_s0": "high 0", "mask_decoder.conv_s1": "high 1"}
ROLES: dict[str, Role] = two_way.ROLES | {
    "o_proj": "projection",
    "proj_in": "mlp-in",
    "proj_out": "mlp-out",
}


def part(name: str) -> Part | None:
    """Blocks and neck, the convolutions of both larger maps, and the two-way transformer; all else stays float."""
    if name.startswith((f"{_BACKBONE}.", f"{_NECK}.")) and "embed" not in name:
        return "encoder"
    return "encoder" if name.startswith(tuple(_HIGH)) else two_way.decoder_part(name)


def block(name: str) -> str:
    """`0`, `1`, …, `neck`, `high 0`, `high 1`, or the decoder's."""
    if name.startswith(f"{_BACKBONE}."):
        return next(part for part in name.split(".") if part.isdigit())
    if name.startswith(f"{_NECK}."):
        return "neck"
    return _HIGH.get(name) or two_way.decoder_block(name)


def blocks(config: Any, layers: str, *, count: int, spans: Sequence[int]) -> Sequence[BlockPath]:
    """The backbone's blocks, the neck, the convolutions behind it, and the decoder's blocks.

    Args:
        config: the architecture.
        layers: name of the backbone's list of blocks.
        count: how many there are.
        spans: those with global attention.
    """
    backbone = [BlockPath(f"{_BACKBONE}.{layers}.{index}", is_global=index in spans) for index in range(count)]
    return [*backbone, BlockPath(_NECK), *map(BlockPath, _HIGH), *two_way.decoder_blocks(config)]


def own_buffers(model: nn.Module) -> None:
    """Turn buffers that are stored into parameters, in place: what a file holds of no unit are parameters."""
    for module in model.modules():
        for name, tensor in list(module._buffers.items()):
            if tensor is not None and name not in module._non_persistent_buffers_set:
                del module._buffers[name]
                module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def image_size(config: Any) -> int:
    """The side of the encoder's input."""
    return int(config.prompt_encoder_config.image_size)


def encode(model: Any, pixels: Tensor) -> Maps:
    """Three maps: `embedding` [N, C, h, w], `high_0` [N, C/8, 4h, 4w] and `high_1` [N, C/4, 2h, 2w]."""
    large, middle, small = model.vision_encoder(pixels).fpn_hidden_states[:3]
    decoder = model.mask_decoder
    return {"embedding": small, "high_0": decoder.conv_s0(large), "high_1": decoder.conv_s1(middle)}


def embed(model: Any, prompts: PromptTensors) -> Maps:
    """Sparse [1, P, K, C] and dense [1, C, h, w] embeddings of prompts."""
    if prompts.boxes is None and prompts.points is None and prompts.masks is not None:
        # As the model itself does where there is nothing but a mask: one point that is not one.
        shape = (1, len(prompts), 1)
        points = prompts.masks.new_zeros((*shape, 2))
        labels = torch.full(shape, -1, dtype=torch.int32, device=points.device)
        prompts = PromptTensors(None, points, labels, prompts.masks)
    return two_way.embed(model, prompts)


def decode(model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """See `Decode`; an image is a video's first frame, so what stands for no memory is added to it."""
    embedding = maps["embedding"] + model.no_memory_embedding.reshape(1, -1, 1, 1)
    return decode_plain(model, {**maps, "embedding": embedding}, prompts, multimask=multimask)


def decode_plain(model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """See `Decode`; nothing is added to the maps."""
    inputs = two_way.decoder_inputs(model, maps, prompts)
    high = [maps["high_0"], maps["high_1"]]
    logits, scores, *_ = model.mask_decoder(**inputs, multimask_output=multimask, high_resolution_features=high)
    return logits, scores


def hold_single_mask(model: Any) -> None:
    """Give the single mask itself, also where its stability is low; in place."""
    model.mask_decoder.dynamic_multimask_via_stability = False


def configure_size(values: dict[str, Any], side: int) -> None:
    """Write the side of the frame into the values of a configuration, in place."""
    prompts, vision = values["prompt_encoder_config"], values["vision_config"]
    backbone, places = vision["backbone_config"], side // prompts["patch_size"]
    prompts["image_size"] = side
    backbone["image_size"] = side if isinstance(backbone["image_size"], int) else [side, side]
    vision["backbone_feature_sizes"] = [[times * places] * 2 for times in (4, 2, 1)]


def smallest_place(config: Any) -> int:
    """Pixels that a place of the smallest map takes, along a side."""
    return int(config.prompt_encoder_config.patch_size / min(1.0, *config.vision_config.scale_factors))


def unusual(config: Any, backbone: Sequence[str], *, usual_size: int) -> list[tuple[str, object]]:
    """All that changes outputs and that tensors do not tell.

    Args:
        config: the architecture.
        backbone: entries of its `backbone_config`; one that a version of transformers lacks is None.
        usual_size: side of the frame of released checkpoints; no tensor has another shape for another one.
    """
    vision, decoder, side = config.vision_config, config.mask_decoder_config, image_size(config)
    read = ("num_attention_heads", "hidden_act", *(name for name in vars(decoder) if name.startswith("dynamic_")))
    return [
        *((f"backbone_config.{name}", getattr(vision.backbone_config, name, None)) for name in backbone),
        *((f"mask_decoder_config.{name}", getattr(decoder, name)) for name in sorted(read)),
        ("prompt_encoder_config.hidden_act", config.prompt_encoder_config.hidden_act),
        *([] if side == usual_size else [("image_size", side)]),
    ]
