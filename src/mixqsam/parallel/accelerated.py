"""A group launched by torchrun, through accelerate (`pip install 'mixqsam[distributed]'`)."""

from datetime import timedelta
from typing import TypeVar

from mixqsam.errors import ParallelError

try:
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import gather_object
except ImportError as error:
    raise ParallelError(
        "Several processes need accelerate; install it with `pip install 'mixqsam[distributed]'`."
    ) from error

T = TypeVar("T")

# One process may reconstruct for hours while the others wait. A process that dies is noticed at once nevertheless.
_TIMEOUT = timedelta(days=7)


class AccelerateGroup:
    """An `Engine` over `accelerate.Accelerator`: gloo on CPUs, NCCL on GPUs."""

    def __init__(self, device: str) -> None:
        handlers = [InitProcessGroupKwargs(timeout=_TIMEOUT)]
        self._accelerator = Accelerator(cpu=device.startswith("cpu"), kwargs_handlers=handlers)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self._accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def device(self) -> str:
        """Device of this process."""
        return str(self._accelerator.device)

    def gather(self, value: T) -> list[T]:
        """Collect every process's value in the order of ranks.

        Raises:
            ParallelError: a process was lost.
        """
        try:
            values: list[T] = gather_object([value])
        except RuntimeError as error:
            raise ParallelError(
                f"Process {self.rank} of {self.world} lost another one ({str(error).strip().splitlines()[0]}). "
                "torchrun's message names it. Run the same command again; finished stages are cached."
            ) from error
        return values
