"""Say in a few sentences what a quantization gained and what it cost."""

from mixqsam.reporting.latency import describe_latency
from mixqsam.reporting.record import Figures, Run


def describe_verdict(run: Run) -> str:
    """Describe size, latency, agreement with the float masks and its interval, and AP of the model that a run wrote."""
    start, own = run.models["float"], run.quantized
    sentences = [
        f"The model takes {own.size / 1e6:.2f} MB instead of {start.size / 1e6:.2f} MB, {start.size / own.size:.1f} "
        "times less than in float."
    ]
    sentences += describe_latency(run.latency) if run.latency else []
    if own.mean_iou is None or run.check is None:
        return " ".join([*sentences, "The quality was not measured."])
    sentences.append(f"The masks agree with the float model's at a mean IoU of {_format_agreement(own)}.")
    if own.ap is not None and start.ap is not None:
        sentences.append(f"AP is {own.ap:.1f} instead of {start.ap:.1f}.")
    sentences += _describe_uniform(run)
    if side := run.options.get("image_size"):
        sentences.append(f"All models here see frames of {side} pixels; the agreement leaves out what that costs.")
    if run.check.seen:
        sentences.append("The calibration used the same images.")
    return " ".join(sentences)


def describe_missing_uniform(run: Run) -> list[str]:
    """Say in Markdown why the uniform model has no figures of quality; empty where it has some, or none has."""
    if not run.lacks_uniform:
        return []
    return ["The uniform model was not made; `mixqsam quantize --uniform` makes it, too."]


def _format_agreement(figures: Figures) -> str:
    if figures.mean_iou_interval is None:
        return f"{figures.mean_iou:.3f}"
    low, high = figures.mean_iou_interval
    return f"{figures.mean_iou:.3f} (95% interval {low:.3f} to {high:.3f})"


def _describe_uniform(run: Run) -> list[str]:
    """Compare with the uniform model within the budget, if it was measured."""
    uniform = run.models.get("uniform")
    if uniform is None or uniform is run.quantized or uniform.mean_iou is None:
        return []
    return [f"Uniform {uniform.bits} within the same budget agrees at {uniform.mean_iou:.3f}."]
