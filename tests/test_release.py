"""What a release is made of: one version, its licence, a readme for package indexes, and the scripts that test it."""

import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mixqsam
from tests.conftest import load_script

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/mixqsam/__init__.py"
    assert "version" in PROJECT["project"]["dynamic"]
    assert f"\nversion: {mixqsam.__version__}\n" in read("CITATION.cff")
    newest = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == mixqsam.__version__


def test_the_changelog_has_the_usual_parts() -> None:
    parts = re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert parts
    assert set(parts) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_licence_is_the_one_that_is_named() -> None:
    text = read("LICENSE")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "license: Apache-2.0" in read("CITATION.cff")


@pytest.fixture
def hook() -> ModuleType:
    pytest.importorskip("hatchling")
    return load_script(ROOT / "scripts/readme_hook.py")


END = "The [paper](https://arxiv.org/abs/1), [below](#x).\n"
README = f"A [page](docs/a.md#b).\n\n![A picture](docs/images/a.png)\n\n{END}"


def test_without_a_repository_the_readme_has_no_link_that_leads_nowhere(hook: ModuleType) -> None:
    changed = hook.rewrite_links(README, repository=None, tag="v1")
    assert changed == f"A page.\n\n{END}"


def test_with_a_repository_links_and_pictures_are_absolute(hook: ModuleType) -> None:
    changed = hook.rewrite_links(README, repository="https://example.org/m", tag="v1")
    assert "[page](https://example.org/m/blob/v1/docs/a.md#b)" in changed
    assert "![A picture](https://example.org/m/raw/v1/docs/images/a.png)\n\nThe" in changed
    assert "[paper](https://arxiv.org/abs/1), [below](#x)" in changed


def test_no_link_of_the_readme_is_relative_on_an_index(hook: ModuleType) -> None:
    changed = hook.rewrite_links(read("README.md"), repository=None, tag="v1")
    # Nothing is left of `[text](docs/…)`, and code is unchanged.
    assert not re.findall(r"\]\((?!https?:|#)", changed)
    assert re.findall(r"^```.*?^```", changed, re.MULTILINE | re.DOTALL) == re.findall(
        r"^```.*?^```", read("README.md"), re.MULTILINE | re.DOTALL
    )


def test_ci_runs_what_the_documentation_says() -> None:
    script = read(".ci/run")
    for command in (
        "scripts/install",
        "scripts/check",
        "scripts/test ",
        "scripts/test-wheel",
        "scripts/test-matrix lowest --transformers-only",
        "scripts/test-matrix newest --transformers-only",
        "pip check",
    ):
        assert command in script


def test_hooks_of_commits_are_the_parts_of_the_check() -> None:
    hooks = read(".pre-commit-config.yaml")
    commands = [line for line in read("scripts/check").splitlines() if re.match(r"(ruff|mypy|lint-imports)", line)]
    assert len(commands) == 4
    for command in commands:
        assert command.removesuffix(" .") in hooks.replace(".venv/bin/", "")


def tables(text: str) -> list[int]:
    """The number of rows of each table."""
    return [len(found.splitlines()) - 2 for found in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def test_the_readme_is_short() -> None:
    text = re.sub(r"^```.*?^```", "", read("README.md"), flags=re.MULTILINE | re.DOTALL)
    assert max(tables(text)) <= 8
    prose = re.sub(r"^(\||#|!).*$", "", text, flags=re.MULTILINE)
    for sentence in re.split(r"(?<=[.:?!])\s+|\n\n|^- ", prose, flags=re.MULTILINE):
        assert len(sentence.split()) <= 20, sentence


def test_the_experiments_show_few_tables() -> None:
    rows = tables(read("docs/experiments.md"))
    assert len(rows) <= 4
    assert max(rows) <= 8
