"""Progress of a whole job: the time left, one bar, finished stages as lines, a line a minute on a pipe."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from mixqsam.cli.bars import ProgressBars
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options
from mixqsam.pipeline.session import Session
from mixqsam.progress import JobClock, JobProgress, Silent, Stage, format_seconds


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_the_pace_of_finished_stages_and_the_steps_of_the_present_one() -> None:
    time = Time()
    clock = JobClock([Stage("a", 10), Stage("b", 100, tracks=2), Stage("c", 40, tracks=0, parts=2)], time)
    assert clock.left == 150
    clock.enter("a")
    time.now += 20
    assert clock.leave("a") == 20
    # Everything takes twice as long as expected.
    assert clock.left == 280
    assert clock.share == pytest.approx(20 / 300)
    clock.enter("b")
    clock.enter("inner")
    clock.leave("inner")
    time.now += 90
    clock.finish_list()
    clock.count(0.5)
    # Three quarters of b took 90 s, so one quarter takes 30 s.
    assert clock.left == pytest.approx(30 + 80)
    clock.leave("b")
    clock.enter("c")
    time.now += 4
    pace = 110 / 110
    assert clock.left == pytest.approx(pace * 20 - 4 + pace * 20)
    clock.leave("c")
    clock.enter("c")
    clock.leave("c")
    assert clock.left == 0
    assert clock.share == 1


def test_parts_of_a_stage_need_not_take_the_same_time() -> None:
    time = Time()
    clock = JobClock([Stage("a", 110, parts=3, split=(10, 100, 0)), Stage("b", 50)], time)
    clock.enter("a")
    time.now += 20
    clock.leave("a")
    # Twice as long as expected.
    assert clock.left == 2 * (100 + 50)
    clock.enter("a")
    time.now += 200
    clock.leave("a")
    clock.enter("b")
    assert clock.left == 2 * 50


def test_a_part_that_begins_again_says_nothing_of_the_pace() -> None:
    time = Time()
    clock = JobClock([Stage("a", 100, parts=2, split=(100, 0)), Stage("b", 50)], time)
    clock.enter("a")
    time.now += 12
    clock.leave("a", is_finished=False)
    assert clock.left == 150
    # Nobody expected this stage.
    clock.enter("c")
    time.now += 30
    clock.leave("c")
    assert clock.left == 150
    clock.enter("a")
    time.now += 200
    clock.leave("a")
    clock.enter("a")
    time.now += 1
    clock.leave("a")
    assert clock.left == 2 * 50


def test_stages_from_the_cache_say_nothing_of_the_pace() -> None:
    time = Time()
    clock = JobClock([Stage("a", 100), Stage("b", 50)], time)
    clock.enter("a")
    time.now += 0.1
    clock.leave("a")
    assert clock.left == 50


def bars(*, terminal: bool) -> tuple[ProgressBars, Time, io.StringIO]:
    time, stream = Time(), io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, soft_wrap=True, legacy_windows=False)
    return ProgressBars(console, time), time, stream


def test_a_pipe_has_a_line_a_minute_with_the_time_left_for_the_whole_job() -> None:
    progress, time, stream = bars(terminal=False)
    assert isinstance(progress, JobProgress)
    progress.begin([Stage("analysis", 600), Stage("check", 600)])
    progress.enter("analysis")
    for _ in progress.track(range(20), label="Fisher", total=20):
        time.now += 30
    progress.leave("analysis")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("Fisher 1/20; about 19 min left") or lines[0].startswith(
        "Fisher 2/20; about 19 min left"
    )
    assert lines[-2].endswith("about 10 min left for the whole job")
    assert lines[-1] == "analysis: 10 min"
    progress.end()


def test_a_pipe_has_no_line_of_short_work_and_one_a_minute_of_a_list_alone() -> None:
    progress, time, stream = bars(terminal=False)
    for _ in progress.track(range(5), label="Evaluating", total=5):
        time.now += 5
    assert stream.getvalue() == ""
    for _ in progress.track(range(4), label="Evaluating", total=4):
        time.now += 61
    assert stream.getvalue().splitlines()[0] == "Evaluating 1/4; about 3 min left"


def test_a_terminal_has_one_bar_and_finished_stages_stay() -> None:
    progress, time, stream = bars(terminal=True)
    progress.begin([Stage("calibration", 10), Stage("analysis", 30)])
    progress.enter("calibration")
    for _ in progress.track(range(2), label="Outer", total=2):
        for _ in progress.track(range(3), label="Inner", total=3):
            time.now += 2
    progress.leave("calibration")
    progress.enter("analysis")
    assert progress.describe() == "analysis"
    progress.leave("analysis")
    progress.end()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "calibration: 12 s" in text
    # One line at a time is drawn.
    assert not re.search(r"Outer[^\r\n]*\n[^\r\n]*Inner", text)


def test_times_for_people() -> None:
    assert [format_seconds(s) for s in (0.4, 89, 90, 3600, 12600)] == ["0 s", "89 s", "2 min", "60 min", "3.5 h"]


class Followed(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.stages: list[Stage] = []
        self.events: list[str] = []

    def begin(self, stages: list[Stage]) -> None:
        self.stages = list(stages)

    def enter(self, stage: str) -> None:
        self.events.append(stage)

    def leave(self, stage: str, *, is_finished: bool = True) -> None:
        del is_finished
        self.events.append(f"/{stage}")

    def end(self) -> None:
        self.events.append("end")


def test_quantize_follows_its_stages_and_says_what_it_takes(
    model_directory: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixqsam.allocation.budget import Budget
    from mixqsam.files import Cache
    from mixqsam.pipeline import estimate
    from mixqsam.pipeline.quantize import run_quantization

    monkeypatch.setattr(estimate, "_SHORT", 0.0)
    progress = Followed()
    run_quantization(
        model_directory,
        Data(picture_folder, grid=2),
        budget=Budget.parse("W4A4"),
        output=tmp_path / "out",
        options=Options(AnalysisOptions(count=2, fisher_draws=2)),
        session=Session(Cache(tmp_path / "cache"), progress),
        evaluation=Evaluation(limit=1),
    )
    assert [stage.name for stage in progress.stages] == ["calibration", "analysis", "quantization", "check"]
    assert all(stage.seconds > 0 for stage in progress.stages if stage.name != "quantization")
    # Each expected stage is entered as often as it has parts.
    for stage in progress.stages:
        assert progress.events.count(stage.name) == stage.parts, stage
    assert progress.events[-1] == "end"
    (note,) = [note for note in progress.notes if note.startswith("This takes about")]
    assert "stages in the cache take no time" in note
