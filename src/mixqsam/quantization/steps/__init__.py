"""What recipes are made of: an exact rewrite, and choices of quantizers for some activations."""
