"""Passes of a float model with large products in bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixqsam.calibrate import cached_ranges, calibrate, name_rounding
from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.numeric import rough
from mixqsam.progress import Silent
from mixqsam.sam.forward import encode, make_frame
from mixqsam.sam.load import Sam
from mixqsam.sam.rough import multiplies_roughly, rough_pass, rough_products
from tests.oracles import logits_of


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor has bfloat16, and all products are large."""
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)


def embed(sam: Sam, sample: Sample) -> Tensor:
    with torch.no_grad():
        return encode(sam, make_frame(sam, sample.open()))["embedding"]


def is_as_before(sam: Sam) -> bool:
    return not any({"forward", "multiply"} & set(module.__dict__) for module in sam.model.modules())


@pytest.mark.usefixtures("rounds")
def test_a_rough_pass_is_nearly_the_exact_one_and_leaves_the_model_as_it_was(sam: Sam, samples: list[Sample]) -> None:
    before = embed(sam, samples[0])
    with rough_pass(sam):
        short = embed(sam, samples[0])
    assert 0 < float((short - before).norm() / before.norm()) < 0.03
    assert is_as_before(sam)
    assert torch.equal(embed(sam, samples[0]), before)


@pytest.mark.usefixtures("rounds")
def test_products_alone_are_rounded(sam: Sam, samples: list[Sample]) -> None:
    before = embed(sam, samples[0])
    with rough_products(sam):
        assert not any("forward" in module.__dict__ for module in sam.model.modules())
        assert not torch.equal(embed(sam, samples[0]), before)
    assert is_as_before(sam)


@pytest.mark.usefixtures("rounds")
def test_a_pass_that_fails_leaves_the_model_as_it_was(sam: Sam) -> None:
    with pytest.raises(KeyboardInterrupt), rough_pass(sam):
        raise KeyboardInterrupt
    assert is_as_before(sam)


def test_small_products_are_exact(sam: Sam, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    before = logits_of(sam, samples[0])
    with rough_pass(sam):
        assert torch.equal(logits_of(sam, samples[0]), before)
    assert name_rounding(sam, samples) == []


def test_many_prompts_make_the_layers_of_a_decoder_large(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    largest = max(unit.multiply_adds for unit in sam.costs().units)
    monkeypatch.setattr(rough, "_LARGE", largest + 1)
    assert not multiplies_roughly(sam, prompts=1)
    assert multiplies_roughly(sam, prompts=1000)


@pytest.mark.usefixtures("rounds")
def test_ranges_are_nearly_those_of_exact_products(sam: Sam, samples: list[Sample]) -> None:
    found = calibrate(sam, samples, observer="minmax", progress=Silent())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rough, "_has_bfloat16", lambda: False)
        exact = calibrate(sam, samples, observer="minmax", progress=Silent())
    assert found != exact
    worst = max(
        abs(one - other) / (high - low)
        for unit, operands in exact.values.items()
        for operand, per_bits in operands.items()
        for low, high in [per_bits[8]]
        for one, other in zip(found.values[unit][operand][8], (low, high), strict=True)
    )
    assert worst < 0.02


def test_what_is_found_by_other_products_is_not_taken_from_the_cache(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Sample] = []
    cache = Cache(tmp_path)

    @contextmanager
    def watch(sample: Sample) -> Iterator[None]:
        passes.append(sample)
        yield

    def find() -> int:
        """Passes that it took."""
        passes.clear()
        cached_ranges(sam, samples[:1], observer="minmax", cache=cache, progress=Silent(), watch=watch)
        return len(passes)

    assert [find(), find()] == [1, 0]
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    assert [find(), find()] == [1, 0]
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: False)
    assert find() == 0
