"""Latency budgets: times of units that are measured, kept and resumed; models that meet a limit; bad input."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mixqsam
from mixqsam.allocation.budget import Budget
from mixqsam.cli.main import app
from mixqsam.deployed.backends import OPENVINO, Backend
from mixqsam.errors import BudgetError, InputError
from mixqsam.evaluation.unit_times import GROUPS, design_plans
from mixqsam.files import Cache
from mixqsam.pipeline import unit_times
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Data, Evaluation, Options, QuantizationOptions
from mixqsam.pipeline.quantize import Result, run_quantization
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.timed_models import TimedModels
from mixqsam.plan import BitPlan, Unit
from mixqsam.progress import Silent
from mixqsam.reporting.latency import describe_latency
from mixqsam.reporting.record import Latency
from mixqsam.sam.load import Sam
from mixqsam.times import UnitTimes
from tests.allocation.test_allocation import times

MODELS = 2 * GROUPS + 3
OPTIONS = Options(
    analysis=AnalysisOptions(count=2, prompts=2, fisher_draws=2),
    allocation=AllocationOptions(candidates=(4, 8, 16)),
    quantization=QuantizationOptions("minmax"),
)


def inject(sam: Sam, cache: Cache, backend: str) -> UnitTimes:
    """Put times into the cache as if they had been measured."""
    units = sam.costs().units
    table = times(units, backend=backend)
    cache.put("unit-times", unit_times._key(units, backend), table.to_json())
    return table


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, sam: Sam) -> list[BitPlan]:
    """Models are plans, whose times add up; the list holds the plans that were timed."""
    timed: list[BitPlan] = []
    units = {unit.name: unit for unit in sam.costs().units}

    def seconds(plan: BitPlan, part: str) -> float:
        own = [unit for unit in units.values() if unit.part == part]
        slow = {"integer": 1.0, "narrow": 1.1, "mixed": 2.0, "half": 1.9, "float": 2.1}
        return 1.0 + sum(unit.multiply_adds * slow[unit.arithmetic(plan.bits[unit.name])] for unit in own) / 1e6

    def take_turns(predictors: Mapping[str, Any], *_: object, **__: object) -> dict[str, list[tuple[float, float]]]:
        timed.append(predictors["model"])
        return {name: [(seconds(plan, "encoder"), seconds(plan, "decoder"))] * 3 for name, plan in predictors.items()}

    monkeypatch.setattr(TimedModels, "load", lambda self, plan: plan)
    monkeypatch.setattr(unit_times, "time_in_turns", take_turns)
    return timed


def test_times_are_measured_once_and_a_stopped_measurement_resumes(
    sam: Sam, session: Session, clock: list[BitPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unit_times.time_in_turns

    def stop(*arguments: Any, **options: Any) -> Any:
        if len(clock) == 5:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(unit_times, "time_in_turns", stop)
    with pytest.raises(KeyboardInterrupt):
        unit_times.find_times(sam, "torch", session)
    monkeypatch.setattr(unit_times, "time_in_turns", whole)
    found = unit_times.find_times(sam, "torch", session)
    assert len(clock) == MODELS == unit_times.count_models(sam)
    assert clock == design_plans(sam.costs().units)
    assert unit_times.find_times(sam, "torch", session) == found
    assert unit_times.read_times(sam.costs().units, "torch", session.cache) == found
    assert len(clock) == MODELS
    assert unit_times.read_times(sam.costs().units, "onnx", session.cache) is None
    assert "predicted from the others within 0.0%" in session.progress.notes[0]  # type: ignore[attr-defined]
    assert (found.backend, found.threads, found.machine["threads"]) == ("torch", 1, "1")
    assert {"cpu", "cores", "torch"} <= found.machine.keys()


def test_other_units_and_other_threads_have_other_times(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    units: tuple[Unit, ...] = sam.costs().units
    keys = {unit_times._key(units, "torch"), unit_times._key(units[:-1], "torch"), unit_times._key(units, "onnx")}
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    assert len(keys | {unit_times._key(units, "torch")}) == 4


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_every_design_runs_in_every_backend(
    sam: Sam, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend != "torch":
        pytest.importorskip("onnxruntime" if backend == "onnx" else backend, reason=f"needs the extra {backend}")
    monkeypatch.setattr(unit_times, "_SECONDS", 1e-3)
    plans = design_plans(sam.costs().units)
    monkeypatch.setattr(unit_times, "design_plans", lambda units: [plans[2], plans[-1]])
    monkeypatch.setattr(unit_times, "fit_times", lambda units, timed: FIT)
    found = unit_times.find_times(sam, backend, Session(Cache(tmp_path / "cache"), Silent()))
    assert found.backend == backend
    assert found.encoder == FIT.fixed["encoder"]


class FIT:
    fixed: Mapping[str, float] = {"encoder": 1.0, "decoder": 0.5}
    seconds: Mapping[str, Any] = {}
    error = 0.0


@pytest.fixture
def quantized(
    sam: Sam, model_directory: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Result]:
    monkeypatch.setattr(unit_times, "_SECONDS", 1e-3)

    def run(budget: str) -> Result:
        session = Session(Cache(tmp_path / "cache"), Silent())
        inject(sam, session.cache, "torch")
        return run_quantization(
            model_directory,
            Data(picture_folder),
            budget=Budget.parse(budget),
            output=tmp_path / "out",
            options=OPTIONS,
            session=session,
            evaluation=Evaluation(limit=1),
        )

    return run


def test_a_model_within_a_limit_has_predicted_and_measured_latency_side_by_side(
    quantized: Callable[[str], Result], sam: Sam
) -> None:
    result = quantized("latency<=0.8x@torch,0.4x")
    run, allocation, costs = result.run, result.allocation, result.analysis.costs
    assert allocation.gap == 0
    assert allocation.latency == pytest.approx(costs.latency(allocation.plan))
    assert run.latency is not None
    assert run.latency.limit == pytest.approx(0.8 * costs.latency(costs.float_plan))
    assert run.latency.predicted == allocation.latency
    assert run.latency.predicted <= run.latency.limit * (1 + 1e-9)
    assert run.latency.float_predicted == pytest.approx(costs.latency(costs.float_plan))
    assert min(run.latency.measured, run.latency.float_measured) > 0
    assert "latency" in run.seconds
    sentence = describe_latency(run.latency)[0]
    for name in ("summary.md", "README.md", "report.html"):
        text = (result.directory / name).read_text()
        assert sentence.replace("'", "&#39;" if name.endswith("html") else "'") in text
    assert "## Latency with torch" in (result.directory / "summary.md").read_text()
    used = 100 * allocation.latency / run.latency.limit
    assert f"latency {used:.2f}% of the budget" in (result.directory / "summary.md").read_text()


def test_a_quality_is_searched_within_a_latency(quantized: Callable[[str], Result]) -> None:
    result = quantized("iou>=0.2,latency<=0.9x@torch")
    assert result.run.search is not None
    assert result.run.latency is not None
    assert result.run.latency.predicted <= result.run.latency.limit * (1 + 1e-9)


def test_an_impossible_latency_is_named_before_the_analysis(quantized: Callable[[str], Result], tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="The shortest feasible latency is latency<=0.06s@torch"):
        quantized("latency<=1ms@torch")
    assert not list((tmp_path / "cache").glob("calibration*"))


def test_a_backend_that_is_not_installed_is_named_with_its_extra(
    quantized: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "is_installed", property(lambda self: self is not OPENVINO))
    with pytest.raises(InputError, match=r"OpenVINO is not installed: pip install 'mixqsam\[openvino\]'"):
        quantized("latency<=0.8x@openvino")


def test_commands_measure_units_and_allocate_with_them(
    clock: list[BitPlan], model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
        return f"{done.exit_code} {done.output}"

    cache = ("--cache", tmp_path / "cache")
    options = ("--count", 2, "--no-importance", "--no-pairs", "--sensitivity-bits", "", "--fisher-draws", 2)
    analysis, allocation = tmp_path / "analysis.json", tmp_path / "allocation.json"
    assert run("analyze", "-m", model_directory, "-i", picture_folder, "-o", analysis, *options, *cache)[0] == "0"
    budget = ("-b", "latency<=0.9x@torch", "-o", allocation)
    missing = run("allocate", analysis, *budget, *cache)
    assert missing[0] == "3"
    assert "mixqsam benchmark MODEL --units --backends torch" in " ".join(missing.split())
    shown = run("benchmark", model_directory, "--units", "--backends", "torch", "-o", tmp_path / "t.json", *cache)
    assert shown[0] == "0", shown
    assert "torch, W8A8" in shown
    assert "torch, float" in shown
    assert UnitTimes.from_json(mixqsam_units(tmp_path / "t.json")["torch"], source="x").backend == "torch"
    done = run("allocate", analysis, *budget, *cache)
    assert done[0] == "0", done
    assert "predicted latency" in done
    again = mixqsam.benchmark(model_directory, units=True, backends=["torch"], cache=tmp_path / "cache")
    assert len(clock) == MODELS
    found = mixqsam.allocate(analysis, budget="latency<=0.9x@torch", cache=tmp_path / "cache")
    assert found.latency is not None
    assert list(again.units) == ["torch"]
    assert "jax" in run("benchmark", model_directory, "--units", "--backends", "jax")


def mixqsam_units(path: Path) -> dict[str, Any]:
    import json

    units: dict[str, Any] = json.loads(path.read_text())["units"]
    return {name: {"format": "mixqsam-times", "version": 1, **value} for name, value in units.items()}


def test_compare_refuses_a_latency(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="limits a latency, which `compare` does not measure"):
        mixqsam.compare(
            model_directory,
            picture_folder,
            output=tmp_path / "c",
            request=mixqsam.CompareRequest(recipes=("minmax",), budgets=("latency<=0.8x@torch",)),
        )


@pytest.mark.parametrize(
    ("measured", "float_measured", "float_predicted", "words"),
    [
        (
            0.5,
            1.0,
            1.0,
            ["takes 500 ms with onnx and 2 threads", "0.50 of the float", "The prediction was 480 ms, 0.48 of float."],
        ),
        (0.7, 1.0, 1.0, ["The measured time is above the limit of 600 ms."]),
        (1.4, 2.0, 1.0, ["takes 1.4 s", "The float model took 2.00 times as long as when the units were timed"]),
        (0.5, 1.0, None, ["The prediction was 480 ms."]),
    ],
)
def test_sentences_say_what_was_predicted_and_measured(
    measured: float, float_measured: float, float_predicted: float | None, words: list[str]
) -> None:
    latency = Latency(
        backend="onnx",
        threads=2,
        prompts=1,
        limit=0.6,
        predicted=0.48,
        measured=measured,
        float_predicted=float_predicted,
        float_measured=float_measured,
        runs=5,
    )
    text = " ".join(describe_latency(latency))
    assert all(word in text for word in words), text
    assert ("as long as when" in text) == (float_measured == 2.0)
