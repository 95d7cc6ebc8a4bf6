"""Mixed-precision post-training quantization of the Segment Anything Model (Mix-QSAM)."""
