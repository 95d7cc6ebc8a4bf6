"""Options as fields of frozen classes; each field defines the help text, the values and the default.

Nothing here loads torch or numpy, so that `mixqsam --help` is fast.
"""
