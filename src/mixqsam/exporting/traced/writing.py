"""Write encoder and decoder of any family, with the inputs and outputs of the hand-written graphs."""

import json
from collections.abc import Mapping
from functools import partial

import onnx
import torch

from mixqsam.deployed.names import EMBEDDING
from mixqsam.exporting.graph import Graph, tensor
from mixqsam.exporting.masks import choose, upscale
from mixqsam.exporting.traced.modules import Decoding, Encoding
from mixqsam.exporting.traced.placeholders import placeholders
from mixqsam.exporting.traced.prompts import embed, measure_padding
from mixqsam.exporting.traced.repeated import find_repeated
from mixqsam.exporting.traced.rewriting import rewrite
from mixqsam.exporting.traced.tracing import trace
from mixqsam.sam.load import Sam

# What families call the map that exported models call `EMBEDDING`.
_MAIN = "embedding"
# Masks of each prompt: the one of `multimask=False`, and three.
_MASKS = 4


def map_values(sam: Sam) -> list[onnx.ValueInfoProto]:
    """What the encoder gives and the decoder takes."""
    return [tensor(_exported(name), *shape) for name, shape in _map_shapes(sam).items()]


def padding_of(sam: Sam) -> Mapping[str, int]:
    """How many points labelled −1 the decoder wants behind prompts; see `mixqsam.deployed.names.PADDING`.

    Raises:
        InputError: the family embeds prompts otherwise than SAM.
    """
    return measure_padding(sam.model, sam.family, side=sam.image_size, mask_side=4 * _map_shapes(sam)[_MAIN][-1])


def write_encoder(graph: Graph, sam: Sam, frame: str, *, apart: bool) -> dict[str, str]:
    """Add the encoder to a graph, with an output for each map.

    Args:
        graph: it grows.
        sam: a quantized model, packed or fake-quantized.
        frame: value [1, 3, S, S], normalised.
        apart: see `mixqsam.exporting.traced.convolutions.write_convolution`.

    Returns:
        Units whose products stay in float arithmetic, and why.

    Raises:
        InputError: the model does what cannot be traced.
    """
    side = sam.image_size
    with placeholders(sam.model):
        traced = trace(
            Encoding(sam.model, sam.family),
            {frame: torch.zeros(1, 3, side, side)},
            outputs=[_exported(name) for name in _map_shapes(sam)],
        )
    return rewrite(graph, traced, sam, apart=apart)


def write_decoder(graph: Graph, sam: Sam, *, single: bool, apart: bool) -> dict[str, str]:
    """Add prompt encoder and mask decoder to a graph.

    Args:
        graph: it grows.
        sam: a quantized model, packed or fake-quantized.
        single: give one mask for each prompt, chosen as Meta's decoder does; otherwise all four.
        apart: see `mixqsam.exporting.traced.convolutions.write_convolution`.

    Returns:
        Units whose products stay in float arithmetic, and why.

    Raises:
        InputError: the model does what cannot be traced.
    """
    logits, scores = ("four_logits", "four_scores") if single else ("low_res_masks", "iou_predictions")
    units = rewrite(graph, _trace_decoder(sam, outputs=[logits, scores]), sam, apart=apart)
    if single:
        logits, scores = choose(graph, logits, scores, masks=_MASKS)
        graph.add("Identity", logits, outputs=["low_res_masks"])
        graph.add("Identity", scores, outputs=["iou_predictions"])
    stretches = sam.family.framing.stretches
    upscale(graph, logits, side=sam.image_size, longest=sam.pixel_settings.longest, stretches=stretches)
    return units


def _trace_decoder(sam: Sam, *, outputs: list[str]) -> onnx.ModelProto:
    shapes = _map_shapes(sam)
    side, free = 4 * shapes[_MAIN][-1], {0: "prompts", 1: "points"}
    # Three prompts of five points: two sizes that differ, for the trace takes equal ones for the same.
    prompts = {
        "point_coords": torch.zeros(3, 5, 2),
        "point_labels": torch.ones(3, 5),
        "mask_input": torch.zeros(1, 1, side, side),
        "has_mask_input": torch.zeros(1),
    }
    repeated = _find_repeated(sam, shapes, prompts)
    with placeholders(sam.model):
        return trace(
            Decoding(sam.model, sam.family, tuple(shapes), repeated),
            {_exported(name): torch.zeros(shape) for name, shape in shapes.items()} | prompts,
            outputs=outputs,
            free={"point_coords": free, "point_labels": free},
        )


def _find_repeated(sam: Sam, shapes: Mapping[str, tuple[int, ...]], prompts: Mapping[str, torch.Tensor]) -> list[str]:
    """Modules of the decoder that give the same for one mask and for three, found on random maps."""
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.randn(shape, generator=generator).to(sam.device) for name, shape in shapes.items()}
    with torch.no_grad():
        given = embed(sam.model, sam.family, *(one.to(sam.device) for one in prompts.values()))
        runs = [partial(sam.family.decode, sam.model, maps, given, multimask=many) for many in (False, True)]
        return find_repeated(sam.model, runs)


def _map_shapes(sam: Sam) -> Mapping[str, tuple[int, ...]]:
    """The maps of one image, by the family's names."""
    family, side = sam.family, sam.image_size
    # That of the model names the engine's attentions, which a new model does not know yet.
    config = family.config.from_dict(json.loads(sam.config.to_json_string()))
    with torch.device("meta"), torch.no_grad():
        model = family.model(config).eval()
        family.prepare(model)
        maps = family.encode(model, torch.zeros(1, 3, side, side))
    return {name: tuple(values.shape) for name, values in maps.items()}


def _exported(name: str) -> str:
    return EMBEDDING if name == _MAIN else name
