"""The mask decoder that computes once what prompts share, beside the one that repeats the image for each."""

import numpy as np
import pytest
import torch
from transformers.models.sam.modeling_sam import SamMaskDecoder

from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.families.two_way_decoder import MaskDecoder
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts, point_grid
from mixqsam.runtime.build import integer_model
from mixqsam.runtime.decoder import IntegerMaskDecoder
from mixqsam.sam import forward
from mixqsam.sam.forward import decode_batch, embed_prompts, encode, make_frame, prompt_tensors
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from tests.oracles import nearest

POINTS = point_grid(width=64, height=40, side=3)
MASKS = Prompts(boxes=np.array([[5.0, 5, 40, 30]]), masks=np.ones((1, 1, 20, 20), np.float32))


@pytest.fixture(scope="module")
def integer(sam: Sam, samples: list[Sample]) -> Sam:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(8, 8))
    return integer_model(nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent())))


def decode_as(kind: type, sam: Sam, samples: list[Sample], prompts: Prompts, *, multimask: bool) -> list[torch.Tensor]:
    """Logits and scores of the images with a decoder of this class."""
    frames = [make_frame(sam, sample.open()) for sample in samples]
    encoded = [encode(sam, frame) for frame in frames]
    maps = {name: torch.cat([one[name] for one in encoded]) for name in encoded[0]}
    embedded = embed_prompts(sam, prompt_tensors(sam, prompts, frames[0]))
    before = type(sam.model.mask_decoder)
    try:
        sam.model.mask_decoder.__class__ = kind
        return list(decode_batch(sam, maps, embedded, multimask=multimask))
    finally:
        sam.model.mask_decoder.__class__ = before


@pytest.mark.parametrize("count", [1, 2], ids=["an image", "two images"])
@pytest.mark.parametrize("prompts", [POINTS, MASKS], ids=["points", "a mask"])
@pytest.mark.parametrize("multimask", [False, True], ids=["one", "three"])
def test_what_prompts_share_changes_no_bit(
    integer: Sam, samples: list[Sample], count: int, prompts: Prompts, multimask: bool
) -> None:
    assert type(integer.model.mask_decoder) is IntegerMaskDecoder
    expected = decode_as(MaskDecoder, integer, samples[:count], prompts, multimask=multimask)
    found = decode_as(IntegerMaskDecoder, integer, samples[:count], prompts, multimask=multimask)
    assert found[0].shape == (count, len(prompts), 3 if multimask else 1, 20, 20)
    assert float(np.ptp(found[0].numpy())) > 0.01
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("multimask", [False, True], ids=["one", "three"])
def test_masks_are_enlarged_as_transformers_does(sam: Sam, samples: list[Sample], multimask: bool) -> None:
    expected = decode_as(SamMaskDecoder, sam, samples, POINTS, multimask=multimask)
    found = decode_as(MaskDecoder, sam, samples, POINTS, multimask=multimask)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_many_prompts_are_decoded_some_at_a_time(
    integer: Sam, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = SamPredictor(integer)
    predictor.set_image(samples[0].open())
    whole = predictor.propose(POINTS)
    monkeypatch.setattr(forward, "_CACHED_BYTES", 1)
    alone = predictor.propose(POINTS)
    np.testing.assert_allclose(alone.scores, whole.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(alone.logits, whole.logits, rtol=0, atol=1e-5)
