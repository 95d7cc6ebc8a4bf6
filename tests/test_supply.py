"""What is installed: pinned, allowed by the project, and not more than it says."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, Version]:
    lines = (ROOT / "requirements/lock.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    return {normal(name): Version(version) for name, version in pairs}


def wanted() -> list[Requirement]:
    project = PROJECT["project"]
    groups = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *PROJECT["dependency-groups"].values(),
    ]
    return [Requirement(one) for group in groups for one in group]


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_every_dependency_is_pinned_to_a_version_that_is_allowed(requirement: Requirement) -> None:
    version = pinned()[normal(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


def test_the_pytorch_of_the_scripts_is_the_pinned_one() -> None:
    for name in ("install", "lock", "test-wheel"):
        text = (ROOT / "scripts" / name).read_text(encoding="utf-8")
        assert f"TORCH_VERSION:-{pinned()['torch']}" in text


def test_there_is_no_torchvision_and_no_cuda() -> None:
    assert not [name for name in pinned() if name == "torchvision" or name.startswith("nvidia")]


def test_scripts_can_be_started() -> None:
    for path in (ROOT / "scripts").iterdir():
        if path.suffix != ".py":
            assert os.access(path, os.X_OK), path


def test_what_runs_code_from_files_is_not_used() -> None:
    """No pickle, no eval, no unsafe loading anywhere in the product."""
    forbidden = re.compile(r"import pickle|[^.\w](eval|exec)\(|weights_only=False|trust_remote_code=True|shell=True")
    for path in (ROOT / "src").rglob("*.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path
