import pytest
import torch

from mixqsam.errors import NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.observers import OBSERVERS, Statistics


def error(values: torch.Tensor, low: float, high: float, bits: int) -> float:
    grid = AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=bits)
    return float((grid.project(values) - values).square().mean())


def stream(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(4000, generator=generator) * scale for scale in (0.3, 1.0, 4.0)]
    parts[1][7] = 60.0
    return parts


def observed(parts: list[torch.Tensor]) -> Statistics:
    statistics = Statistics()
    for part in parts:
        statistics.update(part, name="x")
    return statistics


def test_extremes_are_exact_whatever_the_order() -> None:
    parts = stream()
    everything = torch.cat(parts)
    for order in (parts, parts[::-1]):
        assert OBSERVERS["minmax"](observed(order), bits=4) == (float(everything.min()), float(everything.max()))


def test_memory_does_not_grow_with_the_stream() -> None:
    statistics = observed(stream() * 20)
    assert statistics.points()[0].numel() <= 8192
    assert float(statistics.points()[1].sum()) == pytest.approx(1)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_omse_is_near_the_best_of_a_fine_search(bits: int) -> None:
    parts = stream()
    values = torch.cat(parts)
    low, high = OBSERVERS["omse"](observed(parts), bits=bits)
    shrinks = torch.linspace(0.01, 1, 400).tolist()
    best = min(error(values, float(values.min()) * a, float(values.max()) * a, bits) for a in shrinks)
    assert error(values, low, high, bits) <= best * 1.02 + 1e-9
    assert error(values, low, high, bits) <= error(values, float(values.min()), float(values.max()), bits)


def test_percentile_clips_an_outlier_at_few_bits_and_no_worse_than_minmax() -> None:
    parts = stream()
    values = torch.cat(parts)
    low, high = OBSERVERS["percentile"](observed(parts), bits=3)
    assert high < 60
    assert error(values, low, high, 3) < error(values, float(values.min()), float(values.max()), 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    with pytest.raises(NumericError, match="input of some.unit holds NaN or infinity"):
        Statistics().update(torch.tensor([1.0, bad]), name="some.unit")


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_constant_tensors_are_kept_exactly(name: str, value: float) -> None:
    low, high = OBSERVERS[name](observed([torch.full((10,), value)]), bits=4)
    grid = AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=4)
    assert float(grid.project(torch.tensor(value))) == pytest.approx(value, rel=2e-3)
