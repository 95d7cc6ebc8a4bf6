"""How much of a weight's rounding error compensation leaves: estimated before anything is rounded."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.numeric.compensation import gptq
from mixqsam.numeric.weights import QuantizedTensor, quantize_weight, weight_grid
from mixqsam.progress import Silent
from mixqsam.quantization import meter as meter_module
from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.compensation.share import ShareMeter, _Inputs, find_shares
from mixqsam.sam.load import Sam

WIDTH = 24


def inputs(*, correlation: float, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    common = torch.randn(2000, 1, generator=generator) * correlation**0.5
    own: Tensor = torch.randn(2000, WIDTH, generator=generator) * (1 - correlation) ** 0.5
    total: Tensor = own + common + mean
    return total


def linear() -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(WIDTH, 64)


def share_of(values: Tensor, *, centred: bool = True) -> float:
    found = _Inputs(linear(), rows=2000)
    found.take(values)
    return found.share(damping=0.01, centred=centred)


@pytest.mark.parametrize("correlation", [0.5, 0.95])
def test_the_share_is_what_gptq_leaves(correlation: float) -> None:
    values, layer = inputs(correlation=correlation), linear()
    grid = weight_grid(layer.weight, bits=5, observer="minmax", name="w")
    hessian = (values.T @ values / len(values))[None].double()
    codes = gptq(layer.weight.detach()[None].double(), hessian, grid, damping=0.01)

    def error(weight: QuantizedTensor) -> float:
        return float(((weight.dequantize() - layer.weight.detach()) @ values.T).square().mean())

    left = error(QuantizedTensor(codes, grid, (64, WIDTH))) / error(quantize_weight(layer.weight, grid))
    assert share_of(values) == pytest.approx(left, rel=0.4)


def test_independent_inputs_leave_nothing_to_compensate() -> None:
    assert share_of(inputs(correlation=0.0)) > 0.95


def test_a_bias_takes_up_what_a_mean_adds() -> None:
    values = inputs(correlation=0.0, mean=3.0)
    # tr(H) has 1 + 3² of each input, and 1 of it is left.
    assert share_of(values) == pytest.approx(0.1, rel=0.1)
    assert share_of(values, centred=False) > share_of(values)


def test_every_weight_of_a_model_has_a_share(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_shares(sam, samples, method=Compensation(), cache=Cache(tmp_path), progress=Silent())
    assert set(found) == {unit.name for unit in sam.costs().units if unit.kind != "product"}
    assert all(0 < value <= 1 for value in found.values())
    monkeypatch.setattr(meter_module, "run_sample", None)
    assert find_shares(sam, samples, method=Compensation(), cache=Cache(tmp_path), progress=Silent()) == found


def test_a_calibration_serves_the_shares_too(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Compensation()
    alone = find_shares(sam, samples, method=method, cache=Cache(tmp_path / "alone"), progress=Silent())
    cache = Cache(tmp_path / "beside")
    meter = ShareMeter(sam, samples, method=method, cache=cache)
    calibrate(sam, samples, observer="minmax", progress=Silent(), watch=meter.watching)
    assert meter.found == alone
    monkeypatch.setattr(meter_module, "run_sample", None)
    assert find_shares(sam, samples, method=method, cache=cache, progress=Silent()) == alone


def test_a_meter_that_has_not_seen_all_images_keeps_nothing(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    method, cache = Compensation(), Cache(tmp_path / "part")
    meter = ShareMeter(sam, samples, method=method, cache=cache)
    calibrate(sam, samples[:1], observer="minmax", progress=Silent(), watch=meter.watching)
    assert meter.found is None
    found = find_shares(sam, samples, method=method, cache=cache, progress=Silent())
    assert found == find_shares(sam, samples, method=method, cache=Cache(tmp_path / "whole"), progress=Silent())


def test_known_shares_are_not_measured_again(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, cache = Compensation(), Cache(tmp_path)
    find_shares(sam, samples, method=method, cache=cache, progress=Silent())
    meter = ShareMeter(sam, samples, method=method, cache=cache)
    taken: list[object] = []
    monkeypatch.setattr(_Inputs, "take", lambda *inputs: taken.append(inputs))
    calibrate(sam, samples, observer="minmax", progress=Silent(), watch=meter.watching)
    assert not taken
    # The same pass is watched where the shares are not known.
    unknown = ShareMeter(sam, samples, method=method, cache=Cache(tmp_path / "empty"))
    monkeypatch.setattr(_Inputs, "share", lambda *_, **__: 1.0)
    calibrate(sam, samples, observer="minmax", progress=Silent(), watch=unknown.watching)
    assert taken
