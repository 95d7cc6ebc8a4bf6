"""Tensors as arrays."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]


def array(tensor: Tensor) -> Array:
    """A float32 array of a tensor's values."""
    found: Array = tensor.detach().float().cpu().numpy()
    return found
