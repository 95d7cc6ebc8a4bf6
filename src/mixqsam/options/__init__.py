"""Options as fields of frozen classes: help text, values and default stand in the field, and nowhere else.

Nothing here loads torch or numpy: `mixqsam --help` must not wait for them.
"""
