"""A checksum for each tensor of a safetensors file, kept in the file's own metadata.

The entry `crc32` holds eight hexadecimal digits (CRC-32 of the tensor's bytes) for each tensor, in the order of the
tensors' names; for a model in several files each of them holds the digits of all tensors.
"""

import json
import zlib
from collections.abc import Collection, Mapping

import torch
from safetensors.torch import save
from torch import Tensor

_KEY, _DIGITS = "crc32", 8


def checksum(tensor: Tensor) -> str:
    """CRC-32 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{zlib.crc32(flat.numpy().data):0{_DIGITS}x}"


def write_checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata that says what the tensors are."""
    return {_KEY: "".join(checksum(tensors[name]) for name in sorted(tensors))}


def with_checksums(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of the tensors with their checksums; the same tensors always give the same bytes."""
    content = save(dict(tensors), metadata=write_checksums(tensors) | {"format": "pt"})
    # The library writes metadata in an order that changes from run to run.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return b"".join([content[:8], text.ljust(length), memoryview(content)[8 + length :]])


def read_checksums(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str] | None:
    """Name → checksum, as they were written; None if there are not as many as tensors."""
    digits = metadata.get(_KEY, "")
    if len(digits) != _DIGITS * len(names):
        return None
    pieces = [digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS)]
    return dict(zip(sorted(names), pieces, strict=True))


def lacking_checksums(source: str) -> str:
    """What to say of a file without them."""
    return (
        f"{source} lacks its checksums, as a file does that another tool saved again. Copy the original again. If you "
        "trust its values, write the checksums again: docs/formats/packed.md, “A file without checksums”."
    )
