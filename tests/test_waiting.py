"""Threads sleep soon where the machine is busy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixqsam import waiting
from mixqsam.waiting import shorten_waiting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only GNU's OpenMP on Linux has the setting")


def write_load(path: Path, *, running: int) -> Path:
    """As Linux writes it."""
    path.write_text(f"0.31 0.20 0.10 {running}/345 6789\n", encoding="ascii")
    return path


@pytest.mark.parametrize(
    ("running", "cores", "is_made"), [(1, 2, False), (2, 2, True), (3, 2, True), (2, 8, False), (5, 8, True)]
)
def test_only_a_busy_machine_is_set(
    running: int, cores: int, is_made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(waiting, "_LOAD", write_load(tmp_path / "loadavg", running=running))
    environment: dict[str, str] = {}
    assert shorten_waiting(environment) == is_made
    assert ("GOMP_SPINCOUNT" in environment) == is_made


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_settings_of_the_user_stay(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LOAD", write_load(tmp_path / "loadavg", running=9))
    environment = {name: "x"}
    assert not shorten_waiting(environment)
    assert environment == {name: "x"}


@pytest.mark.parametrize("text", ["", "nothing of the kind", "0 0 0 x/y 1"])
def test_a_load_that_cannot_be_read_counts_as_quiet(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "loadavg"
    path.write_text(text, encoding="ascii")
    monkeypatch.setattr(waiting, "_LOAD", path)
    assert not shorten_waiting({})


def test_the_command_line_is_imported_without_torch() -> None:
    """OpenMP reads the setting when torch is imported, which has to come later."""
    code = "import sys, mixqsam.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
