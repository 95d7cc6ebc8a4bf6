"""Share images and models among processes, GPUs and machines; one forward pass is never divided."""
