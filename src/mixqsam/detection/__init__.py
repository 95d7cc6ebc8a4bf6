"""Detectors of transformers whose boxes prompt SAM. Boxes of others come from a file of COCO results."""
