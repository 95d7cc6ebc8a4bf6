"""How long models take, side by side, and how much memory each needs by itself."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from mixqsam.errors import MixqsamError
from mixqsam.prediction import Predictor
from mixqsam.progress import Progress
from mixqsam.prompts import Prompts


@dataclass(frozen=True)
class Latency:
    """Median seconds.

    Attributes:
        encoder: seconds of `set_image`: preparation of the image, and the encoder.
        decoder: seconds of `segment`: one prompt, to masks at the image's resolution.
        batch: seconds of what else was timed, such as a batch of prompts; None without it.
    """

    encoder: float
    decoder: float
    batch: float | None = None


def measure_latency(
    predictors: Mapping[str, Predictor],
    image: Image.Image,
    prompts: Prompts,
    *,
    runs: int,
    progress: Progress,
    batch: Callable[[Predictor], object] | None = None,
) -> dict[str, Latency]:
    """Find the median times of predictors that are timed in turns; see `time_actions`.

    Args:
        predictors: name → model.
        image: image for the encoder.
        prompts: prompts of the decoder.
        runs: number of timed runs of each.
        progress: receives the progress of the runs.
        batch: is timed too, with a predictor that has the image; None for nothing.
    """
    actions = _list_actions(image, prompts)
    times = time_actions(predictors, actions if batch is None else [*actions, batch], runs=runs, progress=progress)
    return {
        name: Latency(*(statistics.median(part) for part in zip(*values, strict=True)))
        for name, values in times.items()
    }


def time_runs(
    predictors: Mapping[str, Predictor], image: Image.Image, prompts: Prompts, *, runs: int, progress: Progress
) -> dict[str, list[tuple[float, float]]]:
    """Time encoder and decoder of predictors; see `time_actions`.

    Returns:
        Name → seconds of encoder and decoder, of each run.
    """
    times = time_actions(predictors, _list_actions(image, prompts), runs=runs, progress=progress)
    return {name: [(encoder, decoder) for encoder, decoder in values] for name, values in times.items()}


def _list_actions(image: Image.Image, prompts: Prompts) -> list[Callable[[Predictor], object]]:
    return [lambda predictor: predictor.set_image(image), lambda predictor: predictor.segment(prompts)]


def time_actions(
    predictors: Mapping[str, Predictor],
    actions: Sequence[Callable[[Predictor], object]],
    *,
    runs: int,
    progress: Progress,
) -> dict[str, list[list[float]]]:
    """Time predictors in turns, so that other load of the machine affects all of them. The first run is not counted.

    Args:
        predictors: name → model.
        actions: what each predictor does in a run, in order.
        runs: number of timed runs of each.
        progress: receives the progress of the runs.

    Returns:
        Name → seconds of each action, of each run.
    """
    seconds: dict[str, list[list[float]]] = {name: [] for name in predictors}
    for run in progress.track(range(runs + 1), label="Timing", total=runs + 1):
        for name, predictor in predictors.items():
            measured = [_measure_seconds(action, predictor) for action in actions]
            if run:
                seconds[name].append(measured)
    return seconds


def _measure_seconds(action: Callable[[Predictor], object], predictor: Predictor) -> float:
    started = time.perf_counter()
    action(predictor)
    return time.perf_counter() - started


def peak_memory(make: Callable[[], Predictor], image: Image.Image, prompts: Prompts) -> int:
    """Measure the maximum bytes that a separate process needs to load a predictor and use it once.

    Args:
        make: loads the predictor; it can be pickled.
        image: image for the encoder.
        prompts: prompts of the decoder.

    Raises:
        MixqsamError: the process failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_use_once, args=(make, image, prompts, sender))
    process.start()
    sender.close()
    try:
        outcome: int | str = receiver.recv()
    except EOFError:
        outcome = f"it ended with exit code {process.exitcode}; is there enough memory?"
    finally:
        process.join()
    if isinstance(outcome, str):
        raise MixqsamError(f"Memory could not be measured: {outcome}")
    return outcome


def _high_water() -> int:
    """The largest resident size so far, in bytes; `getrusage` would include the parent process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _use_once(make: Callable[[], Predictor], image: Image.Image, prompts: Prompts, sender: Connection) -> None:
    try:
        predictor = make()
        predictor.set_image(image)
        predictor.segment(prompts)
        sender.send(_high_water())
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
