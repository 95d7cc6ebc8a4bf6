"""Bits for every unit: an integer quadratic program under size and BitOps budgets. Knows no torch."""
