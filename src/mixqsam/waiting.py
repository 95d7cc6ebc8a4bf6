"""Asks OpenMP to let waiting threads sleep on a busy machine, so that they do not keep others from working."""

import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

# Turns that a waiting thread spins: a few microseconds. By default it spins for milliseconds.
TURNS = "1000"
# The machine is busy if other threads run at each of these looks, a few milliseconds apart.
_LOOKS, _PAUSE = 3, 0.005
_LOAD = Path("/proc/loadavg")


def shorten_waiting(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Let threads of this process sleep soon while they wait for each other, if the machine is busy.

    A spinning thread takes the processor from the thread that it waits for: beside two busy processes on two cores,
    an encoder of SAM-B took twice as long (`python -m benchmarks.busy`). On a quiet machine, spinning saves a fifth
    of the time, so it stays. GNU's OpenMP reads this once, so call it before torch is imported. Settings of the user
    stay in force.

    Args:
        environment: the process's variables.

    Returns:
        Whether the setting was made. It is made only on Linux.
    """
    is_set = any(name in environment for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    if sys.platform != "linux" or is_set or not _is_busy():
        return False
    environment["GOMP_SPINCOUNT"] = TURNS
    return True


def _is_busy() -> bool:
    """Whether others take half of the processors or more; the mean load of a minute would count what has just ended."""
    for _ in range(_LOOKS):
        others = _count_running() - 1
        if 2 * others < len(os.sched_getaffinity(0)):
            return False
        time.sleep(_PAUSE)
    return True


def _count_running() -> int:
    """Count the threads that run or could run now, in all processes; 0 where the system does not say."""
    try:
        return int(_LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, IndexError, ValueError):
        return 0
