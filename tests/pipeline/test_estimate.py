"""The times that are announced before a job."""

import pytest

from mixqsam.numeric import rough
from mixqsam.pipeline.estimate import Speed, analysis_stages, measure_speed
from mixqsam.pipeline.options import AnalysisOptions
from mixqsam.sam.load import Sam


def test_rough_passes_take_less_where_products_are_rounded(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = measure_speed(sam, prompts=1)
    assert exact.rough == exact.forward
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    short = measure_speed(sam, prompts=1)
    assert 0 < short.rough < short.forward


def test_calibration_and_fisher_are_rough_and_the_importance_is_not(sam: Sam) -> None:
    speed = Speed(forward=100, rough=1, grids=0, ranges=0)
    fisher = AnalysisOptions(count=4, importance=False, sensitivity_bits=(), fisher=("bernoulli",), fisher_draws=4)
    calibration, analysis = analysis_stages(speed, sam, images=4, options=fisher)
    assert calibration.seconds < 100
    assert analysis.seconds < 100
    importance = AnalysisOptions(count=4, importance=True, sensitivity_bits=(), fisher=())
    (ablation,) = analysis_stages(speed, sam, images=4, options=importance)
    assert ablation.seconds > 100
