"""MobileSAM (arXiv 2306.14289): a TinyViT encoder before SAM's prompt encoder and mask decoder."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPreTrainedModel,
    SamPromptEncoder,
    SamVisionEncoderOutput,
    SamVisionNeck,
)

from mixqsam.errors import ModelError
from mixqsam.families.mobile_sam_checkpoint import check_tensors, config_values, converted, read_state
from mixqsam.families.mobile_sam_config import MobileSamConfig, MobileSamVisionConfig, register_config
from mixqsam.families.tiny_vit import TinyVit, WindowAttention

_log = logging.getLogger(__name__)


class MobileSamVisionEncoder(TinyVit):
    """TinyViT and SAM's neck: image → embedding."""

    def __init__(self, config: MobileSamVisionConfig) -> None:
        super().__init__(config)
        self.image_size: int = config.image_size
        self.neck = SamVisionNeck(config)

    def forward(self, pixel_values: Tensor, **_: Any) -> SamVisionEncoderOutput:
        """Encode [batch, 3, S, S]; `last_hidden_state` is [batch, C, S/patch_size, S/patch_size].

        Raises:
            ValueError: the image has another size than the prompt encoder's positions are for.
        """
        height, width = pixel_values.shape[-2:]
        if height != self.image_size or width != self.image_size:
            raise ValueError(f"The image has {height}×{width} pixels; expected {self.image_size}×{self.image_size}.")
        maps = self.features(pixel_values)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(maps.permute(0, 2, 3, 1)))


class MobileSamModel(SamModel):  # type: ignore[misc]
    """SAM with a TinyViT as its vision encoder; the other parts are transformers'."""

    config: MobileSamConfig
    config_class = MobileSamConfig

    def __init__(self, config: MobileSamConfig) -> None:
        # SamModel's own constructor would make a ViT first.
        SamPreTrainedModel.__init__(self, config)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = MobileSamVisionEncoder(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        module: nn.Module = self.vision_encoder.patch_embed
        return module

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, WindowAttention):
            nn.init.zeros_(module.attention_biases)


def register() -> None:
    """Make transformers' Auto classes know MobileSAM; a second call does nothing."""
    # Imported late: while they load, this module may be asked to register.
    from transformers import AutoModel, AutoModelForMaskGeneration  # noqa: PLC0415

    register_config()
    AutoModel.register(MobileSamConfig, MobileSamModel, exist_ok=True)
    AutoModelForMaskGeneration.register(MobileSamConfig, MobileSamModel, exist_ok=True)


def load_checkpoint(path: Path, *, image_size: int | None = None) -> tuple[MobileSamModel, SamImageProcessorPil]:
    """Read a checkpoint in the released layout (`mobile_sam.pt`), or one of the same structure with other sizes.

    Args:
        path: a file of `torch.save`.
        image_size: pixels along a side of the input, which the tensors do not tell; None for that of the released
            models: 1024, or 256 where the patch embedding keeps the resolution (LiteMedSAM).

    Returns:
        The model in evaluation mode, its batch normalisations folded, and what prepares its images.

    Raises:
        ModelError: damaged, of another family, or with missing or foreign tensors; the message names them.
    """
    state = read_state(path)
    try:
        config = MobileSamConfig(**config_values(state, image_size=image_size))
        with torch.device("meta"):
            model = MobileSamModel(config)
    except KeyError as error:
        raise ModelError(f"{path} is cut or is not a MobileSAM: the tensor {error} is missing.") from error
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ModelError(f"{path} has tensors of sizes that no MobileSAM has: {error}.") from error
    tensors = converted(state, path=path)
    check_tensors(path, expected=model.state_dict(), found=tensors)
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    return model.eval(), make_processor(config, path=path)


def make_processor(config: MobileSamConfig, *, path: Path) -> SamImageProcessorPil:
    """SAM's preprocessing at the model's size; LiteMedSAM's, where the patch embedding is that model's."""
    size, mask = config.vision_config.image_size, 4 * config.prompt_encoder_config.image_embedding_size
    is_medical = config.vision_config.patch_kernel == 1
    if is_medical:
        _log.warning(
            "%s has LiteMedSAM's encoder: pixels are divided by 255, and their mean is not subtracted. Stretch each "
            "image to 0 … 255 first, as its authors do.",
            path,
        )
    return SamImageProcessorPil(
        size={"longest_edge": size},
        pad_size={"height": size, "width": size},
        mask_size={"longest_edge": mask},
        mask_pad_size={"height": mask, "width": mask},
        do_normalize=not is_medical,
    )
