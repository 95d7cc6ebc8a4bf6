"""Work shared among processes, GPUs and machines: what is shared is images and models, never one forward pass."""
