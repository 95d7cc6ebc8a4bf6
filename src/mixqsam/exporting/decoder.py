"""Prompt encoder and mask decoder as a graph with the inputs and outputs of Meta's exported decoder.

Inputs: image_embeddings [1, C, h, w]; point_coords [P, N, 2] in the frame's pixels; point_labels [P, N]: 1 object,
0 background, 2 and 3 the corners of a box, −1 no point; mask_input [1, 1, 4h, 4w], one mask for all prompts;
has_mask_input [1]; orig_im_size [2], height and width. Outputs: masks [P, M, height, width] (logits),
iou_predictions [P, M], low_res_masks [P, M, 4h, 4w]. Meta's has P = 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ValueInfoProto
from torch import nn

from mixqsam.exporting.activations import find_activation
from mixqsam.exporting.arrays import array
from mixqsam.exporting.graph import Graph, tensor
from mixqsam.exporting.layers import Layers
from mixqsam.exporting.masks import choose, ends, upscale
from mixqsam.numeric.attention import DecoderAttention
from mixqsam.sam.load import Sam


def embedding_value(sam: Sam) -> ValueInfoProto:
    """What the encoder gives and the decoder takes."""
    config = sam.config.prompt_encoder_config
    side = config.image_embedding_size
    return tensor("image_embeddings", 1, config.hidden_size, side, side)


def decoder_values(maps: Sequence[ValueInfoProto]) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Inputs and outputs; `maps` are what the encoder gives, its embedding [1, C, h, w] before others."""
    side = 4 * maps[0].type.tensor_type.shape.dim[-1].dim_value
    inputs = [
        *maps,
        tensor("point_coords", "prompts", "points", 2),
        tensor("point_labels", "prompts", "points"),
        tensor("mask_input", 1, 1, side, side),
        tensor("has_mask_input", 1),
        tensor("orig_im_size", 2),
    ]
    outputs = [
        tensor("masks", "prompts", "masks", "height", "width"),
        tensor("iou_predictions", "prompts", "masks"),
        tensor("low_res_masks", "prompts", "masks", side, side),
    ]
    return inputs, outputs


def write_decoder(graph: Graph, sam: Sam, *, single: bool) -> dict[str, str]:
    """Add the decoder to a graph.

    Args:
        graph: it grows.
        sam: a quantized model, packed or fake-quantized.
        single: give one mask for each prompt, chosen as Meta's decoder does; otherwise all four.

    Returns:
        Units whose products stay in float arithmetic, and why.
    """
    return _Decoder(graph, sam).write(single=single)


class _Decoder:
    def __init__(self, graph: Graph, sam: Sam) -> None:
        self.graph, self.layers, self.sam = graph, Layers(graph, sam.rest), sam
        self.decoder, self.prompts = sam.model.mask_decoder, sam.model.prompt_encoder
        config = sam.config.prompt_encoder_config
        self.side, self.channels = config.image_embedding_size, config.hidden_size
        self.activate = find_activation(config.hidden_act, field="prompt_encoder_config.hidden_act")
        activation = sam.config.mask_decoder_config.hidden_act
        self.activate_tokens = find_activation(activation, field="mask_decoder_config.hidden_act")

    def write(self, *, single: bool) -> dict[str, str]:
        graph, side = self.graph, self.side
        points = self._tokens(self._points())
        image = graph.add("Add", "image_embeddings", self._masks())
        # One image for all prompts: until it has met them it is not repeated.
        keys = graph.transpose(graph.reshape(image, 0, self.channels, side**2), 0, 2, 1)
        queries, keys = self._transformer(points, keys)
        logits, scores = self._heads(queries, keys)
        if single:
            logits, scores = choose(graph, logits, scores, masks=self.decoder.num_mask_tokens)
        graph.add("Identity", scores, outputs=["iou_predictions"])
        graph.add("Identity", logits, outputs=["low_res_masks"])
        upscale(graph, logits, side=self.sam.image_size, longest=self.sam.pixel_settings.longest)
        return self.layers.float_units

    def _points(self) -> str:
        """Embeddings of points, corners of boxes and padding: [P, N, C]."""
        graph, prompts = self.graph, self.prompts
        centres = graph.add("Add", "point_coords", graph.constant(0.5))
        scaled = graph.add("Mul", centres, graph.constant(2 / prompts.input_image_size))
        places = self._fourier(graph.add("Sub", scaled, graph.constant(1.0)))
        labels = graph.add("Unsqueeze", "point_labels", graph.constant([-1], np.int64))

        def where(label: int, yes: str, no: str) -> str:
            return graph.add("Where", graph.add("Equal", labels, graph.constant(float(label))), yes, no)

        embedded = where(-1, graph.constant(array(prompts.not_a_point_embed.weight)), places)
        for label, embedding in enumerate(prompts.point_embed):
            embedded = where(label, graph.add("Add", places, graph.constant(array(embedding.weight))), embedded)
        return embedded

    def _places(self) -> str:
        """Embeddings of the image's own places [1, h·w, C]; runtimes make them once, when a session starts."""
        graph, side = self.graph, self.side
        middle = 2 * (np.arange(side) + 0.5) / side - 1
        grid = np.stack(np.meshgrid(middle, middle), axis=-1)
        return self._fourier(graph.constant(grid.reshape(1, side**2, 2)))

    def _fourier(self, coordinates: str) -> str:
        """Coordinates in [−1, 1], [… , 2] → [… , C]."""
        graph = self.graph
        table = array(self.prompts.shared_embedding.positional_embedding)
        angles = graph.add("MatMul", coordinates, graph.constant(2 * np.pi * table))
        return graph.add("Concat", graph.add("Sin", angles), graph.add("Cos", angles), axis=-1)

    def _masks(self) -> str:
        """The dense embedding of masks, or that of no mask."""
        graph, layers, embed = self.graph, self.layers, self.prompts.mask_embed
        found = "mask_input"
        for index in (1, 2):
            unit = f"prompt_encoder.mask_embed.conv{index}"
            found = layers.convolution(found, getattr(embed, f"conv{index}"), unit=unit)
            found = self.activate(graph, layers.norm_of_channels(found, getattr(embed, f"layer_norm{index}")))
        found = layers.convolution(found, embed.conv3, unit="prompt_encoder.mask_embed.conv3")
        none = graph.constant(array(self.prompts.no_mask_embed.weight).reshape(1, -1, 1, 1))
        # Not has·a + (1 − has)·b: some clients send −1 for "no mask".
        given = graph.add("Greater", "has_mask_input", graph.constant(0.0))
        return graph.add("Where", given, found, none)

    def _tokens(self, points: str) -> str:
        """IoU token, mask tokens and prompts: [P, T, C]."""
        graph, decoder = self.graph, self.decoder
        own = np.concatenate([array(decoder.iou_token.weight), array(decoder.mask_tokens.weight)])[None]
        count = graph.add("Slice", graph.add("Shape", points), *ends(graph, 0, 1))
        shape = graph.add("Concat", count, graph.constant(own.shape[1:], np.int64), axis=0)
        return graph.add("Concat", graph.add("Expand", graph.constant(own), shape), points, axis=1)

    def _transformer(self, points: str, keys: str) -> tuple[str, str]:
        graph, layers, decoder = self.graph, self.layers, self.decoder
        root, queries = "mask_decoder.transformer", points
        positions = self._places()
        for index, block in enumerate(decoder.transformer.layers):
            name = f"{root}.layers.{index}"
            query = queries if block.skip_first_layer_pe else graph.add("Add", queries, points)
            attended = self._attend(query, query, queries, block.self_attn, f"{name}.self_attn")
            queries = attended if block.skip_first_layer_pe else graph.add("Add", queries, attended)
            queries = layers.norm(queries, block.layer_norm1)
            queries = self._look(queries, points, keys, positions, block.cross_attn_token_to_image, name)
            queries = layers.norm(queries, block.layer_norm2)
            wide = self.activate_tokens(graph, layers.linear(queries, block.mlp.lin1, unit=f"{name}.mlp.lin1"))
            queries = graph.add("Add", queries, layers.linear(wide, block.mlp.lin2, unit=f"{name}.mlp.lin2"))
            queries = layers.norm(queries, block.layer_norm3)
            key, query = graph.add("Add", keys, positions), graph.add("Add", queries, points)
            back = f"{name}.cross_attn_image_to_token"
            keys = graph.add("Add", keys, self._attend(key, query, queries, block.cross_attn_image_to_token, back))
            keys = layers.norm(keys, block.layer_norm4)
        final = decoder.transformer.final_attn_token_to_image
        queries = self._look(queries, points, keys, positions, final, root, tail="final_attn_token_to_image")
        return layers.norm(queries, decoder.transformer.layer_norm_final_attn), keys

    def _look(
        self,
        queries: str,
        points: str,
        keys: str,
        positions: str,
        attention: DecoderAttention,
        name: str,
        tail: str = "cross_attn_token_to_image",
    ) -> str:
        """Tokens attend to the image, and are added to what they see."""
        graph = self.graph
        query, key = graph.add("Add", queries, points), graph.add("Add", keys, positions)
        return graph.add("Add", queries, self._attend(query, key, keys, attention, f"{name}.{tail}"))

    def _attend(self, query: str, key: str, value: str, attention: DecoderAttention, name: str) -> str:
        """[P, n, C] attend to [P, m, C]."""
        graph, layers = self.graph, self.layers
        width, heads = _width(attention.q_proj), attention.heads

        def project(values: str, layer: nn.Module, tail: str, *axes: int) -> str:
            found = layers.linear(values, layer, unit=f"{name}.{tail}")
            return graph.transpose(graph.reshape(found, 0, -1, heads, width // heads), *axes)

        q = layers.activation(
            project(query, attention.q_proj, "q_proj", 0, 2, 1, 3), attention.qk.left, unit=f"{name}.qk"
        )
        k = layers.activation(
            project(key, attention.k_proj, "k_proj", 0, 2, 3, 1), attention.qk.right, unit=f"{name}.qk"
        )
        v = layers.activation(
            project(value, attention.v_proj, "v_proj", 0, 2, 1, 3), attention.av.right, unit=f"{name}.av"
        )
        logits = graph.add("MatMul", graph.add("Mul", q, graph.constant(attention.scale)), k)
        weights = layers.activation(graph.add("Softmax", logits, axis=-1), attention.av.left, unit=f"{name}.av")
        mixed = graph.transpose(graph.add("MatMul", weights, v), 0, 2, 1, 3)
        return layers.linear(graph.reshape(mixed, 0, -1, width), attention.out_proj, unit=f"{name}.out_proj")

    def _heads(self, queries: str, keys: str) -> tuple[str, str]:
        """Low-resolution logits [P, M, 4h, 4w] and predicted IoU [P, M]."""
        graph, layers, decoder = self.graph, self.layers, self.decoder
        # Channels stay last, and pixels in the order of the places that they come from: only the logits change places.
        pixels = layers.norm(self._doubled(keys, decoder.upscale_conv1, "upscale_conv1"), decoder.upscale_layer_norm)
        pixels = graph.add("Gelu", self._doubled(graph.add("Gelu", pixels), decoder.upscale_conv2, "upscale_conv2"))
        masks = []
        for index, head in enumerate(decoder.output_hypernetworks_mlps):
            token = graph.add("Slice", queries, *ends(graph, 1 + index, 2 + index), graph.constant([1], np.int64))
            masks.append(self._feed(token, head, f"output_hypernetworks_mlps.{index}"))
        weights = graph.transpose(graph.add("Concat", *masks, axis=1), 0, 2, 1)
        logits = self._placed(graph.add("MatMul", pixels, weights), masks=len(masks))
        token = graph.add("Slice", queries, *ends(graph, 0, 1), graph.constant([1], np.int64))
        scores = self._feed(token, decoder.iou_prediction_head, "iou_prediction_head")
        return logits, graph.reshape(scores, 0, len(masks))

    def _doubled(self, places: str, layer: Any, name: str) -> str:
        """A transposed convolution of 2 × 2 pixels without overlap, as a product: [P, n, C] → [P, 4·n, C']."""
        graph = self.graph
        weight = self.layers.tensor(f"mask_decoder.{name}.weight", layer.weight)
        weight = graph.reshape(graph.transpose(weight, 0, 2, 3, 1), layer.weight.shape[0], -1)
        product = graph.add("MatMul", places, weight)
        biased = graph.add("Add", product, graph.constant(np.tile(array(layer.bias), 4)))
        return graph.reshape(biased, 0, -1, layer.weight.shape[1])

    def _placed(self, logits: str, *, masks: int) -> str:
        """Logits [P, h·w·16, M], those of a place one after the other → [P, M, 4h, 4w]."""
        graph, side = self.graph, self.side
        apart = graph.transpose(graph.reshape(logits, 0, side**2, 16 * masks), 0, 2, 1)
        image = graph.reshape(apart, 0, 16 * masks, side, side)
        for _ in range(2):
            image = graph.add("DepthToSpace", image, blocksize=2)
        return image

    def _feed(self, token: str, head: Any, name: str) -> str:
        root = f"mask_decoder.{name}"
        found = self.graph.add("Relu", self.layers.linear(token, head.proj_in, unit=f"{root}.proj_in"))
        for index, layer in enumerate(head.layers):
            found = self.graph.add("Relu", self.layers.linear(found, layer, unit=f"{root}.layers.{index}"))
        return self.layers.linear(found, head.proj_out, unit=f"{root}.proj_out")


def _width(layer: Any) -> int:
    return int((layer.stored.shape if hasattr(layer, "stored") else layer.weight.shape)[0])
