"""Graphs of any family: PyTorch traces the model, and the engine writes its units into the graph that comes of it."""
