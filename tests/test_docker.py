"""The Dockerfile installs what scripts/install installs: no builder is at hand where the tests run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in read("Dockerfile").splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_versions_and_extras_are_those_of_the_script() -> None:
    script, docker = read("scripts/install"), read("Dockerfile")
    (version,) = re.findall(r"TORCH_VERSION:-([\d.]+)", script)
    assert f"ARG TORCH_VERSION={version}" in docker
    (extras,) = re.findall(r"install '\.(\[[\w,]+\])'", script)
    assert f"'/source{extras}'" in docker
    # PyTorch comes first in both, so that no later step replaces it.
    for text in (script, docker):
        assert text.index("torch==") < text.index(extras)
    assert "scripts/get-mobile-sam" in script
    assert "scripts/get-mobile-sam" in docker


def test_the_image_runs_as_a_user() -> None:
    found = instructions()
    names = [name for name, _ in found]
    assert found[-2] == ("ENTRYPOINT", '["mixqsam"]')
    last = len(names) - 1 - names[::-1].index("USER")
    assert found[last][1] == "mixqsam"
    # What comes after is done without rights on the machine.
    assert names.index("ENTRYPOINT") > last
    assert {name for name, _ in found} <= {
        *("FROM", "ENV", "RUN", "ARG", "COPY", "USER", "WORKDIR", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD")
    }


def test_what_is_copied_is_there() -> None:
    ignored = {line.strip("/") for line in read(".dockerignore").splitlines()}
    for needed in ("src", "README.md", "LICENSE", "pyproject.toml", "scripts/readme_hook.py", "scripts/get-mobile-sam"):
        assert (ROOT / needed).exists()
        assert needed.partition("/")[0] not in ignored
