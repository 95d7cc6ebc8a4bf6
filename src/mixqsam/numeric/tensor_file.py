"""Read quantized units from a safetensors file, each tensor once, and each checked before it is used.

For a unit `u` with a weight the file holds `u.weight` (codes as a bit stream, one-dimensional uint8: see
`numeric.packing`), `u.weight_scale` [channels] bfloat16 (or float32), `u.weight_zero` [channels] uint8, and its
input's quantizer: for the kind `affine` `u.input_scale` (float32) and `u.input_zero` (uint8), for other kinds the
fields that `numeric.quantizers` lists. A weight of 16 bits is `u.weight`, float16 or bfloat16, one-dimensional, without
a grid; an activation of 16 bits has no tensors. A product holds the same of its operands, `u.left_…` and `u.right_…`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mixqsam.errors import ArtifactError, shortened
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.checksums import checksum, lacking_checksums, read_checksums
from mixqsam.numeric.half import HALF_TYPES, HalfTensor, StoredWeight, Unquantized
from mixqsam.numeric.memory import aligned
from mixqsam.numeric.packing import packed_bytes
from mixqsam.numeric.quantizers import QUANTIZERS, ActivationQuantizer, Quantizer
from mixqsam.numeric.weights import QuantizedTensor, stored_scale
from mixqsam.plan import HALF_BITS


class TensorSource(ABC):
    """Tensors by name, each taken once and checked.

    Raises:
        ArtifactError: a tensor is missing, damaged or not what it should be; the message names it.
    """

    def __init__(self, names: Collection[str], *, source: str) -> None:
        self._source, self._left = source, set(names)

    @abstractmethod
    def _read(self, name: str) -> Tensor:
        """A tensor that is there."""

    def holds(self, name: str) -> bool:
        """Whether a tensor is there that was not taken yet."""
        return name in self._left

    def take(self, name: str, *, shape: tuple[int, ...] | int, dtype: torch.dtype) -> Tensor:
        """A tensor of the given shape (or rank) and type; NaN and infinity are refused.

        Where float32 is expected, a shorter float will do, and is converted. The tensor has aligned memory (see
        `numeric.memory`).
        """
        tensor = self._take(name)
        if tensor.dtype in {torch.float16, torch.bfloat16} and dtype == torch.float32:
            tensor = tensor.float()
        fits = tensor.ndim == shape if isinstance(shape, int) else tuple(tensor.shape) == shape
        if tensor.dtype != dtype or not fits:
            expected = f"{shape} axes" if isinstance(shape, int) else str(shape)
            raise ArtifactError(
                f"{self._source}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, expected {expected} of {dtype}."
            )
        return aligned(self._check_finite(name, tensor))

    def _take(self, name: str) -> Tensor:
        if name not in self._left:
            raise ArtifactError(f"{self._source}: the tensor {name} is missing.")
        tensor = self._read(name)
        self._left.discard(name)
        return tensor

    def _check_finite(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.dtype.is_floating_point and not torch.isfinite(tensor).all():
            raise ArtifactError(f"{self._source}: {name} holds NaN or infinity.")
        return tensor

    def half(self, name: str, *, shape: tuple[int, ...]) -> Tensor:
        """The values of a weight of 16 bits as they are stored: float16 or bfloat16, with one axis."""
        tensor = self._take(name)
        if tensor.dtype not in HALF_TYPES or tuple(tensor.shape) != (prod(shape),):
            raise ArtifactError(
                f"{self._source}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, expected ({prod(shape)},) of "
                "torch.float16 or torch.bfloat16."
            )
        return aligned(self._check_finite(name, tensor))

    def weight(self, unit: str, *, bits: int, shape: tuple[int, ...]) -> StoredWeight:
        """The weight of a unit; the first axis of `shape` is its channels."""
        if bits == HALF_BITS:
            return HalfTensor(self.half(f"{unit}.weight", shape=shape).reshape(shape))
        return self.codes(f"{unit}.weight", bits=bits, shape=shape, rows=shape[0])

    def codes(self, name: str, *, bits: int, shape: tuple[int, ...], rows: int) -> QuantizedTensor:
        """A tensor that is stored as codes, with a grid for each of `rows` rows."""
        parts = self.packed(name, bits=bits, shape=shape, rows=rows)
        grid = AffineGrid(bits, parts["_scale"].float()[:, None], parts["_zero"].float()[:, None])
        return QuantizedTensor.from_packed(parts[""], grid=grid, shape=shape)

    def packed(self, name: str, *, bits: int, shape: tuple[int, ...], rows: int) -> dict[str, Tensor]:
        """The same as it is stored (see `QuantizedTensor.tensors` and `HalfTensor.tensors`), of the right sizes."""
        if bits == HALF_BITS:
            return {"": self.half(name, shape=shape)}
        scale = self.take(f"{name}_scale", shape=(rows,), dtype=torch.float32)
        zero = self.take(f"{name}_zero", shape=(rows,), dtype=torch.uint8)
        if not bool((scale > 0).all()) or bool((zero > 2**bits - 1).any()):
            raise ArtifactError(f"{self._source}: {name} has a scale that is not positive or a zero off its grid.")
        size = packed_bytes(prod(shape), bits)
        return {"": self.take(name, shape=(size,), dtype=torch.uint8), "_scale": stored_scale(scale), "_zero": zero}

    def quantizer(
        self, name: str, *, kind: str, bits: int, channels: int | None = None, groups: int | None = None
    ) -> ActivationQuantizer:
        """The quantizer `u.operand`.

        Args:
            name: of the operand.
            kind: of the quantizer.
            bits: its bit-width.
            channels: how many channels its activations have, where that is fixed.
            groups: of channels that its layer keeps apart; None for an operand of a product.
        """
        if bits == HALF_BITS:
            return Unquantized()
        family = QUANTIZERS[kind]
        tensors = {
            field: self.take(f"{name}_{field}", shape=() if rank == 0 else rank, dtype=dtype)
            for field, (rank, dtype) in family.fields.items()
        }
        try:
            quantizer = family.restore(bits, tensors)
            quantizer.check_channels(channels)
            if groups is not None:
                quantizer.check_groups(groups)
        except ValueError as error:
            raise ArtifactError(f"{self._source}: {shortened(name)} has {shortened(error)}.") from error
        return quantizer

    def check_all_used(self) -> None:
        """Refuse a source that holds more than was taken."""
        if self._left:
            raise ArtifactError(f"{self._source} holds tensors that the model does not have, e.g. {min(self._left)}.")


class TensorTable(TensorSource):
    """Tensors that are in memory; `source` says where they came from. A tensor is released when it is taken."""

    def __init__(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        super().__init__(tensors, source=source)
        self._tensors = dict(tensors)

    def _read(self, name: str) -> Tensor:
        return self._tensors.pop(name)


class TensorFile(TensorSource):
    """The tensors of a file, or of several that hold one model together; a context manager.

    Args:
        paths: the file, or the shards.
        checked: the checksums that `numeric.checksums` describes have to be there.

    Raises:
        ArtifactError: a file is missing, cut or damaged; so do all methods, and they name the tensor.
    """

    def __init__(self, *paths: Path, checked: bool = False) -> None:
        self._stack = ExitStack()
        self._places: dict[str, Any] = {}
        for path in paths:
            try:
                file: Any = self._stack.enter_context(safe_open(path, framework="pt"))
                self._places |= dict.fromkeys(file.keys(), file)
                self.metadata: dict[str, str] = dict(file.metadata() or {})
            except FileNotFoundError as error:
                raise ArtifactError(f"{path} does not exist; the directory is not complete.") from error
            except (SafetensorError, OSError) as error:
                raise ArtifactError(f"{path} is cut or damaged: {shortened(error)}.") from error
        super().__init__(self._places, source=str(paths[0]))
        self._sums = read_checksums(self.metadata, self._left) if checked else None
        self._unchecked = checked and self._sums is None

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def _read(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._places[name].get_tensor(name)
        except SafetensorError as error:
            raise ArtifactError(
                f"{self._source}: the tensor {shortened(name)} cannot be read: {shortened(error)}."
            ) from error
        if self._sums is not None and checksum(tensor) != self._sums[name]:
            raise ArtifactError(f"{self._source}: {name} was altered; its checksum is not the one that was written.")
        return tensor

    def check_all_used(self) -> None:
        """As for any source; a file also has to have the checksums that were asked for."""
        super().check_all_used()
        if self._unchecked:
            raise ArtifactError(lacking_checksums(self._source))


def kinds_of(quantizers: Mapping[str, ActivationQuantizer]) -> dict[str, str]:
    """Operand → kind, of those that bits do not tell: all but affine ones, and activations without a quantizer."""
    plain = {Quantizer.kind, Unquantized.kind}
    return {operand: one.kind for operand, one in quantizers.items() if one.kind not in plain}
