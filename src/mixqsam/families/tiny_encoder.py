"""The encoder of MobileSAM and light SAM-HQ: a TinyViT and its neck."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixqsam.families import two_way
from mixqsam.families.family import BlockPath, Resizing
from mixqsam.families.sizes import check_fit, check_sizes
from mixqsam.plan import Part, Role

_ENCODER, _NECK = "vision_encoder", "vision_encoder.neck"
ROLES: dict[str, Role] = two_way.ROLES | {"qkv": "query-key-value", "proj": "projection"}
# Windows have their biases, whatever the size of the map.
RESIZING = Resizing(multiple=two_way.patch_size, configure=two_way.configure_size)


def part(name: str) -> Part | None:
    """Stages and neck of the encoder, and the two-way transformer; the patch embedding stays float, as SAM's does."""
    if name.startswith((f"{_ENCODER}.layers.", f"{_NECK}.")):
        return "encoder"
    return two_way.decoder_part(name)


def block(name: str) -> str:
    """`1.0` (stage and block), `merge 1` (behind that stage), `neck`, or the decoder's."""
    parts = name.split(".")
    if parts[0] != _ENCODER:
        return two_way.decoder_block(name)
    if parts[1] != "layers":
        return "neck"
    return f"merge {parts[2]}" if parts[3] == "downsample" else f"{parts[2]}.{parts[4]}"


def blocks(config: Any) -> Sequence[BlockPath]:
    """Each block and each merge of the encoder, its neck, and the decoder's blocks."""
    paths = []
    depths = config.vision_config.depths
    for stage, depth in enumerate(depths):
        paths += [f"{_ENCODER}.layers.{stage}.blocks.{index}" for index in range(depth)]
        paths += [f"{_ENCODER}.layers.{stage}.downsample"] if stage < len(depths) - 1 else []
    return [*(BlockPath(path) for path in [*paths, _NECK]), *two_way.decoder_blocks(config)]


def check(kind: Any, values: Mapping[str, Any]) -> None:
    """Refuse sizes that no such model has, or that do not fit each other.

    Args:
        kind: class of configurations.
        values: of a `config.json`.

    Raises:
        ValueError: the message names the entry.
    """
    check_sizes(values)
    check_fit(kind.from_dict({name: value for name, value in values.items() if name != "quantization_config"}))


def sample_vision() -> dict[str, Any]:
    """Every kind of block, with windows that are padded, on a map of 3 × 3."""
    return {
        "image_size": 48,
        "embed_dims": [4, 8, 12, 16],
        "depths": [1, 1, 1, 1],
        "num_heads": [2, 2, 2],
        "window_sizes": [4, 2, 2],
        **two_way.SAMPLE_NECK,
    }
