"""What happens to outputs when disks are full, places cannot be written, and processes are killed or meet."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import kill_anywhere
from benchmarks.kill_anywhere import Place
from benchmarks.tiny import environment

from mixqsam.directories import claim_directory, new_directory
from mixqsam.errors import OutputError
from mixqsam.files import Cache
from tests.conftest import draw
from tests.forked import Forked, run_python

MARKER = "ours.json"


def write(target: Path, words: str, *, overwrite: bool = True) -> None:
    with (
        claim_directory(target, overwrite=overwrite, marker=MARKER),
        new_directory(target, overwrite=overwrite, marker=MARKER) as folder,
    ):
        (folder / MARKER).write_text(words)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_process_at_a_time_holds_an_output(tmp_path: Path) -> None:
    target = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; from mixqsam.directories import claim_directory\n"
        f"with claim_directory(Path({str(target)!r}), overwrite=False, marker='x'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=r"Another mixqsam process is writing .*out \(lock .*\.out\.lock\)"):
            write(target, "mine")
        other.kill()
        other.wait()
    # The lock of a process that is gone holds nobody up.
    assert names(tmp_path) == [".out.lock"]
    write(target, "mine")
    assert names(tmp_path) == ["out"]


def test_holders_follow_each_other(tmp_path: Path) -> None:
    """However their opening, locking and removing of the file fall together, two never hold it at once."""
    target, inside, most, done = tmp_path / "out", [0], [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(60):
            try:
                with claim_directory(target, overwrite=True, marker=MARKER):
                    with guard:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                        done[0] += 1
                    with guard:
                        inside[0] -= 1
            except OutputError:
                continue

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert done[0] > 10
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_or_put_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (tmp_path / ".out.abcd1234").mkdir()
    (tmp_path / ".out.abcd1234/model").write_text("half")
    (tmp_path / ".other.abcd1234").mkdir()
    (tmp_path / ".out.notes").mkdir()
    # Killed between taking the old directory away and putting the new one in its place.
    (tmp_path / ".out.old.abcd1234/out").mkdir(parents=True)
    (tmp_path / ".out.old.abcd1234/out" / MARKER).write_text("the finished one")
    with pytest.raises(OutputError, match="exists already"):
        write(target, "new", overwrite=False)
    assert (target / MARKER).read_text() == "the finished one"
    assert names(tmp_path) == [".other.abcd1234", ".out.notes", "out"]
    write(target, "new")
    assert (target / MARKER).read_text() == "new"


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError):
        write(tmp_path / "out", "new")
    assert (tmp_path / "precious").read_text() == "x"


def test_only_old_temporary_files_are_swept_from_a_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("analysis", "key", {"a": 1})
    for name, age in ((".analysis-key.json.x1", 7200.0), (".analysis-key.json.x2", 10.0)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cache.sweep()
    assert names(tmp_path) == [".analysis-key.json.x2", "analysis-key.json"]
    Cache(tmp_path / "nowhere").sweep()


# Signals are sent to a process of their own: in this one other tests may have left handlers and threads.
_UNWINDS = """
import os, signal, time
from mixqsam.cli.console import run_guarded
before = signal.getsignal(signal.SIGTERM)
def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    finally:
        print("cleaned")
print(run_guarded(work, debug=False), signal.getsignal(signal.SIGTERM) == before)
"""
_SOLVES = """
import os, signal, highspy
from mixqsam.allocation.solve import _solve_interruptibly
from mixqsam.cli.console import run_guarded
solve = highspy.Highs.solve
def interrupted(self):
    os.kill(os.getpid(), signal.SIGTERM)
    return solve(self)
highspy.Highs.solve = interrupted
solver = highspy.Highs()
solver.setOptionValue("output_flag", False)
solver.addVar(0.0, 1.0)
def work():
    _solve_interruptibly(solver)
    print("went on")
print(run_guarded(work, debug=False))
"""


def output_of(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_sigterm_unwinds_like_ctrl_c() -> None:
    assert output_of(_UNWINDS).split() == ["cleaned", "143", "True"]


def test_a_signal_while_solving_stops_the_command() -> None:
    """The solver used to swallow it, and the command went on with an allocation that was not the best."""
    words = output_of(_SOLVES).split()
    assert words[-1] == "143"
    assert "went" not in words


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)  # noqa: S607


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        draw(folder / f"{index}.png", width=60, height=50, seed=index)
    return folder


def quantize(model: Path, pictures: Path, output: Path, cache: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = ["-m", "mixqsam", "quantize", "-m", str(model), "-i", str(pictures), "--grid", "2"]
    command += ["-o", str(output), "--cache", str(cache), "--check", "1", "--fisher-draws", "4"]
    command += ["--recipe", "omse", *more]
    return run_python(command)


@pytest.mark.slow
@pytest.mark.parametrize("full", ["output", "cache"])
def test_a_full_disk_is_an_error_and_the_rerun_goes_on(
    disk: Path, model_directory: Path, pictures: Path, tmp_path: Path, full: str
) -> None:
    filling = disk / "filling"
    filling.write_bytes(b"x" * (380_000 if full == "output" else 396_000))
    output, cache = (disk / "out", tmp_path / "cache") if full == "output" else (tmp_path / "out", disk / "cache")
    failed = quantize(model_directory, pictures, output, cache)
    assert failed.returncode == 4, failed.stderr
    assert "No space left on device" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not output.exists()
    assert not [name for name in names(output.parent) if name.startswith(".out")]
    filling.unlink()
    done = quantize(model_directory, pictures, output, cache)
    assert done.returncode == 0, done.stderr
    assert (output / "report.html").is_file()


@pytest.mark.slow
def test_a_disk_that_fills_up_with_activations_is_told(
    disk: Path, model_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    draw(pictures / "one-more.png", width=60, height=50, seed=9)
    (disk / "filling").write_bytes(b"x" * 150_000)
    more = ["--recipe", "qdrop", "--iterations", "2"]
    full = quantize(model_directory, pictures, tmp_path / "out", disk / "cache", *more)
    assert full.returncode == 4, full.stderr
    assert "Traceback" not in full.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_told_before_the_long_work(
    disk: Path, model_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)  # noqa: S607
    failed = quantize(model_directory, pictures, disk / "out", tmp_path / "cache")
    assert failed.returncode == 4, failed.stderr
    assert "Read-only file system" in failed.stderr
    assert not list((tmp_path / "cache").glob("*.json"))


@pytest.mark.slow
def test_kills_are_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One moment of the harness that tries fifty."""
    monkeypatch.setattr(Place, "start", lambda place: Forked(place.words[1:], environment=environment(place.cache)))
    arguments = ["--count", "1", "--seed", "7", "--workers", "1", "--output", str(tmp_path / "kills.json")]
    monkeypatch.setattr(sys, "argv", ["kill_anywhere", *arguments])
    kill_anywhere.main()
    assert "1 of 1 survived" in capsys.readouterr().out
