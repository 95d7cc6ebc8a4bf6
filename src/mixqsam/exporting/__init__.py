"""Quantized models as ONNX and OpenVINO files."""
