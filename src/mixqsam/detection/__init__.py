"""Detectors whose boxes prompt SAM: any that transformers has, and any at all through a COCO-results file."""
