"""`mixqsam …` in processes of their own that need not import PyTorch and transformers, which takes seconds of each.

A server that has imported them forks a child for each command. The child is a process as any other: it has its own id,
signals, environment, folder and files for what it prints. What the libraries read from the environment while they are
imported is the server's; a test of that starts `python -m mixqsam`.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

_IMPORTED = ["torch", "transformers", "mixqsam.api", "mixqsam.api.making", "mixqsam.api.judging", "mixqsam.sam.load"]


def _make_context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


_CONTEXT = _make_context()


class Forked:
    """A command that runs, with what the tests use of `subprocess.Popen`.

    Args:
        arguments: as after `python`: a script and its words, or `-m`, a module and its words.
        environment: all variables; None for those of this process.
        folder: where it runs; None for this process's.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._printed = tempfile.NamedTemporaryFile(), tempfile.NamedTemporaryFile()  # noqa: SIM115  (closed at the end)
        words = [str(argument) for argument in arguments]
        variables = {**(os.environ if environment is None else environment)}
        places = [one.name for one in self._printed]
        self._process = _CONTEXT.Process(target=_run, args=(words, variables, str(folder or Path.cwd()), *places))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit code, or less than 0 for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to it."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self.kill()
            raise TimeoutError
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed to standard output and standard error, once it has ended."""
        self.wait(timeout)
        out, err = (Path(one.name).read_text(encoding="utf-8") for one in self._printed)
        for one in self._printed:
            one.close()
        return out, err


def run_python(
    arguments: Sequence[object], *, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, as `subprocess.run` does with captured output; arguments are those of `Forked`."""
    process = Forked(arguments, environment=environment, folder=folder)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(list(map(str, arguments)), process.wait(), out, err)


def run_group(world: int, arguments: Sequence[object], *, environment: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Run a command in the processes of a group, as torchrun starts them; exit code and words of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    common["LOCAL_WORLD_SIZE"] = str(world)
    processes = [
        Forked(arguments, environment={**environment, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        found.append((process.wait(), out, err))
    return found


def _run(words: list[str], environment: Mapping[str, str], folder: str, out: str, err: str) -> None:
    """What a child does: become what `python …` is, then run the script or module."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    import torch

    torch.set_num_threads(1)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
