"""What follows a mask decoder: one mask of four, and masks at the image's size."""

import numpy as np

from mixqsam.exporting.graph import Graph


def ends(graph: Graph, start: int, stop: int) -> list[str]:
    """The inputs `starts` and `ends` of a Slice along one axis."""
    return [graph.constant([v], np.int64) for v in (start, stop)]


def choose(graph: Graph, logits: str, scores: str, *, masks: int) -> tuple[str, str]:
    """One mask, chosen as Meta's decoder does: the first one for three points and more, else the surest of the others.

    Args:
        graph: it grows; its input `point_coords` tells the number of points.
        logits: [P, masks, h, w].
        scores: predicted IoU [P, masks].
        masks: of each prompt.

    Returns:
        Logits [P, 1, h, w] and predicted IoU [P, 1].
    """
    count = graph.add("Cast", graph.add("Slice", graph.add("Shape", "point_coords"), *ends(graph, 1, 2)), to=1)
    weight = np.zeros((1, masks), np.float32)
    weight[0, 0] = 1000
    bonus = graph.add("Mul", graph.add("Sub", count, graph.constant(2.5)), graph.constant(weight))
    best = graph.add("ArgMax", graph.add("Add", scores, bonus), axis=1, keepdims=1)
    place = graph.add("Unsqueeze", best, graph.constant([-1], np.int64))
    return graph.add("GatherND", logits, place, batch_dims=1), graph.add("GatherElements", scores, best, axis=1)


def upscale(graph: Graph, logits: str, *, side: int, longest: int, stretches: bool = False) -> None:
    """Logits to the frame, cut to the image, and to the image's own size: the output `masks`.

    Args:
        graph: it grows; its input `orig_im_size` tells the image's size.
        logits: [P, M, h, w].
        side: of the frame.
        longest: what the longer side of an image becomes in it.
        stretches: the image fills the frame; logits go to its size at once.
    """
    original = graph.add("Cast", "orig_im_size", to=7)
    seen = logits if stretches else _cut(graph, logits, original, side=side, longest=longest)
    graph.add("Identity", _resized(graph, seen, original), outputs=["masks"])


def _cut(graph: Graph, logits: str, original: str, *, side: int, longest: int) -> str:
    """Logits of the part of the frame that shows the image."""
    frame = _resized(graph, logits, graph.constant([side, side], np.int64))
    greatest = graph.add("ReduceMax", original, keepdims=1)
    # ⌊original·longest / greatest + ½⌋ in whole numbers: runtimes that compute in bfloat16 would be off by a pixel.
    doubled = graph.add("Add", graph.add("Mul", original, graph.constant(2 * longest, np.int64)), greatest)
    visible = graph.add("Div", doubled, graph.add("Mul", greatest, graph.constant(2, np.int64)))
    origin, axes = graph.constant([0, 0], np.int64), graph.constant([2, 3], np.int64)
    return graph.add("Slice", frame, origin, visible, axes)


def _resized(graph: Graph, image: str, size: str) -> str:
    lead = graph.add("Slice", graph.add("Shape", image), *ends(graph, 0, 2))
    sizes = graph.add("Concat", lead, size, axis=0)
    return graph.add("Resize", image, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
