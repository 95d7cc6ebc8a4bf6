"""Our predictors beside segment-anything's own, with the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tiny import tiny_config
from PIL import Image

from mixqsam.artifact.manifest import Manifest
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import ImageError, InputError
from mixqsam.prediction import Floats, Prediction, Predictor
from mixqsam.prompts import Prompts
from mixqsam.sam.automatic import Automatic, encode_runs, segment_everything
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests import meta_predictor as meta_predictor_module
from tests.meta_predictor import meta_model, meta_predictor, vision

IMAGE = np.array(Image.effect_noise((64, 40), 80).convert("RGB"))
IMAGE[10:30, 20:40, 0] = 250
BOX = np.array([5, 5, 40, 30])
POINT = np.array([[30.0, 25.0]])
LOW = np.random.default_rng(0).normal(size=(1, 20, 20)).astype(np.float32)
KINDS = ("torch", "onnx")


@pytest.fixture(scope="module")
def meta() -> Any:
    predictor = meta_predictor(meta_model())
    predictor.set_image(IMAGE)
    return predictor


@pytest.fixture(scope="module")
def ours(sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from mixqsam.deployed.backends import find_backend
    from mixqsam.exporting.files import ExportOptions, export

    folder = tmp_path_factory.mktemp("onnx")
    manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
    export(sam, manifest, folder, backend=find_backend("onnx"), options=ExportOptions())
    predictors: dict[str, Predictor] = {
        "torch": SamPredictor(sam),
        "onnx": ExportedPredictor(folder, backend="onnx"),
    }
    for predictor in predictors.values():
        predictor.set_image(IMAGE)
    return predictors


VALID: dict[str, dict[str, Any]] = {
    "box": {"box": BOX},
    "box [1, 4]": {"box": BOX[None]},
    "box [1, 4] and point": {"box": BOX[None], "point_coords": POINT, "point_labels": np.array([1])},
    "box and background": {"box": BOX, "point_coords": POINT, "point_labels": np.array([0])},
    "box and mask": {"box": BOX, "mask_input": LOW},
    "box, point and mask": {"box": BOX, "point_coords": POINT, "point_labels": np.array([1]), "mask_input": LOW},
    "points": {"point_coords": np.array([[30, 25], [10, 10.0]]), "point_labels": np.array([1, 0])},
    "point and mask": {"point_coords": POINT, "point_labels": np.array([1]), "mask_input": LOW},
    "point that fills up": {"point_coords": np.array([[5, 5], [40, 30.0]]), "point_labels": np.array([1, -1])},
    "mask": {"mask_input": LOW},
    "one mask": {"box": BOX, "multimask_output": False},
    "logits": {"box": BOX, "return_logits": True},
    "point beyond the image": {"point_coords": np.array([[90.0, 25]]), "point_labels": np.array([1])},
    "box beyond the image": {"box": np.array([-20, -20, 200, 200])},
    "corners exchanged": {"box": np.array([40, 30, 5, 5])},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", VALID)
def test_valid_calls_give_what_metas_predictor_gives(
    meta: Any, ours: dict[str, Predictor], kind: str, name: str
) -> None:
    expected, found = meta.predict(**VALID[name]), ours[kind].predict(**VALID[name])
    for theirs, mine in zip(expected, found, strict=True):
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
    assert (found[0] == expected[0]).mean() > 0.999 or name == "logits"
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-4)
    if name == "logits":
        np.testing.assert_allclose(found[0], expected[0], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["boxes", "points", "both", "mask for all"])
def test_batches_of_tensors(meta: Any, ours: dict[str, Predictor], kind: str, name: str) -> None:
    size = IMAGE.shape[:2]
    mine = ours[kind]
    boxes = torch.tensor([[5.0, 5, 40, 30], [1, 1, 20, 39]])
    points, labels = torch.tensor([[[30.0, 25]], [[9, 9]]]), torch.tensor([[1], [0]])
    # Coordinates come through either's transform: both are those of the frame.
    for transform in (meta.transform, mine.transform):
        moved = transform.apply_boxes_torch(boxes, size), transform.apply_coords_torch(points, size)
        arguments: dict[str, Any] = {
            "boxes": {"point_coords": None, "point_labels": None, "boxes": moved[0]},
            "points": {"point_coords": moved[1], "point_labels": labels},
            "both": {"point_coords": moved[1], "point_labels": labels, "boxes": moved[0]},
            "mask for all": {
                "point_coords": None,
                "point_labels": None,
                "boxes": moved[0],
                "mask_input": torch.from_numpy(LOW)[None],
            },
        }[name]
        expected, found = meta.predict_torch(**arguments), mine.predict_torch(**arguments)
        for theirs, own in zip(expected, found, strict=True):
            assert own.shape == theirs.shape
        np.testing.assert_allclose(found[2], expected[2], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_images_in_another_order_of_channels(meta: Any, ours: dict[str, Predictor], kind: str) -> None:
    mine = ours[kind]
    straight = mine.predict(box=BOX)[2]
    mine.set_image(IMAGE[..., ::-1], image_format="BGR")
    assert np.array_equal(mine.predict(box=BOX)[2], straight)
    mine.set_image(IMAGE, "BGR")
    meta.set_image(IMAGE, "BGR")
    np.testing.assert_allclose(mine.predict(box=BOX)[2], meta.predict(box=BOX)[2], atol=1e-4)
    assert not np.array_equal(mine.predict(box=BOX)[2], straight)
    meta.set_image(IMAGE)
    mine.set_image(IMAGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(40, 64), (200, 90), (80, 80), (33, 21)])
def test_images_that_are_resized_already(
    meta: Any, ours: dict[str, Predictor], kind: str, shape: tuple[int, int]
) -> None:
    mine = ours[kind]
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    resized = mine.transform.apply_image(image)
    with vision():
        assert np.array_equal(resized, meta.transform.apply_image(image))
    tensor = torch.as_tensor(resized).permute(2, 0, 1).contiguous()[None]
    for predictor in (meta, mine):
        predictor.set_torch_image(tensor, shape)
    assert mine.original_size == meta.original_size == shape
    assert mine.input_size == meta.input_size
    np.testing.assert_allclose(mine.features, meta.features, atol=1e-4)
    box = np.array([2, 2, 18, 30])
    np.testing.assert_allclose(mine.predict(box=box)[2], meta.predict(box=box)[2], atol=1e-4)
    assert mine.predict(box=box)[0].shape == (3, *shape)
    # The image itself gives the same.
    embedding = mine.get_image_embedding()
    mine.set_image(image)
    np.testing.assert_allclose(mine.get_image_embedding(), embedding, atol=1e-4)
    meta.set_image(IMAGE)
    mine.set_image(IMAGE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_notebooks_look_at(meta: Any, ours: dict[str, Predictor], kind: str) -> None:
    mine = ours[kind]
    assert mine.is_image_set is True
    assert mine.original_size == (40, 64)
    assert mine.input_size == meta.input_size
    assert isinstance(mine.features, torch.Tensor)
    assert mine.get_image_embedding().shape == meta.get_image_embedding().shape
    assert mine.model.image_format == mine.image_format == "RGB"
    assert mine.model.image_encoder.img_size == mine.transform.target_length == 80
    boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_allclose(mine.transform.apply_boxes(boxes, (40, 64)), meta.transform.apply_boxes(boxes, (40, 64)))
    mine.reset_image()
    assert not mine.is_image_set
    assert mine.features is mine.original_size is mine.input_size is None
    with pytest.raises(InputError, match="set_image"):
        mine.get_image_embedding()
    mine.set_image(IMAGE)


def test_metas_generator_of_masks_runs_on_our_predictor(meta: Any, ours: dict[str, Predictor]) -> None:
    with vision():
        from segment_anything import SamAutomaticMaskGenerator
    options = {"points_per_side": 4, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
    expected = SamAutomaticMaskGenerator(meta.model, **options).generate(IMAGE)
    for mine in ours.values():
        generator = SamAutomaticMaskGenerator(mine.model, **options)
        generator.predictor = mine
        found = generator.generate(IMAGE)
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            assert one["area"] == pytest.approx(other["area"], rel=0.01)
        mine.set_image(IMAGE)
    meta.set_image(IMAGE)


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "There are no prompts"),
    "no points": ({"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)}, "There are no prompts"),
    "empty lists": ({"point_coords": [], "point_labels": []}, "There are no prompts"),
    "no boxes": ({"box": np.zeros((0, 4))}, "There are no prompts"),
    "label 2": ({"point_coords": [[5, 5], [40, 30]], "point_labels": [2, 3]}, "has the label 2; expected 1"),
    "label -10": ({"point_coords": [[5, 5], [40, 30]], "point_labels": [1, -10]}, "has the label -10"),
    "label 0.5": ({"point_coords": POINT, "point_labels": [0.5]}, "has the label 0.5"),
    "labels alone": ({"box": BOX, "point_labels": [1]}, "go together"),
    "labels [1, 1]": ({"point_coords": POINT[None], "point_labels": [[1]]}, r"point_coords has shape \(1, 1, 2\)"),
    "NaN point": ({"point_coords": [[np.nan, 5]], "point_labels": [1]}, "point holds NaN"),
    "NaN box": ({"box": [np.nan, 5, 40, 50]}, "box holds NaN"),
    "infinite box": ({"box": [0, 5, 40, np.inf]}, "box holds NaN or infinity"),
    "text": ({"box": ["a", 1, 2, 3]}, "box is not an array of numbers"),
    "ragged": ({"point_coords": [[1, 2], [3]], "point_labels": [1, 1]}, "point_coords is not an array of numbers"),
    "box of three axes": ({"box": BOX[None, None]}, r"box has shape \(1, 1, 4\); expected \[4\]"),
    "mask of four axes": ({"box": BOX, "mask_input": LOW[None]}, r"mask_input has shape \(1, 1, 20, 20\)"),
    "three masks": ({"box": BOX, "mask_input": np.repeat(LOW, 3, 0)}, r"mask_input has shape \(3, 20, 20\)"),
    "mask of the image's size": ({"box": BOX, "mask_input": np.zeros((1, 40, 64))}, r"expected \[1, 20, 20\]"),
    "mask of SAM's size": ({"mask_input": np.zeros((1, 256, 256))}, r"expected \[1, 20, 20\]"),
    "NaN mask": ({"box": BOX, "mask_input": np.full((1, 20, 20), np.nan)}, "mask holds NaN"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", INVALID)
def test_other_calls_are_refused_alike(ours: dict[str, Predictor], kind: str, name: str) -> None:
    arguments, message = INVALID[name]
    with pytest.raises(InputError, match=message):
        ours[kind].predict(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_any_kind_are_numbers(ours: dict[str, Predictor], kind: str) -> None:
    expected = ours[kind].predict(box=BOX)[2]
    for box in (
        torch.tensor(BOX, dtype=torch.float32, requires_grad=True),
        torch.tensor(BOX, dtype=torch.bfloat16),
        BOX.tolist(),
    ):
        assert np.array_equal(ours[kind].predict(box=box)[2], expected)
    true = ours[kind].predict(point_coords=POINT, point_labels=[True])[2]
    assert np.array_equal(true, ours[kind].predict(point_coords=POINT, point_labels=[1.0])[2])


NO_IMAGES: dict[str, tuple[Any, str]] = {
    "floats": (IMAGE / 255, "array of float64; expected uint8.*by 255"),
    "whole numbers": (IMAGE.astype(np.int64), "array of int64; expected uint8"),
    "booleans": (IMAGE > 9, "array of bool"),
    "channels first": (IMAGE.transpose(2, 0, 1), r"channels first.*transpose\(1, 2, 0\)"),
    "two channels": (IMAGE[..., :2], r"has shape \(40, 64, 2\)"),
    "a batch": (IMAGE[None], r"has shape \(1, 40, 64, 3\)"),
    "nothing": (IMAGE[:0], r"has shape \(0, 64, 3\)"),
    "a path": ("photo.jpg", r"path 'photo.jpg'; open it first: PIL.Image.open"),
    "a Path": (Path("photo.jpg"), "open it first"),
    "a tensor": (torch.from_numpy(IMAGE), "a tensor; give a NumPy array"),
    "a list": (IMAGE.tolist(), "a list; give a Pillow image"),
    "None": (None, "a NoneType"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_not_an_image_is_refused(ours: dict[str, Predictor], kind: str, name: str) -> None:
    value, message = NO_IMAGES[name]
    with pytest.raises(InputError, match=message):
        ours[kind].set_image(value)
    with pytest.raises(InputError, match="image_format is 'RGBA'; expected RGB or BGR"):
        ours[kind].set_image(IMAGE, image_format="RGBA")


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_of_the_frame_are_refused(ours: dict[str, Predictor], kind: str) -> None:
    mine = ours[kind]
    good = torch.zeros(1, 3, 50, 80)
    mine.set_torch_image(good, (40, 64))
    for tensor, size, message in (
        (good[0], (40, 64), r"has shape \(3, 50, 80\)"),
        (good.permute(0, 2, 3, 1), (40, 64), "expected \\[1, 3, height, width\\] with 80"),
        (torch.zeros(1, 3, 40, 64), (40, 64), "with 80 as the longer side"),
        (good, (64, 40), "64×40 becomes 80×50"),
        (good * torch.nan, (40, 64), "NaN"),
        (good, 5, "height and width"),
    ):
        with pytest.raises(InputError, match=message):
            mine.set_torch_image(tensor, size)  # type: ignore[arg-type]
    mine.set_image(IMAGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(4000, 2), (2, 4000), (161, 1), (1, 1)])
def test_thin_images_have_masks(ours: dict[str, Predictor], kind: str, size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 80).convert("RGB")
    for predictor in ours.values():
        predictor.set_image(image)
    masks, scores, logits = ours[kind].predict(point_coords=[[0, 0]], point_labels=[1])
    assert masks.shape == (3, size[1], size[0])
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(scores, ours["torch"].predict(point_coords=[[0, 0]], point_labels=[1])[1], atol=1e-4)
    for predictor in ours.values():
        predictor.set_image(IMAGE)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_sixteen_bits_and_floats_are_those_of_files(
    ours: dict[str, Predictor], kind: str, tmp_path: Path
) -> None:
    from mixqsam.data.images import open_image

    mine = ours[kind]
    deep = (np.linspace(0, 65535, 40 * 64).reshape(40, 64)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    mine.set_image(open_image(tmp_path / "deep.png"))
    expected = mine.predict(box=BOX)[2]
    for image in (deep, Image.fromarray(deep), Image.open(tmp_path / "deep.png")):
        mine.set_image(image)
        assert np.array_equal(mine.predict(box=BOX)[2], expected)
    others: list[Any] = [deep >> 4, Image.fromarray(deep >> 4), Image.fromarray(np.full((40, 64), 2.0, np.float32))]
    for other in others:
        with pytest.raises(ImageError, match="seems to hold 12 bits|expected 0 to 1"):
            mine.set_image(other)
    mine.set_image(IMAGE)


def test_a_file_of_metas_gives_metas_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(decoder_layers=2)
    # Files of Meta's do not say how many heads the decoder has.
    config.mask_decoder_config.num_attention_heads = 8
    monkeypatch.setattr(meta_predictor_module, "tiny_config", lambda: config)
    model = meta_model()
    torch.save(model.state_dict(), tmp_path / "sam.pth")
    sam = load_sam(tmp_path / "sam.pth")
    theirs, mine = meta_predictor(model), SamPredictor(sam)
    for predictor in (theirs, mine):
        predictor.set_image(IMAGE)
    # With the epsilon of transformers, 1e-6, they differ by 3e-6.
    np.testing.assert_allclose(mine.predict(box=BOX)[2], theirs.predict(box=BOX)[2], rtol=0, atol=8e-7)
    assert sam.config.mask_decoder_config.layer_norm_eps == 1e-5


@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle"])
def test_our_generator_gives_metas_dictionaries(meta: Any, ours: dict[str, Predictor], mode: str) -> None:
    with vision():
        from segment_anything import SamAutomaticMaskGenerator
    options = {"points_per_side": 4, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "output_mode": mode}
    found_by_meta = SamAutomaticMaskGenerator(meta.model, **options).generate(IMAGE)
    # Without thresholds, Meta's keeps masks without a pixel.
    expected = [record for record in found_by_meta if record["area"]]
    automatic = Automatic(side=4, predicted_iou=-9.0, stability=0.0)
    for mine in ours.values():
        found = segment_everything(mine, IMAGE, automatic).records(rle=mode == "uncompressed_rle")
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            for key in ("point_coords", "bbox", "crop_box"):
                np.testing.assert_allclose(one[key], other[key], atol=1.01)
            assert one["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-4)
            assert one["area"] == pytest.approx(other["area"], rel=0.01)
            if mode == "binary_mask":
                assert one["segmentation"].shape == other["segmentation"].shape
            else:
                assert one["segmentation"]["size"] == other["segmentation"]["size"]
                assert sum(one["segmentation"]["counts"]) == IMAGE.shape[0] * IMAGE.shape[1]


class Discs(Predictor):
    """Finds three discs around each point; how sure it is of them depends on radius and place."""

    frame_side = 200
    features = None
    original_size: tuple[int, int] | None = None

    def encode_image(self, image: Image.Image) -> None:
        self.original_size = (image.height, image.width)

    def encode_resized(self, pixels: Floats, *, original: tuple[int, int]) -> None:
        raise NotImplementedError

    def reset_image(self) -> None:
        self.original_size = None

    def keep(self) -> object:
        return self.original_size

    def restore(self, kept: object) -> None:
        assert isinstance(kept, tuple)
        self.original_size = kept

    def segment(self, prompts: Prompts, *, multimask: bool = False, full: bool = False) -> Prediction:
        assert multimask
        assert prompts.points is not None
        assert self.original_size is not None
        y, x = np.mgrid[: self.original_size[0], : self.original_size[1]]
        radii = np.array([5.3, 12.4, 27.6])
        places = prompts.points[:, 0, :, None, None, None]
        distances = (x - places[:, 0]) ** 2 + (y - places[:, 1]) ** 2
        logits = (radii[:, None, None] ** 2 - distances).astype(np.float32)
        scores = 0.9 - radii / 1000 + prompts.points[:, 0] @ [[1 / 3000], [1 / 7000]]
        return Prediction(logits > 0, scores.astype(np.float32), logits, self.original_size, logits if full else None)


def record_key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(np.round([record["predicted_iou"], *record["crop_box"], *record["point_coords"][0]], 4))


@pytest.mark.parametrize(
    ("layers", "downscale", "overlap"), [(1, 1, 512 / 1500), (2, 2, 0.1)], ids=["defaults", "two layers"]
)
def test_our_crops_are_metas(layers: int, downscale: int, overlap: float) -> None:
    with vision():
        pytest.importorskip("segment_anything")
        from segment_anything import SamAutomaticMaskGenerator
    picture, mine = np.zeros((144, 200, 3), np.uint8), Discs()
    generator = SamAutomaticMaskGenerator(
        mine.model,
        points_per_side=6,
        pred_iou_thresh=-9.0,
        stability_score_thresh=0.0,
        crop_n_layers=layers,
        crop_overlap_ratio=overlap,
        crop_n_points_downscale_factor=downscale,
    )
    generator.predictor = mine
    expected = sorted(generator.generate(picture), key=record_key)
    options = Automatic(
        side=6,
        predicted_iou=-9.0,
        stability=0.0,
        crop_layers=layers,
        crop_overlap=overlap,
        crop_downscale=downscale,
    )
    found = segment_everything(mine, picture, options)
    assert (np.diff(found.scores) <= 0).all()
    assert mine.original_size == (144, 200)
    records = sorted(found.records(), key=record_key)
    assert len({tuple(record["crop_box"]) for record in expected}) > 4
    assert len(records) == len(expected)
    for one, other in zip(records, expected, strict=True):
        for key in ("point_coords", "bbox", "crop_box", "area", "predicted_iou"):
            np.testing.assert_allclose(one[key], other[key], atol=1e-4)
        np.testing.assert_array_equal(one["segmentation"], other["segmentation"])


@pytest.mark.parametrize("corner", [False, True])
def test_runs_of_masks_are_metas(corner: bool) -> None:
    with vision():
        pytest.importorskip("segment_anything")
        from segment_anything.utils.amg import mask_to_rle_pytorch
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 1.0):
        mask = rng.random((5, 7)) < share
        mask[0, 0] = mask[-1, -1] = corner
        assert encode_runs(mask) == mask_to_rle_pytorch(torch.from_numpy(mask)[None])[0]
