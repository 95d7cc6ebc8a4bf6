"""Tensors at addresses that do not change what is computed from them.

A reader of files leaves tensors wherever its buffers are. Small matrix products of some processors round differently
where an operand starts in the middle of a cache line, so a model that was loaded would differ from the one that was
saved in the last bits.
"""

from itertools import chain

from torch import Tensor, nn

# Bytes: a cache line, a register of AVX-512, and what PyTorch's allocator gives.
ALIGNMENT = 64


def aligned(tensor: Tensor) -> Tensor:
    """The tensor in contiguous memory that starts at a multiple of `ALIGNMENT`: a copy, unless it lies there already.

    Tensors of other devices are returned as they are: their allocators align what they hold.
    """
    if tensor.device.type != "cpu" or (tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0):
        return tensor
    return tensor.new_empty(tensor.shape).copy_(tensor)


def align_tensors(model: nn.Module) -> None:
    """Move the parameters and buffers of a model to aligned memory, one at a time; shared tensors stay shared."""
    for tensor in chain(model.parameters(), model.buffers()):
        tensor.data = aligned(tensor.data)
