"""Codes of 2 to 8 bits as a stream of bits.

Code k occupies bits k·b … k·b + b − 1 of the stream, least significant bit first, and bit j of the stream is
bit j mod 8 of byte j div 8. The last byte is filled up with zeros.
"""

import numpy as np
import torch
from torch import Tensor

from mixqsam.errors import ArtifactError

# 8 codes fill whole bytes at any bit-width; this many groups of 8 are expanded at once.
_BLOCK = 1 << 17


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes `count` codes take."""
    return (count * bits + 7) // 8


def pack(codes: Tensor, *, bits: int) -> Tensor:
    """Pack codes into a one-dimensional uint8 tensor.

    Args:
        codes: uint8, any shape, each below 2^bits.
        bits: 2 to 8.

    Raises:
        ValueError: a code does not fit.
    """
    flat = codes.reshape(-1).cpu().numpy()
    if flat.size and int(flat.max()) >= 1 << bits:
        raise ValueError(f"code {int(flat.max())} does not fit {bits} bits")
    if bits == 8:
        return torch.from_numpy(flat.copy())
    out = np.zeros(packed_bytes(flat.size, bits), dtype=np.uint8)
    for start in range(0, flat.size, 8 * _BLOCK):
        part = flat[start : start + 8 * _BLOCK]
        spread = np.unpackbits(part[:, None], axis=1, count=bits, bitorder="little")
        packed = np.packbits(spread.reshape(-1), bitorder="little")
        out[start // 8 * bits : start // 8 * bits + packed.size] = packed
    return torch.from_numpy(out)


def unpack(packed: Tensor, *, bits: int, count: int) -> Tensor:
    """The inverse of `pack`: `count` codes as a one-dimensional uint8 tensor.

    Raises:
        ArtifactError: the packed tensor has another length than `count` codes take.
    """
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.numel() != packed_bytes(count, bits):
        raise ArtifactError(
            f"expected {packed_bytes(count, bits)} bytes for {count} codes of {bits} bits, "
            f"got {tuple(packed.shape)} of {packed.dtype}"
        )
    data = packed.cpu().numpy()
    if bits == 8:
        return torch.from_numpy(data.copy())
    groups = -(-count // 8)
    data = np.pad(data, (0, groups * bits - data.size)).reshape(groups, bits)
    return torch.from_numpy(_unpack_groups(data, bits).reshape(-1)[:count])


def _unpack_groups(data: np.ndarray, bits: int) -> np.ndarray:
    """Eight codes from each row of `bits` bytes, by shifting 16-bit windows."""
    wide = np.zeros((data.shape[0], bits + 1), dtype=np.uint16)
    wide[:, :bits] = data
    codes = np.empty((data.shape[0], 8), dtype=np.uint8)
    for index in range(8):
        byte, shift = divmod(index * bits, 8)
        window = wide[:, byte] | (wide[:, byte + 1] << np.uint16(8))
        codes[:, index] = (window >> np.uint16(shift)) & np.uint16((1 << bits) - 1)
    return codes
