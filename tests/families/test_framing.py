"""How images of any size, and images of the frame's size, become what an encoder takes: the same for each family."""

import numpy as np
import pytest
import torch
from benchmarks.tiny import random_model
from benchmarks.tiny import tiny_config as sam_config
from PIL import Image

from mixqsam.families import prepare
from mixqsam.families.family import PromptTensors
from mixqsam.families.mobile_sam import make_processor
from mixqsam.sam.load import Sam, default_processor
from mixqsam.sam.predictor import SamPredictor
from tests.families.released import random_mobile_sam
from tests.families.released import tiny_config as mobile_config

pytestmark = pytest.mark.versions


def _sam() -> Sam:
    config = sam_config()
    return Sam(prepare(random_model(config)), default_processor(config), "sam")


def _mobile_sam() -> Sam:
    config = mobile_config()
    return Sam(prepare(random_mobile_sam(config)), make_processor(config), "mobile-sam")


@pytest.fixture(params=[_sam, _mobile_sam], ids=["sam", "mobile_sam"])
def predictor(request: pytest.FixtureRequest) -> SamPredictor:
    model: Sam = request.param()
    model.model.requires_grad_(False)
    return SamPredictor(model)


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 40), (30, 90), (200, 200)])
def test_an_image_that_is_resized_already_gives_the_same(predictor: SamPredictor, size: tuple[int, int]) -> None:
    image = picture(*size)
    predictor.set_image(image)
    embedding = predictor.get_image_embedding()
    resized = torch.as_tensor(predictor.transform.apply_image(image)).permute(2, 0, 1)[None]
    assert max(resized.shape) == predictor.frame_side
    predictor.set_torch_image(resized, image.shape[:2])
    torch.testing.assert_close(predictor.get_image_embedding(), embedding, rtol=1e-4, atol=1e-4)
    assert predictor.original_size == (size[1], size[0])


@pytest.mark.parametrize("size", [(4000, 2), (2, 4000), (1000, 1), (1, 1)])
def test_thin_images_have_masks(predictor: SamPredictor, size: tuple[int, int]) -> None:
    predictor.set_image(Image.fromarray(picture(*size)))
    masks, scores, logits = predictor.predict(point_coords=[[0, 0]], point_labels=[1])
    assert masks.shape == (3, size[1], size[0])
    assert np.isfinite(scores).all()
    assert np.isfinite(logits).all()


def test_a_mask_alone_is_a_prompt(predictor: SamPredictor) -> None:
    predictor.set_image(picture(64, 40))
    _, _, first = predictor.predict(box=[5, 5, 40, 30], multimask_output=False)
    masks, _, refined = predictor.predict(mask_input=first, multimask_output=False)
    assert masks.shape == (1, 40, 64)
    assert not np.array_equal(first, refined)
    other = predictor.predict(mask_input=-first, multimask_output=False)[2]
    assert not np.array_equal(other, refined)


def test_prompts_are_counted_whatever_they_are() -> None:
    assert len(PromptTensors(None, None, None)) == 0
    assert len(PromptTensors(torch.zeros(1, 3, 4), None, None)) == 3
    assert len(PromptTensors(None, torch.zeros(1, 2, 5, 2), torch.zeros(1, 2, 5))) == 2
    assert len(PromptTensors(None, None, None, torch.zeros(1, 4, 1, 8, 8))) == 4
