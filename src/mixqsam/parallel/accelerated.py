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

# One process may reconstruct for hours while the others wait; a process that dies is noticed at once all the same.
_PATIENCE = timedelta(days=7)


class Accelerated:
    """An `Engine` over `accelerate.Accelerator`: gloo on CPUs, NCCL on GPUs."""

    def __init__(self, device: str) -> None:
        handlers = [InitProcessGroupKwargs(timeout=_PATIENCE)]
        self._accelerator = Accelerator(cpu=device.startswith("cpu"), kwargs_handlers=handlers)

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self._accelerator.process_index)

    @property
    def world(self) -> int:
        """How many processes there are."""
        return int(self._accelerator.num_processes)

    @property
    def device(self) -> str:
        """This process's own device."""
        return str(self._accelerator.device)

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks.

        Raises:
            ParallelError: a process was lost.
        """
        try:
            found: list[T] = gather_object([value])
        except RuntimeError as error:
            raise ParallelError(
                f"Process {self.rank} of {self.world} lost another one ({str(error).strip().splitlines()[0]}). "
                "torchrun's own message names it. Run the same command again: what was finished is kept."
            ) from error
        return found
