"""The final quality of a searched model, on images that the search did not use."""

from mixqsam.allocation.quality import QualityTarget
from mixqsam.evaluation.coco import Truth
from mixqsam.evaluation.interval import find_mean_interval, find_share_interval
from mixqsam.pipeline.check import Check, CheckImages
from mixqsam.pipeline.search import find_quality
from mixqsam.reporting.record import Search


def add_final(search: Search, check: Check, images: CheckImages) -> Search:
    """Add the final quality and its interval to the record of a search.

    Args:
        search: the record.
        check: comparison of the float model, the first, and the chosen one, the last.
        images: the images of the comparison.
    """
    (reference, start), *_, (name, own) = check.results.items()
    final = find_quality(QualityTarget(search.metric, search.target), own, start)
    if final is None:
        interval = None
    elif search.metric == "iou" or images.annotations is None:
        interval = find_mean_interval([score.ious for score in own.by_image])
    else:
        interval = find_share_interval(
            Truth(images.annotations),
            check.coco_results[name],
            check.coco_results[reference],
            images=[sample.image_id for sample in images.samples],
        )
    return search.model_copy(update={"final": final, "interval": interval})
