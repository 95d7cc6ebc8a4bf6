"""Unknown versions of transformers are compared with the engine; those that differ are refused."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import nn
from transformers.models.sam.modeling_sam import SamAttention, SamMLPBlock, SamVisionAttention

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import DependencyError
from mixqsam.families import FAMILIES, compatibility
from mixqsam.families.compatibility import KNOWN_VERSIONS, check_transformers
from mixqsam.families.family import Family
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, load_sam
from tests.oracles import mixture, nearest

pytestmark = pytest.mark.versions
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


@pytest.fixture
def unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed transformers says that it is a version that nobody tried."""
    compatibility._compare_once.cache_clear()
    monkeypatch.setattr(compatibility, "version", lambda package: "5.99.0")


@families
def test_the_installed_version_computes_as_the_engine(family: Family) -> None:
    assert compatibility._largest_difference(family) < 1e-5


@families
def test_the_comparison_is_of_a_small_model(family: Family) -> None:
    assert family.sample is not None
    with torch.device("meta"):
        model = family.model(family.sample())
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000


@families
def test_an_unknown_version_is_compared_once(
    family: Family, unknown_version: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def difference(of: Family) -> float:
        compared.append(of.name)
        return 0.0

    monkeypatch.setattr(compatibility, "_largest_difference", difference)
    check_transformers(family)
    check_transformers(family)
    assert compared == [family.name]


def test_a_known_version_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compatibility._compare_once.cache_clear()
    monkeypatch.setattr(compatibility, "version", lambda package: KNOWN_VERSIONS[0])
    monkeypatch.setattr(compatibility, "_largest_difference", lambda family: pytest.fail("compared"))
    check_transformers(FAMILIES["sam"])


def _scaled(forward: Any) -> Any:
    """A forward whose output is one part in a thousand larger."""

    def changed(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        output = forward(self, *arguments, **options)
        return (output[0] * 1.001, *output[1:]) if isinstance(output, tuple) else output * 1.001

    return changed


@pytest.mark.parametrize("kind", [SamVisionAttention, SamAttention, SamMLPBlock])
def test_a_changed_module_is_refused(
    kind: type[nn.Module], unknown_version: None, monkeypatch: pytest.MonkeyPatch, model_directory: Path
) -> None:
    monkeypatch.setattr(kind, "forward", _scaled(kind.forward))
    with pytest.raises(DependencyError, match=r"transformers 5\.99\.0 .*outputs differ.*transformers==") as refused:
        load_sam(model_directory)
    assert KNOWN_VERSIONS[-1] in str(refused.value)


def test_a_changed_call_is_refused(
    unknown_version: None, monkeypatch: pytest.MonkeyPatch, model_directory: Path
) -> None:
    def prepare(model: nn.Module) -> None:
        raise AttributeError("'SamAttention' object has no attribute 'scaling'")

    monkeypatch.setattr(compatibility, "random_model", lambda family: prepare(nn.Identity()))
    with pytest.raises(DependencyError, match=r"5\.99\.0.*has no attribute 'scaling'"):
        load_sam(model_directory)


def test_a_quantized_directory_is_refused_too(
    unknown_version: None, monkeypatch: pytest.MonkeyPatch, sam: Sam, samples: list[Sample], tmp_path: Path
) -> None:
    plan = mixture(sam, seed=1)
    model = nearest(sam, plan, calibrate(sam, samples, observer="omse", progress=Silent()))
    save_model(model, Manifest.of(model, plan, recipe="omse", prompts_per_image=1), tmp_path)
    monkeypatch.setattr(SamAttention, "forward", _scaled(SamAttention.forward))
    with pytest.raises(DependencyError, match="5.99.0"):
        load_model(tmp_path)


@families
def test_the_comparison_leaves_random_numbers_and_devices_alone(family: Family) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with torch.device("meta"):
        assert compatibility._largest_difference(family) < 1e-5
    assert torch.equal(torch.rand(1), expected)


def test_the_newest_known_version_is_the_pinned_one() -> None:
    lock = (Path(__file__).parents[2] / "requirements/lock.txt").read_text(encoding="utf-8")
    assert f"transformers=={KNOWN_VERSIONS[-1]}\n" in lock
    assert sorted(KNOWN_VERSIONS, key=Version) == list(KNOWN_VERSIONS)
    assert importlib.metadata.version("transformers")
