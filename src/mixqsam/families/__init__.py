"""Families of Segment Anything models, one file each."""
