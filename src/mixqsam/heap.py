"""Asks the C library to keep freed memory, so that large activations do not cost page faults in every layer."""

import ctypes
import os
import sys

# The parameters of glibc's mallopt(3), and the largest value that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep large freed blocks in this process instead of returning each one to the system.

    By default glibc maps every block above 32 MB and unmaps it when it is freed: the system then clears all its pages
    at the next use. The activations of a SAM are larger than that. The peak of memory stays the same, but a process
    keeps its peak until it ends. Settings of the user (`MALLOC_…`, `GLIBC_TUNABLES`) stay in force.

    Returns:
        Whether the setting was made. It is made only on Linux with glibc.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(parameter, _LARGEST) == 1 for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
