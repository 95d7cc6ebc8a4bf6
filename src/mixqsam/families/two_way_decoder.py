"""SAM's mask decoder with the masks enlarged by plain products."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.sam.modeling_sam import SamMaskDecoder

# Values of the enlarged maps that are made at once: 4 MB, which stay in the processor's cache.
_VALUES = 1 << 20


class MaskDecoder(SamMaskDecoder):  # type: ignore[misc]
    """The modules of transformers' decoder, and its forward with channels last behind the two-way transformer.

    The transposed convolutions have kernels of 2 × 2 pixels that do not overlap, so each is a product that gives four
    pixels for a place. Only the logits are put where they belong in the image. N are images, P the prompts of each, T
    tokens, and h, w the sides of the embedding.
    """

    def forward(
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode; all arguments are those of transformers' decoder.

        Returns:
            Logits [N, P, M, 4h, 4w] and predicted IoU [N, P, M]; M is 1, or 3 with `multimask_output`.
        """
        tokens = self._tokens(sparse_prompt_embeddings, images=len(image_embeddings))
        more = {"attention_similarity": attention_similarity, "target_embedding": target_embedding}
        image = image_embeddings + dense_prompt_embeddings
        tokens, places = self._attend(tokens, image, image_positional_embeddings, more)
        masks = range(1, self.num_mask_tokens) if multimask_output else range(1)
        kernels = [self.output_hypernetworks_mlps[mask](tokens[:, :, 1 + mask]) for mask in masks]
        logits = self._draw(places.flatten(0, 1), torch.stack(kernels, dim=2).flatten(0, 1), image.shape[-2:])
        scores: Tensor = self.iou_prediction_head(tokens[:, :, 0])
        return logits.unflatten(0, tokens.shape[:2]), scores[:, :, masks.start : masks.stop]

    def _tokens(self, prompts: Tensor | None, *, images: int) -> Tensor:
        """The decoder's own tokens, and those of the prompts behind them: [N, P, T, C]."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        each = 1 if prompts is None else prompts.shape[1]
        tokens = own.repeat(images, each, 1, 1)
        return tokens if prompts is None else torch.cat([tokens, prompts], dim=2)

    def _attend(
        self, tokens: Tensor, image: Tensor, positions: Tensor, more: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Tokens [N, P, T, C] and the image's places [N·P, 1, h·w, C] after they have met."""
        each = tokens.shape[1]
        attended: tuple[Tensor, Tensor] = self.transformer(
            point_embeddings=tokens,
            image_embeddings=image.repeat_interleave(each, dim=0),
            image_positional_embeddings=positions.repeat_interleave(each, dim=0),
            **more,
        )
        return attended

    def _draw(self, places: Tensor, kernels: Tensor, size: torch.Size) -> Tensor:
        """Logits [n, M, 4h, 4w] of places [n, h·w, C] and kernels [n, M, C/8]."""
        count = max(1, _VALUES // (16 * places.shape[1] * kernels.shape[2]))
        pieces = [
            self._enlarge(some) @ own.transpose(1, 2)
            for some, own in zip(places.split(count), kernels.split(count), strict=True)
        ]
        height, width = size
        # Each enlargement has put the 2 × 2 pixels of a place one after the other.
        apart: Tensor = torch.cat(pieces).unflatten(1, (height, width, 2, 2, 2, 2))
        return apart.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(places), -1, 4 * height, 4 * width)

    def _enlarge(self, places: Tensor) -> Tensor:
        """Maps [n, h·w, C] to [n, 16·h·w, C/8]."""
        norm = self.upscale_layer_norm
        middle = _double(places, self.upscale_conv1)
        middle = functional.layer_norm(middle, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        out: Tensor = self.activation(_double(self.activation(middle), self.upscale_conv2))
        return out


def _double(places: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution of 2 × 2 pixels without overlap: [n, places, C] to [n, 4·places, C']."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = None if layer.bias is None else layer.bias.repeat(4)
    doubled: Tensor = functional.linear(places, weight, bias).unflatten(-1, (4, -1)).flatten(-3, -2)
    return doubled


def replace_decoder(model: Any) -> None:
    """Let a SAM of transformers compute masks so, in place; the weights stay where they are."""
    if type(model.mask_decoder) is SamMaskDecoder:
        model.mask_decoder.__class__ = MaskDecoder
