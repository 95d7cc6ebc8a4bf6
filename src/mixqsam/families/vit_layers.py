"""Blocks of transformers' ViT encoders whose attention is the engine's own, and whose windows are cut before it."""

from transformers.models.sam.modeling_sam import SamVisionLayer
from transformers.models.sam_hq.modeling_sam_hq import SamHQVisionLayer

__all__ = ["SamHQVisionLayer", "SamVisionLayer"]
