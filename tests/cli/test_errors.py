"""Budgets that are misspelled, too small or too large; devices, hubs and packages that are missing."""

import json
import re
from pathlib import Path

import httpx
import pytest
import torch
from typer.testing import CliRunner, Result

from mixqsam.allocation.budget import Budget, UniformCosts
from mixqsam.allocation.choose import check_request
from mixqsam.cli.command import COMMANDS
from mixqsam.cli.console import run_guarded
from mixqsam.cli.main import app
from mixqsam.detection.detector import load_detector
from mixqsam.errors import BudgetError, InputError, ModelError
from mixqsam.options.numbers import format_giga
from mixqsam.pipeline.options import AllocationOptions, Session
from mixqsam.pipeline.stages import run_allocation
from mixqsam.plan import UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import check_device
from tests.allocation.test_allocation import analysis


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("w4", "did you mean W4A4?"),
        ("W4", "did you mean W4A4?"),
        ("4bit", "did you mean W4A4?"),
        ("4-bit", "did you mean W4A4?"),
        ("int8", "did you mean W8A8?"),
        ("4", "did you mean W4A4 (4 bits everywhere) or 4MB?"),
        ("50", "did you mean 50MB?"),
        ("0.3", "did you mean 0.3x"),
        ("uniform:4", "did you mean uniform:W4A4?"),
        ("uniform:int8", "did you mean uniform:W8A8?"),
        ("uniform:0.2x", "write --budget 0.2x for mixed bits"),
        ("uniform:5MB", "write --budget 5MB for mixed bits"),
        ("uniform:", "e.g. uniform:W4A4"),
        ("fast", "write W4A4, 12.5MB, 0.2x, bitops=3T"),
    ],
)
def test_a_misspelled_budget_is_refused_with_its_likely_meaning(text: str, meaning: str) -> None:
    with pytest.raises(BudgetError, match=re.escape(meaning)) as refused:
        Budget.parse(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("text", ["50 mb", "50MB", "50 MB", "50e6 B"])
def test_sizes_may_be_written_with_spaces_and_small_letters(text: str) -> None:
    assert Budget.parse(text).terms == Budget.parse("50MB").terms
    assert Budget.parse("w4a8").terms == (UniformCosts(UnitBits(4, 8)),)
    assert Budget.parse("uniform:w4a8").uniform == UnitBits(4, 8)


def test_a_budget_that_is_too_small_is_told_in_megabytes_and_percent_and_its_suggestion_fits() -> None:
    costs = analysis(7).costs
    with pytest.raises(BudgetError) as refused:
        check_request(costs, Budget.parse("size=10B,bitops=1k"), tied=False)
    text = str(refused.value)
    assert "it allows under 0.001 MB (under 0.1% of the float model's size)" in text
    assert "% of the float model's" in text
    assert not re.search(r"\d ?B\b|bytes", text.partition("it allows")[2])
    suggested = text.rpartition("budget is ")[2].rstrip(".")
    check_request(costs, Budget.parse(suggested), tied=False)
    smaller = suggested.partition(",")[0].removesuffix("MB")
    with pytest.raises(BudgetError):
        check_request(costs, Budget.parse(f"{float(smaller) * 0.99}MB"), tied=False)


@pytest.mark.parametrize(
    ("budget", "note"),
    [
        ("1GB", "meets the budget 1GB: nothing needs to be quantized. Bits go up to 16"),
        ("0.6x", "The budget 0.6x is larger than the most bits need. Bits go up to 16"),
        ("W8A8", None),
        ("W4A4", None),
        ("uniform:W4A4", None),
    ],
)
def test_a_budget_that_limits_nothing_is_noted(budget: str, note: str | None) -> None:
    progress = Silent()
    run_allocation(analysis(7), Budget.parse(budget), options=AllocationOptions(), session=Session(progress=progress))
    assert [note in text for text in progress.notes] == ([True] if note else []) if note else not progress.notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantize", "--json", "--nope"], "No such option"),
        (["quantize", "-i", "x", "-o", "y", "--count", "x", "--json"], "Invalid value for '--count'"),
        (["quantize", "-o", "y", "--json"], "Missing option '--images'"),
        (["fly", "--json"], "No such command 'fly'"),
    ],
)
def test_errors_of_usage_are_json_too(words: list[str], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    answer = json.loads(done.stdout)
    assert (answer["error"], answer["exit_code"]) == ("UsageError", 2)
    assert message in answer["message"]


def test_only_near_names_are_suggested() -> None:
    assert "Possible" not in run("quantize", "--nope").output
    assert "--budget" in run("quantize", "--bugdet", "1").output


def test_old_and_wrong_files_of_options_are_named(tmp_path: Path) -> None:
    def output_of(name: str, text: str | None, *, command: str = "quantize") -> str:
        path = tmp_path / name
        if text is None:
            path.mkdir()
        else:
            path.write_text(text)
        return " ".join(run(command, "--config", path, "-i", tmp_path / "none", "-o", tmp_path / "out").output.split())

    assert "check is now eval_limit; the next release drops" in output_of("a.toml", "check = 2\n")
    assert "limit is now eval_limit" in output_of("b.toml", "limit = 2\n", command="compare")
    assert "lambda is now synergy_weight" in output_of("c.toml", "lambda = 0.5\n")
    assert "the option 'chek' is unknown; `--help-all` lists" in output_of("d.toml", "chek = 2\n")
    assert "is a folder, not a file of options; give a TOML file" in output_of("folder", None)
    (tmp_path / "out.d").mkdir()
    (tmp_path / "out.d/run.json").write_text("{}")
    assert "out.d/run.json" in run("quantize", "--config", tmp_path / "out.d", "-i", "x", "-o", "y").output
    assert "is an analysis, not a file of options" in output_of("e.json", '{"format": "mixqsam-analysis"}')
    assert "is the configuration of a model" in output_of("f.json", '{"model_type": "sam"}')


def test_help_tells_images_of_the_evaluation_from_those_of_the_calibration() -> None:
    text = " ".join(run("quantize", "--help-all").output.replace("│", " ").split())
    assert "Evaluation: folder of images" in text
    assert "Evaluation: COCO annotation file" in text
    descriptions = [entry.option.help for entry in COMMANDS["quantize"].entries]
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.parametrize(
    ("bitops", "text"), [(0, "0"), (1.23e6, "0.00123"), (4.5678e9, "4.57"), (45.67e9, "45.7"), (1394e9, "1,394")]
)
def test_small_models_have_bitops(bitops: float, text: str) -> None:
    assert format_giga(bitops) == text


@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch has CUDA")
def test_a_build_for_the_cpu_is_named() -> None:
    with pytest.raises(InputError, match=r"PyTorch \S+ is a build for the CPU alone; there is cpu"):
        check_device("cuda")


def test_an_unreachable_hub_is_not_an_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    def ask() -> None:
        try:
            raise httpx.ConnectError("[Errno 111] Connection refused")
        except httpx.ConnectError as error:
            raise TypeError("no file") from error

    assert run_guarded(ask, debug=False) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "The hub cannot be reached" in text
    assert "bug of mixqsam" not in text


def test_a_detector_that_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError(
            "\nDetrConvEncoder requires the timm library but it was not found in your environment. You can install it "
            "with pip:\n`pip install timm`. Note that you may need to restart your runtime after installation.\n"
        )

    monkeypatch.setattr("mixqsam.detection.detector.AutoImageProcessor.from_pretrained", refuse)
    with pytest.raises(ModelError, match="it needs timm: pip install timm. A detector that needs no other package is"):
        load_detector("facebook/detr-resnet-50")


def test_the_guide_names_a_detector_that_needs_no_other_package() -> None:
    guide = (Path(__file__).parents[2] / "docs/guide.md").read_text()
    assert "--detector PekingU/rtdetr_r50vd" in guide
