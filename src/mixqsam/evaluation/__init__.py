"""How good a model's masks are: against annotations, and against another model's."""
