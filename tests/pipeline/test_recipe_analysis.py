"""Outliers are found in the pass that calibrates, which begins again if there are some."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from benchmarks.hardened import harden

from mixqsam import calibrate
from mixqsam.allocation.budget import Budget
from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.options.names import DEFAULT_RECIPE
from mixqsam.pipeline import recipe_analysis
from mixqsam.pipeline.estimate import Pass
from mixqsam.pipeline.options import AnalysisOptions, Session
from mixqsam.pipeline.recipe_analysis import analyze_for_recipe, count_fitted, list_passes
from mixqsam.progress import Silent
from mixqsam.quantization import meter
from mixqsam.quantization.compensation.share import ShareMeter
from mixqsam.quantization.recipes import find_recipe
from mixqsam.quantization.steps import folding, outliers
from mixqsam.sam.load import Sam

_RECIPE = find_recipe(DEFAULT_RECIPE)
_OPTIONS = AnalysisOptions(importance=False, fisher=("bernoulli",), fisher_draws=1)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Passes of whole images through the model, by the module that makes them."""
    counts: Counter[str] = Counter()
    for module in (calibrate, folding, meter):
        name = module.__name__.rsplit(".")[-1]
        monkeypatch.setattr(module, "run_sample", partial(_run, counts, name, module.run_sample))
    return counts


def _run(counts: Counter[str], name: str, run: Callable[[Sam, Sample], None], sam: Sam, sample: Sample) -> None:
    counts[name] += 1
    run(sam, sample)


def analyze(sam: Sam, samples: list[Sample], folder: Path) -> Session:
    session = Session(Cache(folder), Silent())
    analyze_for_recipe(sam, samples, recipe=_RECIPE, budget=Budget.parse("W4A4"), options=_OPTIONS, session=session)
    return session


def test_a_model_without_outliers_is_calibrated_in_one_pass(
    sam: Sam, samples: list[Sample], tmp_path: Path, passes: Counter[str]
) -> None:
    session = analyze(sam, samples, tmp_path)
    assert passes == {"calibrate": len(samples)}
    passes.clear()
    analyze(sam, samples, session.cache.root)
    assert not passes


def test_a_model_with_outliers_begins_again_when_they_are_seen(
    sam: Sam, samples: list[Sample], tmp_path: Path, passes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, few = harden(sam), 1
    monkeypatch.setattr(outliers, "OUTLIER_IMAGES", few)
    analyze(twin, samples, tmp_path)
    assert passes == {"calibrate": few + len(samples), "folding": min(folding.FOLDING_IMAGES, len(samples))}


def test_the_ranges_are_those_of_the_model_that_is_rounded(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = harden(sam)
    found = analyze_of(twin, samples, tmp_path / "together")
    monkeypatch.setattr(recipe_analysis, "_shows_outliers", lambda *_, **__: False)
    assert found == analyze_of(twin, samples, tmp_path / "apart")


def analyze_of(sam: Sam, samples: list[Sample], folder: Path) -> object:
    return analyze_for_recipe(
        sam,
        samples,
        recipe=_RECIPE,
        budget=Budget.parse("W4A4"),
        options=_OPTIONS,
        session=Session(Cache(folder), Silent()),
    ).to_json()


def test_the_expected_images_are_those_of_the_compensation(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    method = _RECIPE.compensation
    assert method is not None
    few = replace(method, positions=1, least_images=1, cheap_images=2)
    meter = ShareMeter(sam, samples, method=few, cache=Cache(tmp_path))
    assert len(meter.samples) == count_fitted(replace(_RECIPE, compensation=few), sam, images=len(samples)) == 2
    assert count_fitted(find_recipe("omse"), sam, images=len(samples)) == 0


def test_passes_that_are_expected() -> None:
    ranges = Pass(32, finds_ranges=True)
    assert list_passes(_RECIPE, images=32, fitted=32, processes=1) == [ranges, Pass(0), Pass(0), Pass(0)]
    assert list_passes(_RECIPE, images=32, fitted=8, processes=2) == [Pass(4), ranges, Pass(8)]
    assert list_passes(find_recipe("folded"), images=32, fitted=8, processes=1) == [Pass(8), ranges, Pass(0)]
    assert list_passes(find_recipe("omse"), images=32, fitted=8, processes=1) == [ranges]
