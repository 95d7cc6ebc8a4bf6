"""MobileSAM's model for transformers: a TinyViT encoder before SAM's prompt encoder and mask decoder."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPreTrainedModel,
    SamPromptEncoder,
    SamVisionEncoderOutput,
    SamVisionNeck,
)

from mixqsam.families.mobile_sam_config import MobileSamConfig, MobileSamVisionConfig, register_config
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

    def forward(self, pixel_values: Tensor, **_: Any) -> SamVisionEncoderOutput:
        """Encode [batch, 3, S, S]; `last_hidden_state` is [batch, C, S/patch_size, S/patch_size].

        Raises:
            ValueError: the image has another size than the prompt encoder's positions are for.
        """
        height, width = pixel_values.shape[-2:]
        if height != self.image_size or width != self.image_size:
            raise ValueError(f"The image has {height}×{width} pixels; expected {self.image_size}×{self.image_size}.")
        maps = self.features(pixel_values)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(maps))


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
