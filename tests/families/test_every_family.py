"""What a user does with a model, for every family, on random models of a few thousand parameters."""

import json
import pickle
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from transformers import PreTrainedModel

from mixqsam.analysis.measure import MeasurementOptions, analyze
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import InputError, ModelError
from mixqsam.families import FAMILIES
from mixqsam.families.compatibility import random_model
from mixqsam.families.family import Family, PromptTensors
from mixqsam.files import Cache
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.runtime.build import integer_model, simulated_units
from mixqsam.runtime.packed import PackedLayer
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from mixqsam.weight_grids import WeightGrids
from tests.conftest import draw
from tests.oracles import logits_of, mixture, nearest

pytestmark = pytest.mark.versions
# The others have tests of their own for what takes longer.
NEWER = [name for name in FAMILIES if name not in {"sam", "mobile_sam"}]


@dataclass(frozen=True)
class Made:
    """A random model of a family, and what was made of it.

    Attributes:
        family: which.
        float_directory: in transformers' layout.
        sam: the float model.
        plan: mixed bits.
        quantized: by the plan.
        directory: what was saved of it.
        size: of the file with the weights, in bytes.
        samples: two images with boxes.
    """

    family: Family
    float_directory: Path
    sam: Sam
    plan: BitPlan
    quantized: Sam
    directory: Path
    size: int
    samples: list[Sample]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("pictures")
    boxes = np.array([[5.0, 5.0, 30.0, 30.0], [10.0, 2.0, 38.0, 36.0]])
    sizes = ((64, 40), (40, 64), (64, 48), (50, 50))
    return [
        Sample(
            draw(folder / f"{i}.png", width=width, height=height, seed=i),
            width,
            height,
            Prompts(boxes=boxes),
            image_id=i,
        )
        for i, (width, height) in enumerate(sizes)
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Made:
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    with torch.no_grad():
        model = random_model(family)
    model.tie_weights()
    model.save_pretrained(folder / "float")
    sam = load_sam(folder / "float")
    plan = mixture(sam, seed=1)
    quantized = nearest(sam, plan, calibrate(sam, samples[:2], observer="omse", progress=Silent()))
    (folder / "quantized").mkdir()
    manifest = Manifest.of(quantized, plan, recipe="omse", prompts_per_image=1)
    size = save_model(quantized, manifest, folder / "quantized")
    return Made(family, folder / "float", sam, plan, quantized, folder / "quantized", size, samples)


def outputs(model: PreTrainedModel, side: int) -> tuple[torch.Tensor, ...]:
    """Of the model's own forward."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(1, 3, side, side, generator=generator)
    boxes = torch.tensor([[[5.0, 5, 40, 40], [1, 2, 30, 40]]])
    with torch.no_grad():
        found = model(pixel_values=pixels, input_boxes=boxes, multimask_output=True)
    return found.pred_masks, found.iou_scores


@pytest.mark.parametrize("prompted_by", ["boxes", "points", "both", "masks"])
def test_the_float_model_computes_what_transformers_does(made: Made, prompted_by: str) -> None:
    family, side = made.family, made.sam.image_size
    plain = family.model.from_pretrained(made.float_directory, attn_implementation="eager").eval()
    family.mend(plain)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, side, side, generator=generator)
    boxes = torch.tensor([[[3.0, 4.0, 30.0, 33.0], [1.0, 2.0, 20.0, 40.0]]])
    points, labels = torch.tensor([[[[9.0, 8.0], [30.0, 20.0]]] * 2]), torch.tensor([[[1, 0]] * 2])
    with torch.no_grad():
        places = family.encode(made.sam.model, pixels)["embedding"].shape[-1]
    mask = torch.randn(1, 1, 1, 4 * places, 4 * places, generator=generator)
    given = {
        "boxes": PromptTensors(boxes, None, None),
        "points": PromptTensors(None, points, labels),
        "both": PromptTensors(boxes, points, labels),
        "masks": PromptTensors(boxes[:, :1], None, None, mask),
    }[prompted_by]
    masks = None if given.masks is None else given.masks[:, 0]
    model = made.sam.model
    for multimask in (False, True):
        with torch.no_grad():
            expected = plain(
                pixel_values=pixels,
                input_boxes=given.boxes,
                input_points=given.points,
                input_labels=given.labels,
                input_masks=masks,
                multimask_output=multimask,
            )
            maps = family.encode(model, pixels)
            logits, scores = family.decode(model, maps, family.embed(model, given), multimask=multimask)
        torch.testing.assert_close(logits, expected.pred_masks, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores, expected.iou_scores, rtol=1e-4, atol=1e-4)
        assert logits.shape[2] == (3 if multimask else 1)
        assert logits.shape[-1] == 4 * maps["embedding"].shape[-1]


def test_the_models_own_forward_runs_through_the_engines_modules(made: Made) -> None:
    """As a user of transformers calls it."""
    side = made.sam.image_size
    plain = made.family.model.from_pretrained(made.float_directory).eval()
    made.family.mend(plain)
    for found, expected in zip(outputs(made.sam.model, side), outputs(plain, side), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_integer_inference_gives_what_the_simulation_gives(made: Made) -> None:
    plan = BitPlan.uniform(made.sam.costs().units, UnitBits(8, 8))
    model = nearest(made.sam, plan, calibrate(made.sam, made.samples[:1], observer="minmax", progress=Silent()))
    assert torch.equal(logits_of(integer_model(model), made.samples[1]), logits_of(model, made.samples[1]))
    reasons = {why for name, why in simulated_units(integer_model(model).model) if name.endswith((".qk", ".av"))}
    assert all("run on whole numbers in float" in why for why in reasons)
    assert any("transformers' own" in why for why in reasons) == (made.family.name in NEWER)
    mixed = integer_model(made.quantized)
    assert any(isinstance(module, PackedLayer) for module in mixed.model.modules())
    assert torch.equal(logits_of(mixed, made.samples[0]), logits_of(made.quantized, made.samples[0]))


def test_the_file_is_as_small_as_its_bits(made: Made) -> None:
    content = (made.directory / "model.safetensors").read_bytes()
    assert len(content) == made.size
    header = 8 + int.from_bytes(content[:8], "little")
    claimed = made.sam.costs().size(made.plan)
    assert abs(made.size - header - claimed) <= 0.02 * claimed


def test_a_saved_model_is_loaded_to_the_last_bit(made: Made, tmp_path: Path) -> None:
    expected = logits_of(made.quantized, made.samples[0])
    for integer in (False, True):
        again, manifest = load_model(made.directory, integer=integer)
        assert torch.equal(logits_of(again, made.samples[0]), expected)
    assert manifest.plan(again.costs()) == made.plan
    save_model(load_model(made.directory)[0], manifest, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (made.directory / "model.safetensors").read_bytes()


def test_transformers_loads_it_to_the_last_bit(made: Made, tmp_path: Path) -> None:
    model = made.family.model.from_pretrained(made.directory)
    assert type(model) is made.family.model
    expected = outputs(load_model(made.directory)[0].model, made.sam.image_size)
    for one in (model, pickle.loads(pickle.dumps(model))):  # noqa: S301
        found = outputs(one, made.sam.image_size)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    model.save_pretrained(tmp_path)
    again = outputs(made.family.model.from_pretrained(tmp_path), made.sam.image_size)
    assert all(torch.equal(*pair) for pair in zip(again, expected, strict=True))


def test_a_dequantized_model_is_one_of_transformers(made: Made, tmp_path: Path) -> None:
    """It can be trained, saved and quantized again."""
    model = made.family.model.from_pretrained(made.directory).dequantize()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values.pop("quantization_config", None)
    (tmp_path / "config.json").write_text(json.dumps(values))
    again = load_sam(tmp_path)
    for found, expected in zip(
        outputs(again.model, made.sam.image_size), outputs(model, made.sam.image_size), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_boxes_and_points_give_masks_of_the_images_size(made: Made) -> None:
    predictor = SamPredictor(made.quantized)
    image = Image.open(made.samples[0].path).convert("RGB")
    predictor.set_image(image)
    masks, scores, logits = predictor.predict(box=np.array([5, 5, 30, 30]))
    assert masks.shape == (3, 40, 64)
    assert np.isfinite(scores).all()
    single, _, _ = predictor.predict(point_coords=[[20, 20]], point_labels=[1], multimask_output=False)
    assert single.shape == (1, 40, 64)
    refined, _, _ = predictor.predict(box=[5, 5, 30, 30], mask_input=logits[:1], multimask_output=False)
    assert refined.shape == (1, 40, 64)
    from_mask, _, _ = predictor.predict(mask_input=logits[:1])
    assert from_mask.shape == (3, 40, 64)
    many, _, _ = predictor.predict(box=np.array([[5, 5, 30, 30], [1, 1, 20, 20]]))
    assert many.shape == (2, 3, 40, 64)


def test_a_resized_image_gives_what_the_image_gives(made: Made) -> None:
    predictor = SamPredictor(made.sam)
    pixels = np.asarray(Image.open(made.samples[1].path).convert("RGB"))
    predictor.set_image(pixels)
    embedding = predictor.get_image_embedding()
    resized = torch.as_tensor(predictor.transform.apply_image(pixels)).permute(2, 0, 1)[None]
    predictor.set_torch_image(resized, pixels.shape[:2])
    torch.testing.assert_close(predictor.get_image_embedding(), embedding, rtol=1e-4, atol=1e-4)
    boxes = predictor.transform.apply_boxes([[5, 5, 30, 30]], pixels.shape[:2])
    found, _, _ = predictor.predict_torch(None, None, torch.as_tensor(boxes))
    expected, _, _ = predictor.predict(box=[5, 5, 30, 30])
    assert np.array_equal(found[0].numpy(), expected)
    with pytest.raises(InputError, match="height and width of the image before"):
        predictor.set_torch_image(resized[..., :-1, :] if predictor.stretches else resized, (10, 500))


def test_the_fisher_sensitivity_is_that_of_quantized_units(made: Made, tmp_path: Path) -> None:
    if made.family.name not in NEWER:
        pytest.skip("tests/analysis has these")
    if made.family.name == "sam_hq_light":
        pytest.skip("its encoder is MobileSAM's, its decoder SAM-HQ's")
    found = analyze(
        made.sam,
        made.samples[:1],
        ranges=calibrate(made.sam, made.samples[:1], observer="omse", progress=Silent()),
        weights=WeightGrids(made.sam, observer="omse"),
        options=MeasurementOptions(importance=False, sensitivity_bits=(8,), fisher=("spatial",), draws=16),
        cache=Cache(tmp_path),
        progress=Silent(),
    )
    measured, estimated = found.sensitivity["spatial"].ravel(), found.fisher["spatial"][:, :, 6].ravel()
    assert spearmanr(measured, estimated).statistic > 0.9
    assert 0.4 < estimated.sum() / measured.sum() < 2.5


@pytest.mark.parametrize(
    "recipe",
    [
        "brecq",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ahcptq", "saq-sam", "ptq4sam-l", "compensated")),
    ],
)
def test_recipes_run(made: Made, recipe: str) -> None:
    if made.family.name not in NEWER:
        pytest.skip("tests/quantization has these")
    if made.family.name == "sam_hq_light" and recipe not in {"compensated", "saq-sam"}:
        pytest.skip("its encoder is MobileSAM's, its decoder SAM-HQ's")
    if (recipe, made.family.name) == ("saq-sam", "sam3_tracker"):
        pytest.skip("does not fit, see below")
    plan = BitPlan.uniform(made.sam.costs().units, UnitBits(4, 4))
    chosen = replace(RECIPES[recipe], least_images=1)
    found = quantize(
        made.sam,
        plan,
        made.samples[:2],
        recipe=chosen,
        # Recipes with the same observer calibrate once.
        cache=Cache(made.directory.with_name("cache")),
        progress=Silent(),
        options=ReconstructionOptions(iterations=2),
    )
    assert all(log.after <= log.before for log in found.logs)
    assert torch.isfinite(logits_of(found.sam, made.samples[0])).all()


@pytest.mark.parametrize("made", ["sam3_tracker"], indirect=True)
def test_a_recipe_that_does_not_fit_names_the_block(made: Made, tmp_path: Path) -> None:
    """Code of the model's own runs before the neck, so nothing leads from a layer to the image's tokens."""
    plan = BitPlan.uniform(made.sam.costs().units, UnitBits(4, 4))
    chosen = replace(RECIPES["saq-sam"], least_images=1)
    with pytest.raises(ModelError, match=r"Behind vision_encoder.backbone.layers.0-1 blocks do not follow"):
        quantize(made.sam, plan, made.samples[:1], recipe=chosen, cache=Cache(tmp_path), progress=Silent())


def change(made: Made, folder: Path, **values: object) -> Path:
    """A copy of the float directory with other entries in its `config.json`."""
    for path in made.float_directory.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_foreign_tensor_is_named(made: Made, tmp_path: Path) -> None:
    folder = change(made, tmp_path)
    state = load_file(folder / "model.safetensors")
    # A name that transformers itself would keep quiet about.
    save_file(state | {"memory_attention.a.weight": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"foreign tensors \(memory_attention.a.weight\)"):
        load_sam(folder)
    first = next(iter(state))
    save_file({name: tensor for name, tensor in state.items() if name != first}, folder / "model.safetensors")
    # Where transformers saves a part of a larger model, it writes longer names.
    with pytest.raises(ModelError, match=".".join(first.split(".")[-3:])):
        load_sam(folder)


def test_what_tensors_do_not_tell_changes_the_fingerprint(made: Made) -> None:
    other = deepcopy(made.sam)
    assert other.fingerprint == made.sam.fingerprint
    other = replace(other, model=deepcopy(made.sam.model))
    other.config.mask_decoder_config.hidden_act = "silu"
    assert other.fingerprint != made.sam.fingerprint
