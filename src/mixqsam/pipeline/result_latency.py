"""The measured latency of a finished model, beside the predicted one and that of the float model."""

import torch

from mixqsam.allocation.choose import Allocation
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.timed_models import is_installed, load_predictor, make_middle_box, make_picture
from mixqsam.pipeline.unit_times import time_in_turns
from mixqsam.reporting.record import Latency
from mixqsam.sam.load import Sam

STAGE = "latency"


def measure_result(
    sam: Sam, quantized: Sam, allocation: Allocation, *, prompts: int, session: Session
) -> Latency | None:
    """Measure the latency of a finished model in the backend of its budget.

    Args:
        sam: the float model.
        quantized: the finished model.
        allocation: its bits, their predicted latency and their limits.
        prompts: number of prompts of an image.
        session: progress.

    Returns:
        The latencies; None where the budget does not limit it, or this machine cannot run the backend.
    """
    limits = allocation.budget
    if limits.latency is None or allocation.latency is None:
        return None
    if not is_installed(limits.backend) or sam.device.type != "cpu":
        session.progress.note(f"The latency with {limits.backend} is not measured: it cannot run on {sam.device} here.")
        return None
    costs, picture = sam.costs(), make_picture(sam.image_size)
    with session.timed(STAGE):
        predictors = {
            "float": load_predictor(sam, costs.float_plan, backend=limits.backend),
            "quantized": load_predictor(quantized, allocation.plan, backend=limits.backend),
        }
        found, runs = time_in_turns(predictors, picture, make_middle_box(picture), progress=session.progress)
    seconds = {name: one.encoder + prompts * one.decoder for name, one in found.items()}
    return Latency(
        backend=limits.backend,
        threads=torch.get_num_threads(),
        prompts=prompts,
        limit=limits.latency,
        predicted=allocation.latency,
        measured=seconds["quantized"],
        float_measured=seconds["float"],
        runs=runs,
    )
