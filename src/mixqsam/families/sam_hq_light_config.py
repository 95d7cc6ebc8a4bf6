"""The sizes of a light SAM-HQ, as transformers keeps them in `config.json`."""

from typing import Any

from transformers import SamHQConfig

from mixqsam.families.mobile_sam_config import WithTinyVit, tiny_vit_sizes

# The decoder takes what this stage of the encoder gives, behind its merge.
EARLY = 1
# With more stages, that map would be larger than the embedding, to which the decoder adds it.
_MOST_STAGES = 4


class SamHqLightConfig(WithTinyVit, SamHQConfig):  # type: ignore[misc]
    """SAM-HQ's configuration with the sizes of a TinyViT encoder.

    Raises:
        ValueError: the sizes do not fit each other.
    """

    model_type = "sam_hq_light"

    def __post_init__(self, **more: Any) -> None:
        """Check that the decoder takes what the encoder's early stage gives."""
        sizes = tiny_vit_sizes(getattr(self, "vision_config", None))
        stages = len(sizes.embed_dims)
        width = sizes.embed_dims[min(EARLY + 1, stages - 1)]
        decoder = getattr(self, "mask_decoder_config", None)
        if decoder is None or isinstance(decoder, dict):
            self.mask_decoder_config = {"vit_dim": width, **(decoder or {})}
        super().__post_init__(**more)
        if stages > _MOST_STAGES:
            raise ValueError(f"embed_dims has {stages} stages; a light SAM-HQ has at most {_MOST_STAGES}")
        config: Any = self
        taken = config.mask_decoder_config.vit_dim
        if taken != width:
            raise ValueError(f"stage {EARLY} gives {width} channels, but mask_decoder_config.vit_dim is {taken}")
