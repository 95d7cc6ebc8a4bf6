import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mixqsam.analysis.outputs import OUTPUTS, bernoulli_kl, spatial_kl


def maps(seed: int, spread: float = 5.0) -> torch.Tensor:
    return torch.randn(4, 1, 6, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def test_bernoulli_is_torchs_divergence_of_coins() -> None:
    p, q = maps(1), maps(2)
    expected = kl_divergence(Bernoulli(logits=p), Bernoulli(logits=q)).mean()
    assert float(bernoulli_kl(p, q[None])) == pytest.approx(float(expected), rel=1e-9)


def test_spatial_is_torchs_divergence_over_pixels() -> None:
    p, q = maps(1), maps(2)
    expected = kl_divergence(Categorical(p.sigmoid().flatten(-2)), Categorical(q.sigmoid().flatten(-2))).mean()
    assert float(spatial_kl(p, q[None])) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 200))
def test_zero_for_itself_positive_and_finite_otherwise(name: str, seed: int, spread: float) -> None:
    p = maps(seed, spread)
    divergence = OUTPUTS[name](p, torch.stack([p, maps(seed + 1, spread)]))
    assert float(divergence[0]) == pytest.approx(0, abs=1e-12)
    assert 0 <= float(divergence[1]) < float("inf")
