"""A quantized model as a directory: packed weights, a manifest, and what led to them."""
