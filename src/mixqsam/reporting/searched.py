"""Describe the search for the smallest model of a quality, in sentences and as a curve."""

from mixqsam.prompts import describe_basis
from mixqsam.reporting.record import Search
from mixqsam.reporting.scatter import Level, Point, scatter_svg

# Metric → heading of its figures.
HEADINGS = {"iou": "IoU with float masks", "ap": "share of the float AP"}


def describe_search(search: Search) -> list[str]:
    """Say what the search found, what to try if it found nothing, and the final quality with its interval."""
    target = f"{search.metric}>={search.target:g}{'x' if search.metric == 'ap' else ''}"
    basis = describe_basis(search.images, search.prompts, search.kind)
    quality = next(one.quality for one in search.tried if one.size == search.size)
    size, count = f"{search.size / 1e6:.2f} MB", len(search.tried)
    if search.reached:
        found = (
            f"{size} is the smallest of {count} tried sizes that keeps {target}. It has {quality:.3f} on the {basis} "
            "that judged."
        )
    else:
        found = (
            f"None of {count} tried sizes keeps {target} on the {basis} that judged. The best one has {quality:.3f} at "
            f"{size}. Try {' or '.join(search.advice)}."
        )
    return [found, _describe_final(search)]


def _describe_final(search: Search) -> str:
    if search.final is None:
        return "The final quality is undefined: the float model has no AP on the images that the search did not use."
    begin = f"The quality on images that the search did not use is {search.final:.3f}"
    if search.interval is None:
        return f"{begin}. One image gives no interval."
    low, high = search.interval
    begin = f"{begin} (95% interval {low:.3f} to {high:.3f})"
    if search.final >= search.target:
        return f"{begin}."
    if not search.reached:
        return f"{begin}, below the target."
    if high >= search.target:
        return f"{begin}, below the target, which lies within the interval. More images judge better (--count)."
    return f"{begin}, below the target. Give more images (--count), or a higher target."


def search_svg(search: Search) -> str:
    """Draw quality against size of all tried models, with the target as a line."""
    points = [
        Point(f"{one.size / 1e6:.2f} MB", "mixed" if one.size == search.size else "uniform", one.size, one.quality)
        for one in search.tried
    ]
    return scatter_svg(points, level=Level("target", search.target), quality=HEADINGS[search.metric])
