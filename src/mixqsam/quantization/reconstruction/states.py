"""Activations at block borders, on disk: memory holds one image's at a time.

A stream (the float model's inputs, the quantized model's, …) takes images × tokens × channels × 4 bytes, for SAM-B at
1024 pixels 12.6 MB an image; four streams are kept.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mixqsam.errors import OutputError
from mixqsam.numeric.memory import aligned
from mixqsam.sam.calls import State


class States:
    """Streams of states, one state for each image; a context manager that removes its folder when it is left."""

    def __init__(self, folder: Path, *, count: int, device: torch.device) -> None:
        self.count, self._folder, self._device = count, folder, device

    def __enter__(self) -> "States":
        shutil.rmtree(self._folder, ignore_errors=True)  # what a killed run left
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, stream: str, index: int, state: State) -> None:
        """Keep the state of one image."""
        folder = self._folder / stream
        folder.mkdir(exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        try:
            save_file(tensors, folder / f"{index}.safetensors")
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"Cannot write activations to {folder}: {error}. Free some space (or choose another --cache), and run "
                "the same command again; finished pieces are kept."
            ) from error

    def get(self, stream: str, index: int) -> State:
        """The state of one image, on the model's device."""
        tensors = load_file(self._folder / stream / f"{index}.safetensors", device=str(self._device))
        return {name: aligned(tensor) for name, tensor in tensors.items()}

    def fill(self, stream: str, make: Callable[[int], State]) -> None:
        """Keep the states that `make` gives for each image, without gradients."""
        with torch.no_grad():
            for index in range(self.count):
                self.put(stream, index, make(index))

    def rename(self, old: str, new: str) -> None:
        """Let a stream take the place of another."""
        shutil.rmtree(self._folder / new, ignore_errors=True)
        (self._folder / old).rename(self._folder / new)
