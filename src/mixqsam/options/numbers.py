"""Write numbers for people."""


def format_giga(value: float) -> str:
    """Format a number of BitOps in 10⁹: at least three digits, so that small models do not have 0."""
    giga = value / 1e9
    if giga >= 100 or giga == 0:
        return f"{giga:,.0f}"
    return f"{giga:.1f}" if giga >= 10 else f"{giga:.3g}"


def format_time(seconds: float) -> str:
    """Format a latency with three digits, in ms below a second."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
