"""The interface that users of segment-anything know."""

import numpy as np
import pytest
import torch
from PIL import Image

from mixqsam.errors import InputError
from mixqsam.prompts import Prompts, point_grid
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor

IMAGE = np.array(Image.effect_noise((64, 40), 80).convert("RGB"))
BOX = np.array([5, 5, 40, 30])


@pytest.fixture(scope="module")
def predictor(sam: Sam) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    return predictor


def test_one_prompt_gives_masks_scores_and_logits(predictor: SamPredictor) -> None:
    masks, scores, logits = predictor.predict(box=BOX)
    assert masks.shape == (3, 40, 64)
    assert masks.dtype == np.bool_
    assert scores.shape == (3,)
    assert logits.shape == (3, 20, 20)
    expected = predictor.segment(Prompts(boxes=BOX[None].astype(float)), multimask=True)
    assert np.array_equal(masks, expected.masks[0])
    one, _, _ = predictor.predict(
        point_coords=np.array([[12, 20], [40, 8]]), point_labels=np.array([1, 0]), multimask_output=False
    )
    assert one.shape == (1, 40, 64)


def test_boxes_in_a_batch_are_the_boxes_one_by_one(predictor: SamPredictor) -> None:
    boxes = np.array([BOX, [1, 1, 20, 39]])
    masks, scores, logits = predictor.predict(box=boxes, multimask_output=False)
    assert masks.shape == (2, 1, 40, 64)
    for index, box in enumerate(boxes):
        single = predictor.predict(box=box, multimask_output=False)
        assert np.array_equal(masks[index], single[0])
        np.testing.assert_allclose(scores[index], single[1], rtol=1e-4)
        np.testing.assert_allclose(logits[index], single[2], atol=1e-3)


def test_a_box_with_points_and_a_mask_to_start_from(predictor: SamPredictor) -> None:
    _, _, first = predictor.predict(box=BOX, multimask_output=False)
    point, label = np.array([[12, 20]]), np.array([0])
    _, _, with_point = predictor.predict(box=BOX, point_coords=point, point_labels=label, multimask_output=False)
    _, _, with_mask = predictor.predict(box=BOX, mask_input=first, multimask_output=False)
    assert not np.array_equal(first, with_point)
    assert not np.array_equal(first, with_mask)


def test_logits_on_request(predictor: SamPredictor) -> None:
    masks, _, _ = predictor.predict(box=BOX)
    logits, _, _ = predictor.predict(box=BOX, return_logits=True)
    assert logits.dtype == np.float32
    assert np.array_equal(logits > predictor.mask_threshold, masks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There are no prompts"),
        ({"box": [1, 2, 3]}, r"box has shape \(3,\); expected \[4\] or \[P, 4\]"),
        ({"point_coords": [[1, 2]]}, "point_coords and point_labels go together"),
        ({"point_coords": [1, 2], "point_labels": [1]}, r"point_coords has shape \(2,\)"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, r"point_labels has shape \(2,\)"),
        ({"box": BOX, "mask_input": np.zeros((20, 20))}, r"mask_input has shape \(20, 20\)"),
        ({"box": [BOX, BOX], "mask_input": np.zeros((1, 20, 20))}, "do not go with several boxes"),
    ],
)
def test_what_does_not_fit_is_named(predictor: SamPredictor, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor.predict(**arguments)  # type: ignore[arg-type]


def test_a_client_of_segment_anything(sam: Sam) -> None:
    """The calls that its SamAutomaticMaskGenerator makes of a predictor."""
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    points = point_grid(width=64, height=40, side=3).points
    assert points is not None
    moved = predictor.transform.apply_coords(points[:, 0], IMAGE.shape[:2])
    coords = torch.as_tensor(moved, device=predictor.device)
    labels = torch.ones(len(coords), dtype=torch.int, device=coords.device)
    masks, ious, low = predictor.predict_torch(
        coords[:, None, :], labels[:, None], multimask_output=True, return_logits=True
    )
    assert masks.shape == (9, 3, 40, 64)
    assert ious.shape == (9, 3)
    assert low.shape == (9, 3, 20, 20)
    expected = predictor.segment(Prompts(points=points, labels=np.ones((9, 1), np.int64)), multimask=True)
    assert np.array_equal((masks > predictor.model.mask_threshold).numpy(), expected.masks)
    predictor.reset_image()
    with pytest.raises(InputError, match="set_image"):
        predictor.predict(box=BOX)
