import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import is_quantized, load_model, save_model
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError, HonestyError, MixqsamError
from mixqsam.files import Cache
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.sam.load import Sam, load_sam
from tests.oracles import logits_of, mixture, nearest


@pytest.fixture(scope="module")
def ranges(sam: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(sam, samples, observer="omse", progress=Silent())


def save(sam: Sam, plan: BitPlan, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return save_model(sam, Manifest.of(sam, plan, recipe="omse", prompts_per_image=1), folder)


@pytest.fixture
def saved(sam: Sam, ranges: Ranges, tmp_path: Path) -> Path:
    plan = mixture(sam, seed=1)
    save(nearest(sam, plan, ranges), plan, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("seed", range(4), ids=lambda seed: f"mixture-{seed}")
def test_any_mixture_of_bits_loads_bit_identically(
    sam: Sam, samples: list[Sample], ranges: Ranges, tmp_path: Path, seed: int
) -> None:
    plan = mixture(sam, seed=seed)
    model = nearest(sam, plan, ranges)
    save(model, plan, tmp_path)
    again, manifest = load_model(tmp_path)
    assert is_quantized(tmp_path)
    assert manifest.plan(sam.costs()).bits == plan.bits
    for sample in samples:
        assert torch.equal(logits_of(again, sample), logits_of(model, sample))
    # What was loaded can be saved again, to the same file.
    save(again, plan, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("bits", [*range(2, 9), None], ids=lambda b: f"W{b}" if b else "mixed")
def test_the_file_is_as_small_as_its_bits_claim(bits: int | None, tmp_path: Path) -> None:
    sam = load_sam("sam-tiny")
    plan = BitPlan.uniform(sam.costs().units, UnitBits(bits, bits)) if bits else mixture(sam, seed=3, floats=False)
    values = {
        unit.name: {operand: dict.fromkeys(range(2, 9), (-1.0, 1.0)) for operand in unit.activations}
        for unit in sam.costs().units
    }
    model = nearest(sam, plan, Ranges("minmax", values))
    file_bytes = save(model, plan, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size == file_bytes
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little") + 8
    theory = sam.costs().size(plan)
    assert theory <= file_bytes - header <= 1.001 * theory + 200
    assert header < 100_000
    assert file_bytes <= 1.02 * theory + header


def test_quantizing_does_not_touch_the_float_model(sam: Sam, samples: list[Sample], ranges: Ranges) -> None:
    before, fingerprint = logits_of(sam, samples[0]), load_sam(sam.source).fingerprint
    nearest(sam, mixture(sam, seed=2), ranges)
    assert torch.equal(logits_of(sam, samples[0]), before)
    assert sam.fingerprint == fingerprint


def test_a_float_plan_changes_nothing(sam: Sam, samples: list[Sample], ranges: Ranges) -> None:
    model = nearest(sam, sam.costs().float_plan, ranges)
    assert torch.equal(logits_of(model, samples[0]), logits_of(sam, samples[0]))


def test_two_runs_give_identical_models(sam: Sam, samples: list[Sample], ranges: Ranges, tmp_path: Path) -> None:
    plan = mixture(sam, seed=2)
    first, second = nearest(sam, plan, ranges), nearest(load_sam(sam.source), plan, ranges)
    files = []
    for name, model in (("first", first), ("second", second)):
        save(model, plan, tmp_path / name)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert torch.equal(logits_of(first, samples[0]), logits_of(second, samples[0]))


def test_a_plan_for_another_model_is_refused(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    plan = BitPlan({**mixture(sam, seed=2).bits, "elsewhere.lin": UnitBits(4, 4)})
    with pytest.raises(MixqsamError, match=r"elsewhere.lin is in one of them only"):
        quantize(sam, plan, samples, recipe=RECIPES["omse"], cache=Cache(tmp_path), progress=Silent())


def test_a_dishonest_model_is_not_saved(sam: Sam, ranges: Ranges, tmp_path: Path) -> None:
    plan = mixture(sam, seed=2, floats=False)
    model = nearest(sam, plan, ranges)
    model.model.vision_encoder.neck.conv1.weight += 1e-3
    with pytest.raises(HonestyError, match=r"neck.conv1"):
        save(model, plan, tmp_path)
    assert not list(tmp_path.iterdir())


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] |= changes
    path.write_text(json.dumps(values))


def flip_a_byte(folder: Path, name: str) -> None:
    """Change one byte of a tensor and nothing else."""
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start = json.loads(content[8 : 8 + length])[name]["data_offsets"][0]
    content[8 + length + start] ^= 1
    path.write_bytes(content)


def change_tensors(folder: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, folder / "model.safetensors")


def test_damage_is_named(saved: Path) -> None:
    content = (saved / "model.safetensors").read_bytes()
    weight = "vision_encoder.layers.0.mlp.lin1.weight"
    length = load_file(saved / "model.safetensors")[weight].numel()
    for name, value, message in (
        (weight, torch.zeros(length - 1, dtype=torch.uint8), f"{weight} is"),
        (weight, torch.zeros(length), f"{weight} is"),
        (f"{weight}_scale", -torch.ones(32), "scale that is not positive"),
        (f"{weight}_scale", torch.full((32,), float("nan")), "holds NaN"),
        (f"{weight}_zero", torch.full((32,), 255, dtype=torch.uint8), "off its grid"),
        ("vision_encoder.pos_embed", None, "pos_embed is missing"),
        ("stowaway", torch.zeros(1), "does not have, e.g. stowaway"),
    ):
        change_tensors(saved, name, value)
        with pytest.raises(ArtifactError, match=message):
            load_model(saved)
        (saved / "model.safetensors").write_bytes(content)
    for cut in (0, 4, 100, len(content) // 2, len(content) - 1):
        (saved / "model.safetensors").write_bytes(content[:cut])
        with pytest.raises(ArtifactError, match=r"model.safetensors is cut or damaged"):
            load_model(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        load_model(saved)


@pytest.mark.parametrize(
    "name",
    [
        "vision_encoder.layers.0.mlp.lin1.weight",
        "vision_encoder.layers.0.mlp.lin1.bias",
        "vision_encoder.pos_embed",
        "mask_decoder.iou_token.weight",
    ],
)
def test_one_changed_byte_is_found_and_its_tensor_named(saved: Path, name: str) -> None:
    flip_a_byte(saved, name)
    with pytest.raises(ArtifactError, match=f"{name} was altered; its checksum"):
        load_model(saved)


def test_checksums_are_not_optional(saved: Path) -> None:
    save_file(load_file(saved / "model.safetensors"), saved / "model.safetensors")
    with pytest.raises(ArtifactError, match="lacks its checksums"):
        load_model(saved)


def test_a_directory_of_the_first_format_is_read(samples: list[Sample], saved: Path) -> None:
    """It had everything of the rest in float32, and no checksums."""
    model, manifest = load_model(saved)
    tensors = load_file(saved / "model.safetensors")
    for name in manifest.eight_bit:
        del tensors[f"{name}_scale"], tensors[f"{name}_zero"]
        tensors[name] = model.model.get_parameter(name)
    save_file(
        {n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()}, saved / "model.safetensors"
    )
    change_config(saved, format_version=1, eight_bit=[])
    again, _ = load_model(saved)
    assert torch.equal(logits_of(again, samples[0]), logits_of(model, samples[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eight_bit": ["nowhere.weight"]}, r"quantizes nowhere.weight"),
        ({"format_version": 4}, "format version 4, this mixqsam reads up to 3"),
        ({"quant_method": "gptq"}, "no quantization_config of mixqsam"),
        ({"units": {"nowhere.lin": {"weight": 4, "activation": 4}}}, r"quantizes nowhere.lin"),
        ({"units": {"a": {"weight": 1, "activation": 4}}}, r"units.a.weight"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_foreign_manifest_is_refused(saved: Path, changes: dict[str, object], message: str) -> None:
    change_config(saved, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_model(saved)


def test_a_configuration_of_something_else(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config.json cannot be read"):
        load_model(saved)
    assert not is_quantized(saved)
    shutil.rmtree(saved)
    assert not is_quantized(saved)
