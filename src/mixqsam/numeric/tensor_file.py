"""Read quantized units from a safetensors file, each tensor once, and each checked before it is used.

For a unit `u` with a weight the file holds `u.weight` (codes as a bit stream, one-dimensional uint8: see
`numeric.packing`), `u.weight_scale` [channels] bfloat16 (or float32), `u.weight_zero` [channels] uint8, and its input's quantizer:
for the kind `affine` `u.input_scale` (float32) and `u.input_zero` (uint8), for other kinds the fields that
`numeric.quantizers` lists. A product holds the same of its operands, `u.left_…` and `u.right_…`.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mixqsam.errors import ArtifactError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.checksums import checksum, read_checksums
from mixqsam.numeric.quantizers import QUANTIZERS, ActivationQuantizer
from mixqsam.numeric.weights import QuantizedTensor


class TensorFile:
    """The tensors of a file, or of several that hold one model together; a context manager.

    Args:
        paths: the file, or the shards.
        checked: the checksums that `numeric.checksums` describes have to be there.

    Raises:
        ArtifactError: a file is missing, cut or damaged; so do all methods, and they name the tensor.
    """

    def __init__(self, *paths: Path, checked: bool = False) -> None:
        self._path = paths[0]
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
                raise ArtifactError(f"{path} is cut or damaged: {error}.") from error
        self._left = set(self._places)
        self._sums = read_checksums(self.metadata, self._left) if checked else None
        self._unchecked = checked and self._sums is None

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def take(self, name: str, *, shape: tuple[int, ...] | int, dtype: torch.dtype) -> Tensor:
        """A tensor of the given shape (or rank) and type; NaN and infinity are refused.

        Where float32 is expected, a shorter float will do, and is converted.
        """
        if name not in self._left:
            raise ArtifactError(f"{self._path}: the tensor {name} is missing.")
        try:
            tensor: Tensor = self._places[name].get_tensor(name)
        except SafetensorError as error:
            raise ArtifactError(f"{self._path}: the tensor {name} cannot be read: {error}.") from error
        self._left.discard(name)
        if self._sums is not None and checksum(tensor) != self._sums[name]:
            raise ArtifactError(f"{self._path}: {name} was altered; its checksum is not the one that was written.")
        if tensor.dtype in {torch.float16, torch.bfloat16} and dtype == torch.float32:
            tensor = tensor.float()
        fits = tensor.ndim == shape if isinstance(shape, int) else tuple(tensor.shape) == shape
        if tensor.dtype != dtype or not fits:
            expected = f"{shape} axes" if isinstance(shape, int) else str(shape)
            raise ArtifactError(
                f"{self._path}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, expected {expected} of {dtype}."
            )
        if dtype.is_floating_point and not torch.isfinite(tensor).all():
            raise ArtifactError(f"{self._path}: {name} holds NaN or infinity.")
        return tensor

    def weight(self, unit: str, *, bits: int, shape: tuple[int, ...]) -> QuantizedTensor:
        """The weight of a unit; the first axis of `shape` is its channels."""
        return self.codes(f"{unit}.weight", bits=bits, shape=shape, rows=shape[0])

    def codes(self, name: str, *, bits: int, shape: tuple[int, ...], rows: int) -> QuantizedTensor:
        """A tensor that is stored as codes, with a grid for each of `rows` rows."""
        scale = self.take(f"{name}_scale", shape=(rows,), dtype=torch.float32)
        zero = self.take(f"{name}_zero", shape=(rows,), dtype=torch.uint8).float()
        if not bool((scale > 0).all()) or bool((zero > 2**bits - 1).any()):
            raise ArtifactError(f"{self._path}: {name} has a scale that is not positive or a zero off its grid.")
        grid = AffineGrid(bits, scale[:, None], zero[:, None])
        packed = self.take(name, shape=1, dtype=torch.uint8)
        try:
            return QuantizedTensor.from_packed(packed, grid=grid, shape=shape)
        except ArtifactError as error:
            raise ArtifactError(f"{self._path}: {name}: {error}.") from error

    def quantizer(self, name: str, *, kind: str, bits: int, channels: int | None = None) -> ActivationQuantizer:
        """The quantizer `u.role`; `channels` is how many a grouped one must know."""
        family = QUANTIZERS[kind]
        tensors = {
            field: self.take(f"{name}_{field}", shape=() if rank == 0 else rank, dtype=dtype)
            for field, (rank, dtype) in family.fields.items()
        }
        if "group" in tensors and len(tensors["group"]) != channels:
            raise ArtifactError(f"{self._path}: {name} groups {len(tensors['group'])} channels of {channels}.")
        try:
            return family.restore(bits, tensors)
        except ValueError as error:
            raise ArtifactError(f"{self._path}: {name} has {error}.") from error

    def check_all_used(self) -> None:
        """Refuse a file that holds more than was taken, or lacks the checksums that it has to have."""
        if self._left:
            raise ArtifactError(f"{self._path} holds tensors that the model does not have, e.g. {min(self._left)}.")
        if self._unchecked:
            raise ArtifactError(f"{self._path} lacks its checksums; copy the directory anew, or make it again.")


def kinds_of(quantizers: Mapping[str, ActivationQuantizer]) -> dict[str, str]:
    """Role → kind, of those that are not affine: what a reader has to be told."""
    return {role: one.kind for role, one in quantizers.items() if one.kind != "affine"}
