"""What SAM and its kin share: prompt encoder, two-way mask decoder, frames padded to a square."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.sam.modeling_sam import SamAttention, SamMLPBlock

from mixqsam.families.family import BlockPath, Framing, Maps, PromptTensors
from mixqsam.families.image_processor import check_padded, settings_of
from mixqsam.families.two_way_decoder import replace_decoder
from mixqsam.numeric.attention import DecoderAttention
from mixqsam.numeric.modules import Mlp
from mixqsam.plan import Part, Role
from mixqsam.resize import resized_size

_TRANSFORMER = "mask_decoder.transformer"
IMAGE_TOKENS = (_TRANSFORMER, 1)
# The prompt encoder shares this table with the model; a checkpoint may hold it once or twice.
TIED = {"prompt_encoder.shared_embedding.positional_embedding": "shared_image_embedding.positional_embedding"}
ROLES: dict[str, Role] = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "qk": "scores",
    "av": "mixing",
    "out_proj": "projection",
    "lin1": "mlp-in",
    "lin2": "mlp-out",
}


# Sizes of the models that an unknown version of transformers is compared on.
SAMPLE_NECK = {"output_channels": 16, "num_pos_feats": 8}


def sample_decoder(*, image_size: int) -> dict[str, dict[str, int]]:
    """Configurations of prompt encoder and mask decoder for a small model with patches of 16 pixels."""
    prompts = {"hidden_size": 16, "image_size": image_size, "image_embedding_size": image_size // 16}
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return {
        "prompt_encoder_config": prompts | {"patch_size": 16, "mask_input_channels": 8},
        "mask_decoder_config": decoder,
    }


def decoder_part(name: str) -> Part | None:
    """The two-way transformer; prompt encoder, upscaling, hypernetworks and IoU head stay float, as in all papers."""
    return "decoder" if name.startswith(f"{_TRANSFORMER}.") else None


def decoder_block(name: str) -> str:
    """`decoder 0`, `decoder 1`, …, `decoder end`."""
    number = next((part for part in name.split(".") if part.isdigit()), "end")
    return f"decoder {number}"


def decoder_blocks(config: Any) -> Sequence[BlockPath]:
    """The layers of the two-way transformer, then its final attention with the sum and the normalisation behind it."""
    layers = range(config.mask_decoder_config.num_hidden_layers)
    return [
        *(BlockPath(f"{_TRANSFORMER}.layers.{index}") for index in layers),
        BlockPath(
            f"{_TRANSFORMER}.final_attn_token_to_image",
            within=_TRANSFORMER,
            until=f"{_TRANSFORMER}.layer_norm_final_attn",
        ),
    ]


def prepare_decoder(model: Any) -> None:
    """Replace attentions and MLPs, in place, by those of the engine; the weights are shared."""
    replace_modules(model, SamAttention, _attention)
    replace_modules(model, SamMLPBlock, engine_mlp)
    replace_decoder(model)
    for layer in model.mask_decoder.transformer.layers:
        layer.cross_attn_image_to_token.is_tall = True


def replace_modules(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    """Put what is made of each module of a kind in its place; in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))


def engine_mlp(source: Any) -> Mlp:
    """The engine's MLP with the same weights."""
    return Mlp(source.lin1, source.act, source.lin2)


def _attention(source: SamAttention) -> DecoderAttention:
    return DecoderAttention(
        heads=source.num_attention_heads,
        scale=source.scaling,
        q_proj=source.q_proj,
        k_proj=source.k_proj,
        v_proj=source.v_proj,
        out_proj=source.out_proj,
    )


def default_processor(config: Any) -> SamImageProcessorPil:
    """SAM's preprocessing for an architecture: longest edge to the input size, ImageNet statistics, zero padding."""
    size, mask = config.vision_config.image_size, 4 * config.prompt_encoder_config.image_embedding_size
    return SamImageProcessorPil(
        size={"longest_edge": size},
        pad_size={"height": size, "width": size},
        mask_size={"longest_edge": mask},
        mask_pad_size={"height": mask, "width": mask},
    )


def pad(processor: Any, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
    """The image at the top left of a square, zeros elsewhere."""
    batch = processor(images=_thick_enough(processor, image), return_tensors="pt")
    height, width = (int(side) for side in batch["reshaped_input_sizes"][0])
    # Without a rescale the values are whole numbers.
    return batch["pixel_values"].float(), (height, width)


def _thick_enough(processor: Any, image: Image.Image) -> Image.Image:
    """An image that keeps a pixel of both sides in the frame; what would keep none is resized here."""
    side = int(processor.size["longest_edge"])
    if 2 * side * min(image.size) >= max(image.size):
        return image
    height, width = resized_size(image.height, image.width, side=side)
    return image.resize((width, height), Image.Resampling(processor.resample))


def pad_resized(processor: Any, pixels: NDArray[np.float32]) -> tuple[Tensor, tuple[int, int]]:
    """As `pad`, of values [height, width, 3] of 0 to 255 whose longer side is the frame's."""
    batch = processor(
        images=np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        input_data_format="channels_first",
        do_resize=False,
        do_convert_rgb=False,
        return_tensors="pt",
    )
    return batch["pixel_values"].float(), (pixels.shape[0], pixels.shape[1])


PADDED = Framing(
    image_size=lambda config: int(config.vision_config.image_size),
    processor=SamImageProcessorPil,
    default=default_processor,
    check=lambda processor, config: check_padded(processor, config.vision_config.image_size),
    settings=settings_of,
    apply=pad,
    apply_resized=pad_resized,
)


# Part → its activation and the epsilon of its layer norms in transformers' defaults.
_USUAL = {
    "vision_config": ("gelu", 1e-6),
    "prompt_encoder_config": ("gelu", 1e-6),
    "mask_decoder_config": ("relu", 1e-6),
}


def unusual(config: Any, *, norm_eps: float = 1e-6, usual_size: int | None = None) -> list[tuple[str, object]]:
    """Settings that tensors do not tell, where they are not the usual ones.

    Args:
        config: the architecture.
        norm_eps: epsilon of the two-way blocks that is usual.
        usual_size: side of the frame that is usual; None where the shapes of tensors tell the size.
    """
    side = config.vision_config.image_size
    found: list[tuple[str, object]] = [] if usual_size in (None, side) else [("image_size", side)]
    for part, (activation, eps) in _USUAL.items():
        values, expected = getattr(config, part), norm_eps if part == "mask_decoder_config" else eps
        usual = {"hidden_act": activation, "layer_norm_eps": expected}
        found += [(f"{part}.{name}", v) for name, u in usual.items() if (v := getattr(values, name, u)) != u]
    return found


def configure_size(values: dict[str, Any], side: int) -> None:
    """Write the side of the frame into the values of a configuration, in place."""
    places = side // values["vision_config"]["patch_size"]
    values["vision_config"]["image_size"] = side
    values["prompt_encoder_config"] |= {"image_size": side, "image_embedding_size": places}


def patch_size(config: Any) -> int:
    """Pixels that become a place of the map, along a side."""
    return int(config.vision_config.patch_size)


def encode(model: Any, pixels: Tensor) -> Maps:
    """Image embedding [N, C, S/16, S/16]."""
    return {"embedding": model.vision_encoder(pixels).last_hidden_state}


def embed(model: Any, prompts: PromptTensors) -> Maps:
    """Sparse [1, P, K, C] and dense [1, C, h, w] embeddings of prompts."""
    sparse, dense = model.prompt_encoder(
        input_points=prompts.points,
        input_labels=prompts.labels,
        input_boxes=prompts.boxes,
        input_masks=None if prompts.masks is None else prompts.masks[:, 0],
    )
    if sparse is None:
        # Nothing but a mask to start from.
        sparse = dense.new_zeros((1, len(prompts), 0, dense.shape[1]))
    return {"sparse": sparse, "dense": dense}


def decode(model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """See `Decode`; `maps` has `embedding` [N, C, h, w]."""
    logits, scores = model.mask_decoder(**decoder_inputs(model, maps, prompts), multimask_output=multimask)
    return logits, scores


def decoder_inputs(model: Any, maps: Maps, prompts: Maps) -> dict[str, Tensor]:
    """What every mask decoder takes: embeddings of the images and of the prompts, and the positions."""
    count = len(maps["embedding"])
    return {
        "image_embeddings": maps["embedding"],
        "image_positional_embeddings": model.get_image_wide_positional_embeddings().repeat(count, 1, 1, 1),
        "sparse_prompt_embeddings": prompts["sparse"].expand(count, -1, -1, -1),
        "dense_prompt_embeddings": prompts["dense"].expand(count, -1, -1, -1),
    }
