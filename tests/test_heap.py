"""Freed memory stays in the process, unless the user set the C library up."""

import subprocess
import sys

import pytest

from mixqsam.heap import keep_freed_memory

# Twenty blocks of 40 MB, each written and freed.
_BLOCKS = """
import ctypes
import resource
import numpy as np
from mixqsam.heap import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
# Huge pages, where there are some, hide the faults: PR_SET_THP_DISABLE.
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(40_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, keep: bool) -> int:
    """Page faults of a process that writes and frees large blocks."""
    code = _BLOCKS.format(keep=keep)
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env={}).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_freed_blocks_are_used_again() -> None:
    assert page_faults(keep=True) < 0.25 * page_faults(keep=False)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_user_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
