"""Spoiled files: what a reader makes of them is a result or an error of ours, nothing else.

`benchmarks/fuzzing.py` tries a hundred thousand on each reader; here are some, and those that once did harm.
"""

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.fuzzing import attempt
from benchmarks.hostile import Reader, make_readers
from benchmarks.spoil import spoiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixqsam.data.images import open_image
from mixqsam.errors import MixqsamError

NAMES = [
    "analysis",
    "allocation",
    "run record",
    "packed tensors",
    "packed model",
    "packed configuration",
    "index of shards",
    "Meta's .pth",
    "COCO annotations",
    "COCO results",
    "DOTA labels",
    "DOTA boxes",
    "images",
    "label maps",
    "budgets",
]
FEW = {"packed model": 15, "packed configuration": 40, "Meta's .pth": 60}


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return make_readers(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Whoever asks for 8 GB more than there is now is found out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (8 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_all_readers_are_tried(readers: dict[str, Reader]) -> None:
    assert list(readers) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_spoiled_files_are_read_or_refused(readers: dict[str, Reader], tmp_path: Path, name: str) -> None:
    reader = readers[name]
    outcomes = []
    for index, content in spoiled(reader.seeds, text=reader.text, seed=20):
        if index >= len(reader.seeds) + FEW.get(name, 250):
            break
        outcomes.append(attempt(reader, tmp_path / reader.name, content))
    assert set(outcomes) <= {"read", "refused"}, set(outcomes)
    assert "refused" in outcomes
    # What is spoiled has to be good to begin with; the last of the images is a bomb.
    assert outcomes[: len(reader.seeds) - (name == "images")].count("refused") == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", ["analysis", "allocation", "run record", "COCO annotations", "COCO results"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values)
def test_any_json_is_read_or_refused(readers: dict[str, Reader], tmp_path: Path, name: str, value: Any) -> None:
    reader = readers[name]
    assert attempt(reader, tmp_path / reader.name, json.dumps(value).encode()) in {"read", "refused"}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(readers: dict[str, Reader], tmp_path: Path, name: str, content: bytes) -> None:
    assert attempt(readers[name], tmp_path / readers[name].name, content) in {"read", "refused"}


def changed(content: bytes, **entries: Any) -> bytes:
    return json.dumps(json.loads(content) | entries).encode()


def spoil_unit(content: bytes, **entries: Any) -> bytes:
    value = json.loads(content)
    value["units"][0] |= entries
    return json.dumps(value).encode()


def spoil_instance(content: bytes, **entries: Any) -> bytes:
    value = json.loads(content)
    value["annotations"][0] |= entries
    return json.dumps(value).encode()


def spoil_config(content: bytes, part: str, **entries: Any) -> bytes:
    value = json.loads(content)
    value[part] |= entries
    return json.dumps(value).encode()


# Every one of these ended in a traceback, in terabytes, or in a loop before.
HARMFUL: list[tuple[str, Any]] = [
    ("analysis", lambda seed: changed(seed, version=[1])),
    ("analysis", lambda seed: changed(seed, float_bytes=10**400)),
    ("analysis", lambda seed: spoil_unit(seed, kind=["linear"])),
    ("analysis", lambda seed: spoil_unit(seed, parameters="many")),
    ("analysis", lambda seed: spoil_unit(seed, multiply_adds=10**30)),
    ("analysis", lambda seed: seed.replace(b'"images": ', b'"images": 1' + b"0" * 5000 + b", ")),
    ("allocation", lambda seed: changed(seed, size=10**400)),
    ("allocation", lambda seed: changed(seed, budget={"text": [], "size": "x", "bitops": None})),
    ("allocation", lambda seed: seed.replace(b'"gap": 0', b'"gap": NaN')),
    ("packed configuration", lambda seed: spoil_config(seed, "vision_config", num_hidden_layers=10**9)),
    ("packed configuration", lambda seed: spoil_config(seed, "vision_config", image_size=10**12)),
    ("packed configuration", lambda seed: spoil_config(seed, "vision_config", hidden_size=-24)),
    ("packed configuration", lambda seed: spoil_config(seed, "vision_config", use_rel_pos=[1])),
    ("packed configuration", lambda seed: spoil_config(seed, "mask_decoder_config", hidden_size=7)),
    ("index of shards", lambda seed: changed(seed, weight_map=[1])),
    ("index of shards", lambda seed: changed(seed, weight_map={"a": [1]})),
    ("index of shards", lambda seed: changed(seed, weight_map={"a": ".."})),
    ("index of shards", lambda seed: changed(seed, weight_map={"a": ""})),
    ("COCO annotations", lambda seed: spoil_instance(seed, segmentation={"size": [10**12, 64], "counts": "x"})),
    ("COCO annotations", lambda seed: spoil_instance(seed, segmentation=[[1e308, 0, 5, 5, 9, 1e300]])),
    ("COCO annotations", lambda seed: spoil_instance(seed, segmentation=[[10**400, 0, 5, 5, 9, 9]])),
    ("COCO annotations", lambda seed: seed.replace(b"00.png", b"\\u0000.png")),
    ("COCO annotations", lambda seed: seed.replace(b"00.png", b"a" * 5000)),
    ("COCO annotations", lambda seed: seed.replace(b'"width": 64', b'"width": 1000000000000')),
]


@pytest.mark.parametrize(("name", "spoil"), HARMFUL, ids=[f"{name}-{n}" for n, (name, _) in enumerate(HARMFUL)])
def test_what_once_did_harm_is_refused(
    readers: dict[str, Reader], tmp_path: Path, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    content = spoil(readers[name].seeds[0])
    assert content != readers[name].seeds[0]
    assert attempt(readers[name], tmp_path / readers[name].name, content) == "refused"


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(
    readers: dict[str, Reader], tmp_path: Path
) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    content = len(header).to_bytes(8, "little") + header
    assert attempt(readers["packed tensors"], tmp_path / "model.safetensors", content) == "refused"
    endless = (2**62).to_bytes(8, "little")
    assert attempt(readers["packed tensors"], tmp_path / "model.safetensors", endless) == "refused"


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "PA", "1", "L", "RGBA", "I;16", "I", "F", "YCbCr", "LAB", "HSV"])
def test_pictures_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (7, 5))
    opened = 0
    for suffix in (".png", ".tif", ".jpg", ".webp"):
        path = tmp_path / f"x{suffix}"
        try:
            image.save(path)
            # Pillow below 13 does not read every TIFF that it wrote.
            with Image.open(path) as again:
                again.load()
        except (OSError, KeyError):
            continue
        opened += 1
        found = open_image(path)
        assert (found.mode, found.size) == ("RGB", (7, 5))
    assert opened > 0


def test_a_wrong_suffix_and_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "moving.gif").rename(tmp_path / "still.jpg")
    found = open_image(tmp_path / "still.jpg")
    assert found.getpixel((0, 0)) == (254, 0, 0) or found.getpixel((0, 0)) == (255, 0, 0)
    for size in ((1, 9), (9, 1), (1, 1)):
        Image.new("RGB", size).save(tmp_path / "thin.png")
        assert open_image(tmp_path / "thin.png").size == size


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "harmed").write_text, ("x",))

    from mixqsam.sam.load import load_sam

    for name in ("model.pth", "model.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Harm()))
        with pytest.raises(MixqsamError, match="more than tensors"):
            load_sam(tmp_path / name)
    assert not (tmp_path / "harmed").exists()
