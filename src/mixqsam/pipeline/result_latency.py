"""The measured latency of a finished model, beside the predicted one and that of the float model."""

import numpy as np
import torch

from mixqsam.allocation.choose import Allocation
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.timed_models import is_installed, load_predictor, make_middle_box, make_picture
from mixqsam.pipeline.unit_times import time_in_turns
from mixqsam.plan import Costs
from mixqsam.reporting.record import Latency
from mixqsam.sam.load import Sam

STAGE = "latency"


def measure_result(
    sam: Sam, quantized: Sam, allocation: Allocation, *, costs: Costs, session: Session
) -> Latency | None:
    """Measure the latency of a finished model in the backend of its budget.

    Args:
        sam: the float model.
        quantized: the finished model.
        allocation: its bits, their predicted latency and their limits.
        costs: of the model, with the number of prompts of an image and the times of the units.
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
    picture, prompts = make_picture(sam.image_size), costs.prompts_per_image
    with session.timed(STAGE):
        predictors = {
            "float": load_predictor(sam, costs.float_plan, backend=limits.backend),
            "quantized": load_predictor(quantized, allocation.plan, backend=limits.backend),
        }
        found = time_in_turns(predictors, picture, make_middle_box(picture), progress=session.progress)
    seconds = {name: float(np.median(np.array(runs) @ (1, prompts))) for name, runs in found.items()}
    return Latency(
        backend=limits.backend,
        threads=torch.get_num_threads(),
        prompts=prompts,
        limit=limits.latency,
        predicted=allocation.latency,
        measured=seconds["quantized"],
        float_predicted=costs.latency(costs.float_plan) if costs.times else None,
        float_measured=seconds["float"],
        runs=len(found["quantized"]),
    )
