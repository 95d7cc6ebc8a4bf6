"""Linears and convolutions that hold their weight packed, and compute in whole numbers where that can be done."""

import warnings
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.derived import Derived
from mixqsam.numeric.half import HalfTensor, StoredWeight
from mixqsam.numeric.modules import QuantizedConv2d, QuantizedLayer, StoredLayer, scaled
from mixqsam.numeric.quantizers import ActivationQuantizer, AffineQuantizer
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.plan import HALF_BITS
from mixqsam.runtime.kernels import ByteGrid, IntegerLinear, UnsupportedError, missing_kernels

# From this number of multiply-adds for each copied value on, a convolution was faster as an integer product (1×1 on 64²
# to 256² places, 64 to 320 channels, AVX512-VNNI).
_LEAST_PRODUCTS = 100
# Code × weight at its largest, and the whole numbers up to which float32 is exact.
_LARGEST_PRODUCT, _EXACT = 255 * 128, 1 << 24

Factors = tuple[Tensor, Tensor, Tensor | None]

NO_GRADIENTS = (
    "No gradients flow through packed weights. To fine-tune, train model.dequantize(), or adapters on it, and quantize "
    "again: docs/formats/packed.md."
)

_told: set[str] = set()


def tell_once(message: str) -> None:
    """A warning, the first time."""
    if message not in _told:
        _told.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


class PackedLayer(StoredLayer):
    """A weight as it lies in the file, a bias in float, and the quantizer of the input.

    Args:
        shape: the weight's.
        bits: its bit-width.
        tensors: codes as a bit stream, with scale and zero point of each channel; or values in half precision.
        bias: float32, or None.
        quantizer: of the input.
    """

    weight: Tensor
    weight_scale: Tensor
    weight_zero: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        bits: int,
        *,
        tensors: Mapping[str, Tensor],
        bias: nn.Parameter | None,
        quantizer: ActivationQuantizer,
    ) -> None:
        super().__init__()
        self.shape, self.bits = shape, bits
        self._endings = tuple(tensors)
        for ending, tensor in tensors.items():
            self.register_buffer(f"weight{ending}", tensor)
        self.bias = bias
        self.input = quantizer
        self._kernel: Derived[IntegerLinear | str] = Derived()
        self._steps: Derived[Tensor] = Derived()

    @property
    def stored(self) -> StoredWeight:
        """The weight as codes, unpacked at each call, or in half precision."""
        if self.bits == HALF_BITS:
            return HalfTensor(self.weight.reshape(self.shape))
        grid = AffineGrid(self.bits, self.weight_scale.float()[:, None], self.weight_zero.float()[:, None])
        return QuantizedTensor.from_packed(self.weight, grid=grid, shape=self.shape)

    @property
    def scale(self) -> Tensor:
        """What the product of whole numbers is multiplied by, [channels]."""
        return self.input.product_scale(self.stored.scale if self.bits == HALF_BITS else self.weight_scale)

    def stored_weight(self) -> dict[str, Tensor]:
        """What is stored of the weight, as it is."""
        return {ending: self.get_buffer(f"weight{ending}").cpu() for ending in self._endings}

    def _reason_against(self) -> str | None:
        """Why integer kernels are not used, whatever the quantizer; None where they are."""
        return "its weights have 16 bits" if self.bits == HALF_BITS else missing_kernels()

    @property
    def _prepared(self) -> IntegerLinear | str:
        """What computes in whole numbers, or why nothing does; made again where a tensor changed."""
        return self._kernel.get((*self._weights, self.bias, *self.input.buffers(recurse=False)), self._prepare)

    @property
    def _weights(self) -> tuple[Tensor, ...]:
        return tuple(self.get_buffer(f"weight{ending}") for ending in self._endings)

    def _prepare(self) -> IntegerLinear | str:
        if reason := self._reason_against():
            return reason
        try:
            grid, weight = ByteGrid.of(self.input), self.stored
            assert isinstance(weight, QuantizedTensor)  # noqa: S101  (there was a reason against others)
            return IntegerLinear(self._matrix(weight), self.bias, grid)
        except UnsupportedError as error:
            return str(error)

    def _matrix(self, weight: QuantizedTensor) -> QuantizedTensor:
        """The weight as the kernel takes it."""
        return weight

    @property
    def _whole(self) -> Tensor:
        """The weight in steps, for simulation: kept, for unpacking takes longer than multiplying."""
        return self._steps.get(self._weights, self._unpack)

    def _unpack(self) -> Tensor:
        return self.stored.whole()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLayer":
        """As for any stored layer (`to`, `cpu`, …); what was derived from the tensors takes no memory meanwhile."""
        self._kernel, self._steps = Derived(), Derived()
        super()._apply(fn, recurse)
        return self

    def kernel(self, values: Tensor) -> IntegerLinear | None:
        """The integer kernel for such an input; None where the layer has to be simulated."""
        if values.requires_grad and torch.is_grad_enabled():
            tell_once(NO_GRADIENTS)
        if values.device.type != "cpu" or values.dtype != torch.float32:
            return None
        if isinstance(self._prepared, IntegerLinear):
            return self._prepared
        if reason := missing_kernels():
            tell_once(f"Integer kernels are not to be had here ({reason}); quantization is simulated in float.")
        return None

    @property
    def simulated(self) -> str | None:
        """Why this layer is computed in float, if it is."""
        return None if isinstance(self._prepared, IntegerLinear) else self._prepared

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"shape={self.shape}, bits={self.bits}"


class PackedLinear(PackedLayer):
    """y = x̂·ŵᵀ + bias."""

    def compute(self, values: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        kernel = self.kernel(values)
        if kernel is None:
            product = functional.linear(self.input(values, whole=True), self._whole)
            return scaled(product, self.scale, self.bias)
        codes = kernel.source.encode(values.reshape(-1, values.shape[-1]))
        return kernel(codes).reshape(*values.shape[:-1], -1)


class PackedConv2d(PackedLayer):
    """A convolution, as a product of the unfolded patches with the kernel.

    Grouped (depthwise) and dilated ones are computed in float, on whole numbers: the products above do not know groups.
    So are those that multiply little for what they copy: maps lie channels first, and codes and results change to
    channels last and back. Where sums may leave what float32 holds exactly, they stay integer.
    """

    def __init__(self, *parts: object, source: nn.Conv2d | QuantizedConv2d, **more: object) -> None:
        super().__init__(*parts, **more)  # type: ignore[arg-type]
        self.stride, self.padding = source.stride, source.padding
        self.dilation, self.groups = source.dilation, source.groups
        self.turns_maps = True

    @property
    def vertical(self) -> tuple[int, int, int]:
        """Side of the kernel, stride and padding along the rows."""
        return self.shape[2], int(self.stride[0]), int(self.padding[0])

    @property
    def is_exact(self) -> bool:
        """Whether its products are whole numbers, so that no order of summation changes them."""
        return self.bits != HALF_BITS and isinstance(self.input, AffineQuantizer)

    def compute(self, values: Tensor) -> Tensor:
        """Map [batch, in, height, width] to [batch, out, height', width']."""
        kernel = self.kernel(values)
        if kernel is None:
            return self.convolve(self.input(values, whole=True), self.factors, padding=self.padding)
        patches = self._patches(kernel.source.encode(values.permute(0, 2, 3, 1)), fill=kernel.source.zero)
        batch, height, width = patches.shape[:3]
        out = kernel(patches.reshape(batch * height * width, -1)).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        is_last = values.is_contiguous(memory_format=torch.channels_last)
        return out if is_last else out.contiguous()

    @property
    def factors(self) -> Factors:
        """The weight in steps, and by channel what its product is multiplied by and what is added."""
        return self._whole, self.scale[:, None, None], None if self.bias is None else self.bias[:, None, None]

    def convolve(self, steps: Tensor, factors: Factors, *, padding: Any) -> Tensor:
        """The output for quantized inputs [batch, in, height, width] in steps, in float, with another padding."""
        weight, scale, bias = factors
        product = functional.conv2d(steps, weight, None, self.stride, padding, self.dilation, self.groups)
        return scaled(product, scale, bias)

    def _reason_against(self) -> str | None:
        if self.groups > 1 or self.dilation != (1, 1):
            return "grouped and dilated convolutions run on whole numbers in float"
        if reason := super()._reason_against():
            return reason
        if not self.turns_maps:
            return None
        taken = prod(self.shape[1:])
        copied = (taken + self.shape[0]) * _LEAST_PRODUCTS
        if taken * self.shape[0] < copied and taken * _LARGEST_PRODUCT < _EXACT:
            return "a narrow convolution is faster on whole numbers in float"
        return None

    def _patches(self, codes: Tensor, *, fill: int) -> Tensor:
        """[batch, height, width, in] → [batch, height', width', k, k, in]; the border holds the code of zero."""
        vertical, horizontal = (int(side) for side in self.padding)
        padded = functional.pad(codes, (0, 0, horizontal, horizontal, vertical, vertical), value=fill)
        windows = padded.unfold(1, self.shape[2], self.stride[0]).unfold(2, self.shape[3], self.stride[1])
        return windows.permute(0, 1, 2, 4, 5, 3)

    def _matrix(self, weight: QuantizedTensor) -> QuantizedTensor:
        """[out, in·k·k] → [out, k·k·in], as patches are sorted."""
        codes = weight.codes.reshape(self.shape).permute(0, 2, 3, 1).reshape(self.shape[0], -1)
        return QuantizedTensor(codes, weight.grid, tuple(codes.shape))


def kernel_of(layer: nn.Module, values: Tensor) -> IntegerLinear | None:
    """The integer kernel of a layer for such an input; None for a float layer too."""
    return layer.kernel(values) if isinstance(layer, PackedLayer) else None


def wants_gradients(module: nn.Module, values: Tensor) -> bool:
    """Whether a backward pass may come: then modules run one by one, and say that they have no gradients."""
    return torch.is_grad_enabled() and any(one.requires_grad for one in [values, *module.parameters()])


def pack_layer(module: QuantizedLayer) -> PackedLayer:
    """The packed form of a fake-quantized layer; its tensors are shared where they can be."""
    stored = module.stored
    parts = (stored.shape, stored.bits)
    if isinstance(module, QuantizedConv2d):
        return PackedConv2d(*parts, tensors=stored.tensors(), bias=module.bias, quantizer=module.input, source=module)
    return PackedLinear(*parts, tensors=stored.tensors(), bias=module.bias, quantizer=module.input)
