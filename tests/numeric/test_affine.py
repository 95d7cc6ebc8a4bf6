import torch
from hypothesis import given
from hypothesis import strategies as st

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.quantizers import Quantizer

bits = st.integers(2, 8)
edges = st.floats(-1e4, 1e4, width=32)


def grid(low: float, high: float, b: int) -> AffineGrid:
    return AffineGrid.from_range(torch.tensor(min(low, high)), torch.tensor(max(low, high)), bits=b)


@given(edges, edges, bits, st.lists(edges, min_size=1, max_size=50))
def test_projection_is_the_decoded_code_and_idempotent(low: float, high: float, b: int, values: list[float]) -> None:
    g = grid(low, high, b)
    x = torch.tensor(values)
    once = g.project(x)
    assert torch.equal(once, g.decode(g.encode(x)))
    assert torch.equal(once, g.project(once))


@given(edges, edges, bits)
def test_at_most_2_to_the_b_values_zero_among_them(low: float, high: float, b: int) -> None:
    g = grid(low, high, b)
    probe = torch.linspace(-2e4, 2e4, 5000)
    values = g.project(torch.cat([probe, torch.zeros(1)]))
    assert values.unique().numel() <= 2**b
    assert values[-1] == 0


@given(st.floats(-100, 0), st.floats(0.01, 100), bits, st.floats(0, 1))
def test_error_within_range_is_at_most_half_a_step(low: float, high: float, b: int, t: float) -> None:
    g = grid(low, high, b)
    # Rounding the zero point moves the ends of the range by up to half a step.
    x = torch.tensor(low + (high - low) * t).clamp(
        float(g.project(torch.tensor(-1e6))), float(g.project(torch.tensor(1e6)))
    )
    assert float((g.project(x) - x).abs()) <= float(g.scale) / 2 * (1 + 1e-4)


@given(edges, edges, bits, st.lists(edges, min_size=2, max_size=20))
def test_projection_is_monotone(low: float, high: float, b: int, values: list[float]) -> None:
    projected = grid(low, high, b).project(torch.tensor(sorted(values)))
    assert bool((projected.diff() >= 0).all())


def test_range_of_zero_width_maps_everything_to_zero() -> None:
    g = grid(0.0, 0.0, 4)
    assert float(g.scale) == 1
    assert torch.equal(g.project(torch.tensor([0.2, -0.3])), torch.zeros(2))


@given(edges, edges, bits)
def test_quantizer_equals_its_grid(low: float, high: float, b: int) -> None:
    g = grid(low, high, b)
    x = torch.linspace(-1.2e4, 1.2e4, 999)
    assert torch.equal(Quantizer(g)(x), g.project(x))
