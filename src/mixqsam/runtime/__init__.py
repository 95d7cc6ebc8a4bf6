"""Integer inference in PyTorch, from the packed weights."""
