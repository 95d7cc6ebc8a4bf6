"""From a bit plan to a quantized model."""
