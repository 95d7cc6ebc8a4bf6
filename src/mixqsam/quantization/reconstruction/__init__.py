"""Learning of rounding and scales, block by block."""
