"""What each unit means for the output: importance, synergy of neighbours, sensitivity to few bits."""
