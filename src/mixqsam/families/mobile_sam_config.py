"""The sizes of SAMs with a TinyViT encoder, as transformers keeps them in `config.json`."""

from collections.abc import Iterable
from typing import Any

from transformers import SamConfig
from transformers.configuration_utils import PreTrainedConfig

_MOST = 65_536
_MOST_BLOCKS = 512
_MOST_STAGES = 8
# Every pair of places within a window has a bias: 17 million of them, for each head.
_LARGEST_WINDOW = 64


class MobileSamVisionConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of the encoder (see `TinyVitSizes`), of its neck and of the image; the defaults are MobileSAM's.

    Raises:
        ValueError: the sizes do not fit each other, or are beyond any encoder of this kind.
    """

    model_type = "mobile_sam_vision_model"
    base_config_key = "vision_config"

    image_size: int = 1024
    num_channels: int = 3
    patch_kernel: int = 3
    embed_dims: list[int] | tuple[int, ...] = (64, 128, 160, 320)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 5, 10)
    window_sizes: list[int] | tuple[int, ...] = (7, 14, 7)
    expansion: float = 4.0
    mlp_ratio: float = 4.0
    local_kernel: int = 3
    output_channels: int = 256
    num_pos_feats: int = 128
    initializer_range: float = 0.02

    def __post_init__(self, **more: Any) -> None:
        """Check the sizes and derive what transformers' parts ask for."""
        super().__post_init__(**more)
        self._check()
        self.hidden_size = self.embed_dims[-1]
        self.patch_size = total_stride(patch_kernel=self.patch_kernel, stages=len(self.embed_dims))
        self.scale = self.hidden_size // 2
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.patch_size}")

    def _check(self) -> None:
        stages = len(self.embed_dims)
        if not 2 <= stages <= _MOST_STAGES or len(self.depths) != stages:
            raise ValueError(f"embed_dims and depths need an entry for each of 2 to {_MOST_STAGES} stages")
        if len(self.num_heads) != stages - 1 or len(self.window_sizes) != stages - 1:
            raise ValueError("num_heads and window_sizes need an entry for each stage from 1 on")
        sizes = [self.image_size, self.num_channels, self.output_channels, self.num_pos_feats, *self.embed_dims]
        sizes += [*self.num_heads, *self.window_sizes, self.expansion, self.mlp_ratio]
        _check_range("a size of the vision encoder", sizes, most=_MOST)
        _check_range("a depth of the vision encoder", self.depths, most=_MOST_BLOCKS)
        _check_range("a window of the vision encoder", self.window_sizes, most=_LARGEST_WINDOW)
        if self.patch_kernel not in {1, 3} or self.local_kernel not in {1, 3, 5, 7}:
            raise ValueError("patch_kernel is 1 or 3, local_kernel 1, 3, 5 or 7")
        if self.embed_dims[0] % 2 or any(c % h for c, h in zip(self.embed_dims[1:], self.num_heads, strict=True)):
            raise ValueError("num_heads must divide embed_dims, and the first of embed_dims must be even")


class WithTinyVit:
    """Base of SAMs' configurations whose sizes of the image encoder are those of a TinyViT.

    It stands before transformers' class, of which the other parts are.
    """

    def __init_subclass__(cls) -> None:
        """Tell transformers the class of the encoder's sizes."""
        # The classes of the parts have another name in older versions of transformers.
        if hasattr(cls, "sub_configs_defaults"):
            # Its values are of a class that has no public name in some versions.
            of_vision = type(cls.sub_configs_defaults["vision_config"])(config_class=MobileSamVisionConfig)
            cls.sub_configs_defaults = {**cls.sub_configs_defaults, "vision_config": of_vision}
        else:
            known: Any = cls
            known.sub_configs = {**known.sub_configs, "vision_config": MobileSamVisionConfig}
        super().__init_subclass__()

    def __post_init__(self, **more: Any) -> None:
        """Check that the parts agree on the image and on the embedding."""
        # Older versions of transformers make SAM's own vision configuration of a dict.
        self.vision_config = tiny_vit_sizes(getattr(self, "vision_config", None))
        super().__post_init__(**more)  # type: ignore[misc]
        config: Any = self
        vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
        side = vision.image_size // vision.patch_size
        if prompts.image_size != vision.image_size or prompts.image_embedding_size != side:
            raise ValueError(
                f"the encoder gives {side} × {side} places of {vision.image_size} pixels, but prompt_encoder_config is "
                f"for {prompts.image_embedding_size} × {prompts.image_embedding_size} of {prompts.image_size}"
            )
        widths = {vision.output_channels, prompts.hidden_size, decoder.hidden_size}
        if len(widths) > 1:
            raise ValueError(f"output_channels and the hidden_size of prompts and decoder differ: {sorted(widths)}")


class MobileSamConfig(WithTinyVit, SamConfig):  # type: ignore[misc]
    """SAM's configuration with the sizes of a TinyViT encoder."""

    model_type = "mobile_sam"


def tiny_vit_sizes(sizes: Any) -> MobileSamVisionConfig:
    """The encoder's sizes of a configuration, of the values of one, or (for None) of the released models.

    Raises:
        ValueError: the sizes do not fit each other.
    """
    return MobileSamVisionConfig(**(sizes or {})) if sizes is None or isinstance(sizes, dict) else sizes


def _check_range(what: str, values: Iterable[float], *, most: int) -> None:
    for value in values:
        if not 0 < value <= most:
            raise ValueError(f"{what} is {value:.6g}; expected more than 0 and at most {most}")


def total_stride(*, patch_kernel: int, stages: int) -> int:
    """Pixels for each place of the last map, along one side."""
    return int((4 if patch_kernel == 3 else 1) * 2 ** max(0, stages - 2))
