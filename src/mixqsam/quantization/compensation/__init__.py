"""Compensation in closed form: weights moved and rounded so that layers' outputs stay near the float model's."""
