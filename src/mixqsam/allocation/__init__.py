"""Choose the bits of every unit: an integer quadratic program with limits of size and BitOps. Never imports torch."""
