"""Smaller frames: a float model at another size, and all that is made of it, for every family."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import InputError, ModelError
from mixqsam.families import FAMILIES
from mixqsam.families.compatibility import random_model
from mixqsam.families.family import Family
from mixqsam.families.resizing import resize_model
from mixqsam.families.sam import SAM
from mixqsam.files import Cache
from mixqsam.pipeline.evaluate import float_source
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import Session
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.families.test_every_family import outputs
from tests.oracles import logits_of, nearest

pytestmark = pytest.mark.versions
# Family → its sample's side, and a smaller one.
SIDES = {
    **dict.fromkeys(("sam", "mobile_sam", "sam_hq", "sam_hq_light"), (48, 32)),
    "sam2": (64, 32),
    "sam3_tracker": (56, 28),
}


@dataclass(frozen=True)
class Made:
    """A random model of a family, and its smaller form."""

    family: Family
    directory: Path
    side: int
    small: Sam


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    with torch.no_grad():
        model = random_model(family)
    model.tie_weights()
    model.save_pretrained(folder)
    own, side = SIDES[family.name]
    assert family.framing.image_size(model.config) == own
    return Made(family, folder, side, load_sam(f"{folder}@{side}"))


def smaller_config(family: Family, side: int) -> Any:
    """The sample's configuration, every size in it written by hand."""
    assert family.sample is not None
    config = family.sample()
    vision, prompts = config.vision_config, config.prompt_encoder_config
    prompts.image_size = side
    if family.name == "sam2":
        vision.backbone_config.image_size = [32, 32]
        vision.backbone_feature_sizes = [[8, 8], [4, 4], [2, 2]]
    elif family.name == "sam3_tracker":
        vision.backbone_config.image_size = 28
        vision.backbone_feature_sizes = [[8, 8], [4, 4], [2, 2]]
    else:
        vision.image_size = side
        prompts.image_embedding_size = side // 16
    config._attn_implementation = "eager"
    return config


def averaged(positions: torch.Tensor) -> torch.Tensor:
    """Positions of 3 × 3 places for 2 × 2: bilinear interpolation takes a quarter of each middle."""
    weights = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.25, 0.75]])
    return torch.einsum("yh,xw,nhwc->nyxc", weights, weights, positions)


def test_it_is_what_the_familys_code_computes_at_that_size(made: Made) -> None:
    """Relative positions keep their size here: transformers' own attention interpolates them."""
    state = made.family.model.from_pretrained(made.directory).state_dict()
    model = made.family.model(smaller_config(made.family, made.side)).eval()
    for name, tensor in state.items():
        value = averaged(tensor) if name == "vision_encoder.pos_embed" else tensor
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(getattr(module, last), nn.Parameter):
            setattr(module, last, nn.Parameter(value))
        else:
            module._buffers[last] = value
    model.tie_weights()
    made.family.mend(model)
    for found, expected in zip(outputs(made.small.model, made.side), outputs(model, made.side), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_is_an_ordinary_checkpoint_of_that_size(made: Made, tmp_path: Path) -> None:
    plain = made.family.model.from_pretrained(made.directory, attn_implementation="eager").eval()
    small = resize_model(plain, made.side, source="it")
    small.save_pretrained(tmp_path)
    again = load_sam(tmp_path)
    assert again.image_size == made.small.image_size == made.side
    assert again.pixel_settings == made.small.pixel_settings
    assert again.fingerprint == made.small.fingerprint
    assert made.small.pixel_settings.longest == made.side


def test_its_own_size_changes_nothing(made: Made) -> None:
    own = SIDES[made.family.name][0]
    same, plain = load_sam(f"{made.directory}@{own}"), load_sam(made.directory)
    assert same.fingerprint == plain.fingerprint != made.small.fingerprint
    assert len(made.small.costs().units) == len(plain.costs().units)
    assert made.small.costs().bitops(made.small.costs().float_plan) < plain.costs().bitops(plain.costs().float_plan)


def quantized(made: Made, samples: list[Sample], folder: Path) -> Sam:
    """At 8 bits, and what was saved of it in a folder."""
    plan = BitPlan.uniform(made.small.costs().units, UnitBits(8, 8))
    model = nearest(made.small, plan, calibrate(made.small, samples, observer="minmax", progress=Silent()))
    folder.mkdir()
    save_model(model, Manifest.of(model, plan, recipe="minmax", prompts_per_image=1), folder)
    return model


def test_a_quantized_directory_knows_its_size_and_its_float_model(
    made: Made, samples: list[Sample], tmp_path: Path
) -> None:
    model = quantized(made, samples, tmp_path / "out")
    again, _ = load_model(tmp_path / "out")
    assert again.image_size == made.side
    assert again.pixel_settings == made.small.pixel_settings
    for sample in samples:
        assert torch.equal(logits_of(again, sample), logits_of(model, sample))
    assert load_sam(float_source(tmp_path / "out")).fingerprint == made.small.fingerprint
    transformers = made.family.model.from_pretrained(tmp_path / "out")
    for found, expected in zip(outputs(transformers, made.side), outputs(again.model, made.side), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "made",
    ["sam", "mobile_sam", pytest.param("sam2", marks=pytest.mark.slow)],
    indirect=True,
)
def test_exported_masks_are_those_of_the_directory(made: Made, samples: list[Sample], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    from mixqsam.deployed.predictor import ExportedPredictor

    quantized(made, samples, tmp_path / "out")
    run_export(tmp_path / "out", tmp_path / "onnx", kind="onnx", session=Session(Cache(tmp_path / "cache"), Silent()))
    theirs = SamPredictor(load_model(tmp_path / "out", integer=True)[0])
    mine = ExportedPredictor(tmp_path / "onnx", backend="onnx")
    assert mine.frame_side == theirs.frame_side == made.side
    both = either = 0
    for sample in samples:
        masks = []
        for predictor in (mine, theirs):
            predictor.set_image(sample.open())
            masks.append(predictor.segment(sample.prompts, multimask=True).masks)
        both, either = both + int((masks[0] & masks[1]).sum()), either + int((masks[0] | masks[1]).sum())
    assert either > 0
    assert both / either >= 0.98


@pytest.mark.parametrize(
    ("side", "message"),
    [(33, "not a multiple of 16, which this model needs; the nearest are 32 and 48"), (7, "the nearest are 16")],
)
def test_a_side_that_does_not_fit_is_refused_with_the_nearest(model_directory: Path, side: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_sam(f"{model_directory}@{side}")


def test_a_larger_side_is_refused(model_directory: Path) -> None:
    with pytest.raises(InputError, match="image size 96 is larger than the checkpoint's, 80 pixels"):
        load_sam(f"{model_directory}@96")


def test_a_family_that_keeps_its_size_names_those_that_do_not(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "sam", replace(SAM, resizing=None))
    with pytest.raises(ModelError, match=r"a 'sam' model, which keeps its image size; another one is there for 'mobil"):
        load_sam(f"{model_directory}@32")


def test_an_image_processor_with_a_size_of_its_own_is_refused(model_directory: Path, tmp_path: Path) -> None:
    for path in model_directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values | {"size": {"longest_edge": 70}}))
    with pytest.raises(ModelError, match=r"scales images to \{'longest_edge': 70\}.*use the whole frame"):
        load_sam(f"{tmp_path}@32")


def test_the_image_processors_statistics_stay(model_directory: Path, tmp_path: Path) -> None:
    for path in model_directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    changed = values | {"image_mean": [0.1, 0.2, 0.3], "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(changed))
    found = load_sam(f"{tmp_path}@32").pixel_settings
    assert (found.longest, found.resample) == (32, 3)
    assert np.allclose(found.mean, (0.1, 0.2, 0.3))
