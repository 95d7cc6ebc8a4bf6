"""SAM-HQ's mask decoder as its authors compute it (arXiv 2306.01567, §3.2).

transformers (5.5 to 5.24) throws away the image's tokens that come out of the two-way transformer: it makes masks of
the embedding before it has met the prompts, with rows and columns swapped. With the same weights, its masks are others
than those of the authors' code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.sam_hq.modeling_sam_hq import SamHQMaskDecoder


class HqMaskDecoder(SamHQMaskDecoder):  # type: ignore[misc]
    """The modules of transformers' decoder, and the forward of the authors' decoder.

    N are images, P the prompts of each, T tokens, and h, w the sides of the embedding.
    """

    def forward(
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        hq_token_only: bool,
        intermediate_embeddings: Sequence[Tensor] | None = None,
        **attention: Any,
    ) -> tuple[Tensor, Tensor]:
        """Decode; all arguments are those of transformers' decoder.

        Returns:
            Logits [N, P, M, 4h, 4w] and predicted IoU [N, P, M]. M is 1, or 3 with `multimask_output`, which are
            sorted by predicted IoU. With `hq_token_only` there is the mask of high quality alone.
        """
        tokens, attended = self._attend(
            (image_embeddings, image_positional_embeddings),
            (sparse_prompt_embeddings, dense_prompt_embeddings),
            attention,
        )
        maps = self._upscale(attended)
        fine = self._fine(maps, image_embeddings, intermediate_embeddings, prompts=tokens.shape[1])
        # Tokens: one for the predicted IoU, one for each of SAM's masks, one for the mask of high quality.
        count = len(self.output_hypernetworks_mlps)
        kernels = [mlp(tokens[:, :, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
        masks = _product(torch.stack(kernels, dim=2), maps)
        best = _product(self.hq_mask_mlp(tokens[:, :, 1 + count])[:, :, None], fine)
        scores: Tensor = self.iou_prediction_head(tokens[:, :, 0])
        if multimask_output:
            scores, order = scores[:, :, 1:].sort(dim=2, descending=True)
            masks = masks[:, :, 1:].gather(2, order[..., None, None].expand(-1, -1, -1, *masks.shape[3:]))
        else:
            masks, scores = masks[:, :, :1], scores[:, :, :1]
        return (best if hq_token_only else masks + best), scores

    def _attend(
        self, image: tuple[Tensor, Tensor], prompts: tuple[Tensor | None, Tensor], attention: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Tokens [N, P, T, C] and the image's map [N·P, C, h, w] after they have met."""
        (embedding, positions), (sparse, dense) = image, prompts
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hq_token.weight])
        each = 1 if sparse is None else sparse.shape[1]
        tokens = own.repeat(len(embedding), each, 1, 1)
        if sparse is not None:
            tokens = torch.cat([tokens, sparse], dim=2)
        tokens, places = self.transformer(
            point_embeddings=tokens,
            image_embeddings=(embedding + dense).repeat_interleave(each, dim=0),
            image_positional_embeddings=positions.repeat_interleave(each, dim=0),
            attention_similarity=attention.get("attention_similarity"),
            target_embedding=attention.get("target_embedding"),
        )
        return tokens, places.transpose(2, 3).reshape(-1, *embedding.shape[1:])

    def _upscale(self, maps: Tensor) -> Tensor:
        """Map [N·P, C, h, w] to [N·P, C/8, 4h, 4w]."""
        maps = self.activation(self.upscale_layer_norm(self.upscale_conv1(maps)))
        out: Tensor = self.activation(self.upscale_conv2(maps))
        return out

    def _fine(self, maps: Tensor, embedding: Tensor, early: Sequence[Tensor] | None, *, prompts: int) -> Tensor:
        """The maps, the embedding and the features of an early layer [N, h, w, C'], fused: [N·P, C/8, 4h, 4w]."""
        own = self.mask_conv2(self.activation(self.mask_norm(self.mask_conv1(maps))))
        image = self.encoder_conv2(self.activation(self.encoder_norm(self.encoder_conv1(embedding))))
        if early:
            channels_first = early[0].permute(0, 3, 1, 2)
            image = image + self.compress_vit_conv2(
                self.activation(self.compress_vit_norm(self.compress_vit_conv1(channels_first)))
            )
        out: Tensor = own + image.repeat_interleave(prompts, dim=0)
        return out


def _product(kernels: Tensor, maps: Tensor) -> Tensor:
    """Kernels [N, P, M, C] times maps [N·P, C, h, w]: [N, P, M, h, w]."""
    per_prompt = maps.reshape(*kernels.shape[:2], *maps.shape[1:]).flatten(3)
    return (kernels @ per_prompt).reshape(*kernels.shape[:3], *maps.shape[2:])


def mend(model: Any) -> None:
    """Make a SAM-HQ of transformers compute masks as its authors do, in place; the weights stay where they are."""
    if type(model.mask_decoder) is SamHQMaskDecoder:
        model.mask_decoder.__class__ = HqMaskDecoder
