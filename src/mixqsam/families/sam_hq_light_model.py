"""Light SAM-HQ's model for transformers: MobileSAM's encoder before SAM-HQ's prompt encoder and mask decoder."""

from typing import Any

from torch import Tensor
from transformers import SamHQModel
from transformers.models.sam_hq.modeling_sam_hq import (
    SamHQPositionalEmbedding,
    SamHQPromptEncoder,
    SamHQVisionEncoderOutput,
)

from mixqsam.families.mobile_sam_model import MobileSamVisionEncoder, TinyVitSam
from mixqsam.families.sam_hq_decoder import HqMaskDecoder
from mixqsam.families.sam_hq_light_config import EARLY, SamHqLightConfig


class SamHqLightVisionEncoder(MobileSamVisionEncoder):
    """MobileSAM's encoder, which also gives the map of an early stage."""

    def forward(self, pixel_values: Tensor, **_: Any) -> SamHQVisionEncoderOutput:
        """Encode [batch, 3, S, S].

        `last_hidden_state` is [batch, C, h, w], and the only one of `intermediate_embeddings` [batch, h, w, C'].
        """
        maps = self.features(pixel_values)
        early = maps[EARLY].permute(0, 2, 3, 1)
        return SamHQVisionEncoderOutput(last_hidden_state=self.neck(maps[-1]), intermediate_embeddings=[early])


class SamHqLightModel(TinyVitSam, SamHQModel):  # type: ignore[misc]
    """SAM-HQ with a TinyViT as its vision encoder; the other parts are transformers'."""

    config: SamHqLightConfig
    config_class = SamHqLightConfig
    parts = (SamHQPositionalEmbedding, SamHqLightVisionEncoder, SamHQPromptEncoder, HqMaskDecoder)
