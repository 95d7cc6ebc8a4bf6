"""What a person reads and looks at. Knows no torch."""
