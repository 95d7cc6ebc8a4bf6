"""Measure each unit's effect on the output: importance, synergy of neighbours, sensitivity to few bits."""
