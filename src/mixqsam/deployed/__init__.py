"""Exported models at work: ONNX Runtime or OpenVINO, numpy and Pillow; neither torch nor transformers."""
