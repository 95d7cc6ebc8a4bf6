"""MobileSAM's model for transformers: a TinyViT encoder before SAM's prompt encoder and mask decoder."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, SamModel
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPromptEncoder,
    SamVisionEncoderOutput,
    SamVisionNeck,
)

from mixqsam.families.mobile_sam_config import MobileSamConfig, MobileSamVisionConfig
from mixqsam.families.tiny_vit import TinyVit, WindowAttention


class MobileSamNeck(SamVisionNeck):  # type: ignore[misc]
    """SAM's neck behind a TinyViT.

    It takes the last merge's output as it is: a block's input must be what another block gave.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Map [batch, C, h, w] to [batch, C', h, w]."""
        out: Tensor = super().forward(maps.permute(0, 2, 3, 1))
        return out


class MobileSamVisionEncoder(TinyVit):
    """TinyViT and SAM's neck: image → embedding."""

    def __init__(self, config: MobileSamVisionConfig) -> None:
        super().__init__(config)
        self.image_size: int = config.image_size
        self.neck = MobileSamNeck(config)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `TinyVit.features`.

        Raises:
            ValueError: the image has another size than the prompt encoder's positions are for.
        """
        height, width = pixels.shape[-2:]
        if height != self.image_size or width != self.image_size:
            raise ValueError(f"The image has {height}×{width} pixels; expected {self.image_size}×{self.image_size}.")
        return super().features(pixels)

    def forward(self, pixel_values: Tensor, **_: Any) -> SamVisionEncoderOutput:
        """Encode [batch, 3, S, S]; `last_hidden_state` is [batch, C, S/patch_size, S/patch_size]."""
        return SamVisionEncoderOutput(last_hidden_state=self.neck(self.features(pixel_values)[-1]))


class TinyVitSam:
    """Base of SAMs whose vision encoder is a TinyViT; it stands before transformers' class, whose forward is used.

    Attributes:
        parts: what makes the positions, the vision encoder, the prompt encoder and the mask decoder.
    """

    parts: ClassVar[tuple[Callable[[Any], nn.Module], ...]]

    def __init__(self, config: Any) -> None:
        # The constructor of transformers' class would make a ViT first.
        model: Any = self
        PreTrainedModel.__init__(model, config)
        positions, encoder, prompts, decoder = self.parts
        model.shared_image_embedding = positions(config.vision_config)
        model.vision_encoder = encoder(config.vision_config)
        model.prompt_encoder = prompts(config)
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        model.mask_decoder = decoder(config.mask_decoder_config)
        model.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        model: Any = self
        module: nn.Module = model.vision_encoder.patch_embed
        return module

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, WindowAttention):
            nn.init.zeros_(module.attention_biases)


class MobileSamModel(TinyVitSam, SamModel):  # type: ignore[misc]
    """SAM with a TinyViT as its vision encoder; the other parts are transformers'."""

    config: MobileSamConfig
    config_class = MobileSamConfig
    parts = (SamPositionalEmbedding, MobileSamVisionEncoder, SamPromptEncoder, SamMaskDecoder)
