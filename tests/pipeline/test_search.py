"""The smallest model of a quality: which images do what, how sizes are tried, what is kept, and what is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import mixqsam
from mixqsam.allocation.budget import Limits
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.quality import QualityTarget
from mixqsam.cli.main import app
from mixqsam.errors import AnnotationError, BudgetError
from mixqsam.pipeline import search
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    Data,
    Evaluation,
    Options,
    QuantizationOptions,
    Session,
)
from mixqsam.pipeline.search import Tried, count_tries, try_sizes
from mixqsam.pipeline.search_images import choose_search_images
from mixqsam.plan import BitPlan
from mixqsam.reporting import record
from mixqsam.reporting.searched import describe_search, search_svg
from tests.conftest import draw
from tests.test_docs import annotations

IOU = QualityTarget("iou", 0.9)
AP = QualityTarget("ap", 0.9)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures, with annotations for them."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(8):
        draw(folder / f"{index}.jpg", width=64, height=60, seed=index)
    (folder / "instances.json").write_text(json.dumps(annotations(8)))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def names(samples: Any) -> set[str]:
    return {sample.path.name for sample in samples}


def test_no_image_has_two_duties(photos: Path, session: Session) -> None:
    options = AnalysisOptions(count=32, prompts=2)
    found = choose_search_images(Data(photos, grid=2), Evaluation(), options=options, target=IOU, session=session)
    parts = [names(found.calibration), names(found.judging.samples), names(found.final.samples)]
    assert [len(part) for part in parts] == [5, 1, 2]
    assert len(set.union(*parts)) == 8
    # Only calibration takes few prompts of an image.
    assert {len(sample.prompts) for sample in found.calibration} == {2}
    assert {len(sample.prompts) for sample in (*found.judging.samples, *found.final.samples)} == {4}
    again = choose_search_images(Data(photos, grid=2), Evaluation(), options=options, target=IOU, session=session)
    assert [names(again.calibration), names(again.judging.samples)] == parts[:2]


def test_named_images_measure_the_result_if_the_search_does_not_use_them(photos: Path, session: Session) -> None:
    data, evaluation = Data(photos, grid=2), Evaluation(Data(photos, grid=2))
    options = AnalysisOptions(count=4)
    found = choose_search_images(data, evaluation, options=options, target=IOU, session=session)
    assert len(found.calibration) == 3
    assert len(found.judging.samples) == 1
    assert len(found.final.samples) == 4
    assert not names(found.final.samples) & names([*found.calibration, *found.judging.samples])
    with pytest.raises(AnnotationError, match="All images of the evaluation take part"):
        choose_search_images(data, evaluation, options=AnalysisOptions(count=8), target=IOU, session=session)


def test_a_search_without_images_to_judge_on_is_refused(photos: Path, tmp_path: Path, session: Session) -> None:
    two = tmp_path / "two"
    two.mkdir()
    for index in range(2):
        draw(two / f"{index}.jpg", width=64, height=60, seed=index)
    refused = [
        (Data(two), Evaluation(), AnalysisOptions(), IOU, "at least 3 images with prompts.*there are 2"),
        (Data(photos), Evaluation(), AnalysisOptions(count=1), IOU, "--count 1"),
        (Data(photos), Evaluation(limit=0), AnalysisOptions(), IOU, "--eval-limit 0 leaves none"),
        (Data(photos), Evaluation(), AnalysisOptions(), AP, "give --annotations"),
    ]
    for data, evaluation, options, target, words in refused:
        with pytest.raises(AnnotationError, match=words):
            choose_search_images(data, evaluation, options=options, target=target, session=session)


def tried(size: float, quality: float) -> Tried:
    return Tried(Allocation(BitPlan({}), Limits("", size, None), None, size, 0.0), quality)


def test_sizes_are_halved_until_the_smallest_sufficient_one_is_found() -> None:
    for least in (1.0, 1.5, 3.7, 7.9):
        found = list(try_sizes(lambda size: tried(size, size), (1.0, 8.0), target=least))
        enough = min(one.allocation.size for one in found if one.quality >= least)
        assert least <= enough <= 1.02 * least
        assert len(found) <= count_tries((1.0, 8.0)) == 8
    # A model may be smaller than its limit; the search goes on from its own size.
    steps = list(try_sizes(lambda size: tried(2.0 if size >= 2 else size, float(size >= 2)), (1.0, 8.0), target=1.0))
    assert min(one.allocation.size for one in steps if one.quality) == 2.0


def test_where_the_largest_model_fails_a_curve_is_measured() -> None:
    found = list(try_sizes(lambda size: tried(size, size / 10), (1.0, 8.0), target=0.9))
    assert [one.allocation.size for one in found] == sorted((one.allocation.size for one in found), reverse=True)
    assert found[0].allocation.size == 8.0
    assert len(found) == 4


def test_sizes_that_no_bits_meet_are_too_small() -> None:
    def measure(size: float) -> Tried:
        if size < 4:
            raise BudgetError("too small")
        return tried(size, 1.0)

    found = list(try_sizes(measure, (1.0, 8.0), target=0.9))
    assert 4 <= min(one.allocation.size for one in found) <= 4.08


def test_the_smallest_model_is_made_judged_and_measured_on_new_images(
    model_directory: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    judged: list[Allocation] = []
    measure = search.Judge._measure

    def remember(judge: search.Judge, allocation: Allocation) -> float:
        judged.append(allocation)
        return measure(judge, allocation)

    monkeypatch.setattr(search.Judge, "_measure", remember)
    command = ["quantize", "-m", model_directory, "-i", photos, "--grid", 2, "--fisher-draws", 4]
    # Few choices, so that the solver takes no time.
    command += ["--budget", "iou>=0.7", "--tied", "--candidates", "2,4,8", "--recipe", "omse"]
    done = run(*command, "-o", out)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "run.json").read_text())
    assert found["options"]["budget"] == "iou>=0.7"
    trials = found["search"]["tried"]
    chosen = next(one for one in trials if one["size"] == found["search"]["size"])
    assert found["search"]["reached"]
    assert chosen["quality"] >= 0.7
    assert all(one["quality"] < 0.7 for one in trials if one["size"] < chosen["size"])
    assert found["models"]["mixed"]["size"] == chosen["size"]
    assert found["search"]["final"] == pytest.approx(found["models"]["mixed"]["mean_iou"])
    low, high = found["search"]["interval"]
    assert low <= found["search"]["final"] <= high
    assert found["check"]["seen"] is False
    assert {"search", "check"} <= found["seconds"].keys()
    # The search's own time is counted once.
    assert "allocation" not in found["seconds"]
    sentences = " ".join(describe_search(record.Search(**found["search"])))
    for text in (done.output, (out / "summary.md").read_text(), (out / "report.html").read_text()):
        for words in (f"{chosen['size'] / 1e6:.2f} MB", f"{chosen['quality']:.4f}"):
            assert words in text
    assert sentences.replace(">", "&gt;")[:40] in " ".join((out / "report.html").read_text().split())
    assert "| yes |" in (out / "summary.md").read_text()
    # Repeated from its record, nothing is measured again, and the model is the same.
    assert len(judged) == len(trials)
    again = run("quantize", "--config", out / "run.json", "-o", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert len(judged) == len(trials)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
    assert weights[0] == weights[1]


def test_a_target_out_of_reach_gives_the_best_model_and_advice(
    model_directory: Path, photos: Path, tmp_path: Path
) -> None:
    result = mixqsam.quantize(
        model_directory,
        Data(photos, grid=2),
        budget="iou>=1,W3A3",
        output=tmp_path / "out",
        options=Options(
            analysis=AnalysisOptions(fisher_draws=4),
            allocation=AllocationOptions(tied=True, candidates=(2, 4, 8)),
            quantization=QuantizationOptions("omse"),
        ),
        cache=tmp_path / "cache",
    )
    found = result.run.search
    assert found is not None
    assert not found.reached
    best = max(one.quality for one in found.tried)
    assert next(one.quality for one in found.tried if one.size == found.size) == best
    costs = result.analysis.costs
    assert result.allocation.size <= costs.size(BitPlan.uniform(costs.units, mixqsam.UnitBits(3, 3)))
    assert found.advice == ["--recipe compensated", "--free", "--candidates 2-8,16", "larger limits", "a lower target"]
    text = " ".join(describe_search(found))
    assert f"None of {len(found.tried)} tried sizes keeps iou>=1 on the 1 image with 4 prompts (grid points)" in text
    assert "Try --recipe compensated or --free or" in text


@pytest.mark.slow
def test_the_embedded_model_keeps_a_share_of_its_ap(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images = ["-i", photos, "--annotations", photos / "instances.json", "--count", 4, "--fisher-draws", 2]
    done = run("quantize", *images, "--budget", "ap>=0.5x,0.2x", "--candidates", "2,4,8", "--recipe", "omse", "-o", out)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "run.json").read_text())
    figures = found["models"]
    assert found["search"]["metric"] == "ap"
    assert found["search"]["final"] == pytest.approx(figures["mixed"]["ap"] / figures["float"]["ap"])
    assert figures["mixed"]["size"] <= 0.2 * figures["float"]["size"]
    assert "share of the float AP" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["quantize", "-o", "OUT", "--budget", "dice>=0.9"], 3, "choose iou"),
        (["quantize", "-o", "OUT", "--budget", "iou>=1.5"], 3, "more than an IoU of 1"),
        (["quantize", "-o", "OUT", "--budget", "ap>=0.9x"], 2, "needs annotated masks: give --annotations"),
        (["quantize", "-o", "OUT", "--budget", "iou>=0.9", "--eval-limit", "0"], 2, "--eval-limit 0 leaves none"),
        (["quantize", "-o", "OUT", "--budget", "iou>=0.9,1kB"], 3, "smallest feasible budget"),
        (["compare", "-o", "OUT", "--budget", "iou>=0.9"], 3, "`mixqsam quantize` searches the smallest"),
        (["demo", "-o", "OUT", "--budget", "iou>=0.9"], 3, "too few photographs"),
    ],
)
def test_bad_requests_are_one_clear_paragraph(
    model_directory: Path, photos: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    out = tmp_path / "out"
    given = [str(out) if word == "OUT" else word for word in arguments]
    images = [] if arguments[0] == "demo" else ["-i", photos, "--grid", 2]
    done = run(*given, "-m", model_directory, *images)
    assert done.exit_code == code, done.output
    assert words in " ".join(done.output.split())
    assert not out.exists()


BEST = record.Search(
    metric="ap",
    target=0.97,
    size=5e6,
    reached=True,
    tried=[
        record.TriedSize(size=4e6, bitops=1e9, quality=0.9),
        record.TriedSize(size=5e6, bitops=2e9, quality=0.98),
    ],
    images=8,
    prompts=40,
    kind="annotated boxes",
    final=0.99,
    interval=(0.95, 1.02),
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "5.00 MB is the smallest of 2 tried sizes that keeps ap>=0.97x. It has 0.980 on the 8 images with 40"),
        ({}, "The quality on images that the search did not use is 0.990 (95% interval 0.950 to 1.020)."),
        ({"final": 0.96, "interval": (0.9, 0.98)}, "below the target, which lies within the interval."),
        ({"final": 0.9, "interval": (0.8, 0.95)}, "Give more images (--count), or a higher target."),
        ({"final": 0.9, "interval": None}, "0.900. One image gives no interval."),
        ({"final": None}, "The final quality is undefined"),
        ({"reached": False, "final": 0.9, "interval": (0.8, 0.95)}, "(95% interval 0.800 to 0.950), below the target."),
    ],
)
def test_the_sentences_say_what_was_found(changes: dict[str, Any], words: str) -> None:
    assert words in " ".join(describe_search(BEST.model_copy(update=changes)))


def test_the_curve_has_a_point_for_each_try_and_the_target() -> None:
    drawn = search_svg(BEST)
    assert drawn.count("<circle") == 2
    assert drawn.count('class="mixed"') == 1
    assert ">target</text>" in drawn
