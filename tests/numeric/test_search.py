"""The search of ranges finds what a search of all candidates finds, nearly."""

import pytest
import torch

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.search import search_one, search_rows
from mixqsam.numeric.weights import project_weight, weight_grid
from mixqsam.sam.load import load_sam


@pytest.mark.parametrize("best", [0, 1, 9, 10, 57, 98, 99])
def test_a_single_minimum_is_found_wherever_it_is(best: int) -> None:
    assert search_one(lambda index: (index - best).abs().float(), count=100) == best
    bests = torch.tensor([best, 99 - best, 50])
    for together in (1, 4, 100):
        found = search_rows(lambda index: (index - bests).abs().float(), count=100, rows=3, together=together)
        assert torch.equal(found, bests)


def test_few_errors_are_computed() -> None:
    calls = []

    def errors(index: torch.Tensor) -> torch.Tensor:
        calls.append(len(index))
        return (index - 41).abs().float()

    search_rows(errors, count=100, rows=5)
    assert calls == [1] * 28
    calls.clear()
    search_rows(errors, count=100, rows=5, together=16)
    assert calls == [10, 16, 2]


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_grids_of_weights_are_as_good_as_those_of_a_full_search(bits: int) -> None:
    sam, ratios = load_sam("sam-tiny"), []
    for unit in sam.costs().units[::4]:
        if unit.kind == "product":
            continue
        weight = sam.model.get_submodule(unit.name).weight.detach().float()
        rows = weight.reshape(weight.shape[0], -1)
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        errors = []
        for factor in torch.linspace(0.01, 1, 100):
            grid = AffineGrid.spanning(low * factor, high * factor, bits=bits, signed=True)
            errors.append((grid.project(rows) - rows).square().sum(1))
        least = torch.stack(errors).amin(0).sum()
        found = project_weight(weight, weight_grid(weight, bits=bits, observer="omse", name=unit.name))
        ratios.append(float((found - weight).square().sum() / least))
    assert 0.9999 < sum(ratios) / len(ratios) < 1.001
    assert max(ratios) < 1.01
