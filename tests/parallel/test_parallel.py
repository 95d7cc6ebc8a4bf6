"""One, two or more processes: the same results. Two real processes on CPUs (gloo), and groups played in one process."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from benchmarks.tiny import random_model, tiny_config
from typer.testing import CliRunner

from mixqsam.calibrate import calibrate
from mixqsam.cli.main import app
from mixqsam.data.samples import Sample
from mixqsam.errors import ParallelError
from mixqsam.evaluation.evaluate import evaluate
from mixqsam.numeric.observers import OBSERVERS
from mixqsam.parallel.engine import SingleProcess, combine, join_group, take_share
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, default_processor, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.conftest import draw
from tests.forked import run_group

pytest.importorskip("accelerate")


class Played:
    """One of several threads that play a group of processes."""

    def __init__(self, rank: int, world: int, board: dict[str, Any]) -> None:
        self.rank, self.world, self._board, self._turn = rank, world, board, 0

    def gather(self, value: Any) -> list[Any]:
        self._turn += 1
        values = self._board.setdefault(f"turn {self._turn}", [None] * self.world)
        values[self.rank] = value
        # One at a time: making models is not work for threads.
        self._board["lock"].release()
        self._board["barrier"].wait(timeout=60)
        self._board["lock"].acquire()
        return list(values)


def played(world: int, action: Callable[[Any], Any]) -> list[Any]:
    """What each of `world` processes gets."""
    board: dict[str, Any] = {"barrier": threading.Barrier(world), "lock": threading.Lock()}
    found: list[Any] = [None] * world

    def run(rank: int) -> None:
        with board["lock"]:
            found[rank] = action(Played(rank, world, board))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_shares_put_together_are_the_whole(world: int) -> None:
    items = list("abcde")

    def work(engine: Played) -> list[str]:
        own = {index: item.upper() for index, item in take_share(engine, items)}
        return combine(engine, own, count=len(items))

    assert played(world, work) == [list("ABCDE")] * world


def test_an_item_that_nobody_delivers_is_named() -> None:
    with pytest.raises(ParallelError, match="No process delivered item 1 of 3"):
        combine(SingleProcess(), {0: "a", 2: "c"}, count=3)


def second_model(folder: Path) -> Path:
    """A tiny SAM with other weights."""
    random_model(tiny_config(), seed=1).save_pretrained(folder / "second")
    default_processor(tiny_config()).save_pretrained(folder / "second")
    return folder / "second"


def four(samples: list[Sample], folder: Path) -> list[Sample]:
    """Pictures of different brightness, so that ranges grow on the way."""
    prompts = samples[0].prompts
    paths = [draw(folder / f"{i}.png", width=64, height=40, seed=i) for i in range(5)]
    return [Sample(path, 64, 40, prompts, image_id=i) for i, path in enumerate(paths)]


@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_calibration_does_not_depend_on_the_number_of_processes(
    model_directory: Path, samples: list[Sample], tmp_path: Path, observer: str
) -> None:
    some = four(samples, tmp_path)
    alone = calibrate(load_sam(model_directory), some, observer=observer, progress=Silent())
    for world in (2, 4):
        found = played(
            world,
            lambda engine: calibrate(
                load_sam(model_directory), some, observer=observer, progress=Silent(), engine=engine
            ),
        )
        assert found == [alone] * world


def test_evaluation_does_not_depend_on_the_number_of_processes(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    other = load_sam(second_model(tmp_path))
    some = four(samples, tmp_path)

    def work(engine: Any) -> Any:
        predictors = {"float": SamPredictor(sam), "other": SamPredictor(other)}
        return evaluate(predictors, some, annotations=None, progress=Silent(), engine=engine)

    for world in (2, 4):
        assert played(world, work) == [work(SingleProcess())] * world


def test_a_world_of_another_size_is_refused() -> None:
    assert isinstance(join_group(processes=None, device="cpu", environment={}), SingleProcess)
    assert isinstance(join_group(processes=1, device="cpu", environment={}), SingleProcess)
    with pytest.raises(ParallelError, match="2 processes were requested, but 1 were started"):
        join_group(processes=2, device="cpu", environment={})
    with pytest.raises(ParallelError, match="2 processes were requested, but 4 were started"):
        join_group(processes=2, device="cpu", environment={"WORLD_SIZE": "4"})


# Two real processes


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def launched(world: int, arguments: list[object], *, cache: Path, by_torchrun: bool = False) -> Ended:
    """Run a command in processes of a group; one process is this one, which has loaded everything already."""
    words = [str(argument) for argument in arguments]
    if world == 1:
        alone = CliRunner().invoke(app, words, env={"MIXQSAM_CACHE": str(cache)})
        return Ended(alone.exit_code, alone.stdout, alone.stderr)
    if not by_torchrun:
        ends = run_group(world, ["-m", "mixqsam", *words], environment={**os.environ, "MIXQSAM_CACHE": str(cache)})
        codes, printed, errors = zip(*ends, strict=True)
        return Ended(max(codes, key=abs), "".join(printed), "".join(errors))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MIXQSAM_CACHE": str(cache)}
    command = [*launcher, "-m", "mixqsam", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    return Ended(done.returncode, done.stdout, done.stderr)


def pictures(folder: Path, count: int = 4) -> tuple[Path, Path]:
    """A folder of pictures, and a COCO file with a disc on each."""
    (folder / "images").mkdir()
    images, annotations = [], []
    for number in range(1, count + 1):
        draw(folder / f"images/{number}.png", width=64, height=40, seed=number)
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 40})
        disc = [32 - 13, 20 - 13, 26, 26]
        polygon = [[32, 7, 45, 20, 32, 33, 19, 20]]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": disc,
                "segmentation": polygon,
                "area": 338,
                "iscrowd": 0,
            }
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "images", folder / "instances.json"


def test_two_processes_evaluate_as_one_to_the_last_digit(model_directory: Path, tmp_path: Path) -> None:
    images, annotations = pictures(tmp_path)
    other = second_model(tmp_path)
    scores = []
    for world in (1, 2):
        output = tmp_path / f"{world}.json"
        arguments = ["evaluate", other, model_directory, "--float", other, "-i", images, "-o", output]
        arguments += ["--annotations", annotations]
        done = launched(world, [*arguments, "--processes", world], cache=tmp_path / f"cache{world}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Made") == 1
        scores.append(json.loads(output.read_text()))
    assert scores[0] == scores[1]
    assert 0 <= scores[0]["float"]["coco"]["ap"] <= 100
    # Both processes' records are kept: nothing is left to do.
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache2").glob("evaluation-*")}
    assert len(kept) == 2 * 4
    launched(1, [*arguments, "--processes", 1], cache=tmp_path / "cache2")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache2").glob("evaluation-*")} == kept


def test_two_processes_analyse_as_one(model_directory: Path, tmp_path: Path) -> None:
    images, _ = pictures(tmp_path)
    found = []
    for world in (1, 2):
        output = tmp_path / f"{world}.json"
        arguments = ["analyze", "-m", model_directory, "-i", images, "--grid", 2, "-o", output]
        arguments += ["--sensitivity-bits", 4, "--fisher-draws", 4]
        done = launched(world, [*arguments, "--processes", world], cache=tmp_path / f"cache{world}")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(output.read_text()))
    assert found[0] == found[1]


def test_two_processes_compare_as_one(model_directory: Path, tmp_path: Path) -> None:
    images, annotations = pictures(tmp_path, count=6)
    tables = []
    for world in (1, 2):
        output = tmp_path / f"out{world}"
        arguments = [
            "compare",
            "-m",
            model_directory,
            "-i",
            images,
            "--annotations",
            annotations,
            "-n",
            4,
            "-o",
            output,
        ]
        arguments += ["-r", "omse,qdrop", "-b", "W4A4", "--iterations", 5, "--fisher-draws", 4, "--processes", world]
        done = launched(world, arguments, cache=tmp_path / f"cache{world}")
        assert done.returncode == 0, done.stderr
        rows = json.loads((output / "comparison.json").read_text())["rows"]
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert tables[0] == tables[1]
    assert len(tables[0]) == 4


def test_a_lost_process_is_an_error_and_a_rerun_goes_on(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, annotations = pictures(tmp_path, count=8)
    # The second process kills itself before its third image.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1' and os.environ.get('LOSE_ONE'):\n"
        "    import mixqsam.evaluation.record as record\n"
        "    real, calls = record.measure, []\n"
        "    def measure(*arguments, **options):\n"
        "        calls.append(1)\n"
        "        if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return real(*arguments, **options)\n"
        "    record.measure = measure\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LOSE_ONE", "1")
    arguments = ["evaluate", "sam-tiny", "-i", images, "--annotations", annotations, "-o", tmp_path / "scores.json"]
    lost = launched(2, arguments, cache=tmp_path / "cache", by_torchrun=True)
    assert lost.returncode != 0
    assert "rank      : 1" in lost.stderr
    assert not (tmp_path / "scores.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("evaluation-*")}
    assert len(kept) >= 2
    monkeypatch.delenv("LOSE_ONE")
    again = launched(2, arguments, cache=tmp_path / "cache")
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert json.loads((tmp_path / "scores.json").read_text())["float"]["images"] == 8
