"""Tensor maths that knows no SAM: grids, packing, observers, quantized modules, honesty checks."""
