"""The mask decoder of one image and many prompts: what all prompts share is computed once."""

from typing import Any

from torch import Tensor

from mixqsam.families.two_way_decoder import MaskDecoder


class IntegerMaskDecoder(MaskDecoder):
    """A decoder that repeats an image for its prompts only where they have changed it.

    The results are those of `MaskDecoder` to the last bit: each row of a product is computed from the same values.
    """

    def _attend(self, tokens: Tensor, image: Tensor, positions: Tensor, more: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if len(image) > 1 or any(value is not None for value in more.values()):
            return super()._attend(tokens, image, positions, more)
        transformer = self.transformer
        places, positions = (maps.flatten(2).transpose(1, 2)[:, None] for maps in (image, positions))
        queries = tokens
        for layer in transformer.layers:
            queries, places = _meet(layer, queries, places, tokens, positions)
        seen = _look(transformer.final_attn_token_to_image, queries + tokens, places + positions, places)
        return transformer.layer_norm_final_attn(queries + seen), places


def _meet(layer: Any, queries: Tensor, places: Tensor, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """One layer: tokens [1, P, T, C] and places [P or 1, 1, n, C], and what was added to both at the start."""
    query = queries if layer.skip_first_layer_pe else queries + tokens
    attended, _ = layer.self_attn(query=query, key=query, value=queries)
    queries = layer.layer_norm1(attended if layer.skip_first_layer_pe else queries + attended)
    key = places + positions
    queries = layer.layer_norm2(queries + _look(layer.cross_attn_token_to_image, queries + tokens, key, places))
    queries = layer.layer_norm3(queries + layer.mlp(queries))
    attended, _ = layer.cross_attn_image_to_token(query=key, key=queries + tokens, value=queries)
    return queries, layer.layer_norm4(attended.add_(places))


def _look(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What tokens [1, P, T, C] see in places [P or 1, 1, n, C]."""
    # Each token looks by itself, so those of all prompts look at a common image as those of one.
    asked = query.flatten(1, 2)[:, None] if len(key) == 1 else query
    seen, _ = attention(query=asked, key=key, value=value)
    out: Tensor = seen.reshape(query.shape)
    return out
