"""Where the runtime's package comes from, and that only the published one is taken."""

import shutil
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from mixqsam.errors import InputError
from mixqsam.web import package
from mixqsam.web.page import RUNTIMES
from tests.web.conftest import pack, trust


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; without npm and without a network."""
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "cache/released"


def refuse(*_: Any, **__: Any) -> None:
    raise URLError("no network here")


def install_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is called as npm is: `pack NAME --silent --pack-destination FOLDER`."""
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm) if name == "npm" else None)


def test_a_given_file_is_taken(empty_package: Path) -> None:
    assert package.find_package(empty_package) == empty_package


def test_another_file_is_refused(tmp_path: Path, cache: Path) -> None:
    other = pack(tmp_path / "other.tgz", {"ort.wasm.min.mjs": b"alert(1)"})
    with pytest.raises(InputError, match=r"other\.tgz is not onnxruntime-web 1\.30\.0 as published.*npm pack"):
        package.find_package(other)
    with pytest.raises(InputError, match=r"none\.tgz cannot be read.*No such file"):
        package.find_package(tmp_path / "none.tgz")
    cache.mkdir(parents=True)
    other.rename(cache / package.FILE)
    with pytest.raises(InputError, match=r"its SHA-512 differs\. Remove it"):
        package.find_package()


def test_without_npm_and_network_the_error_says_what_to_do(cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        package.find_package()
    message = str(caught.value)
    for words in (
        "not in the cache",
        "npm is not installed",
        "no network here",
        f"npm pack onnxruntime-web@{package.VERSION}",
        "--runtime-package",
    ):
        assert words in message
    assert list(cache.iterdir()) == []


def test_npm_fills_the_cache_once(
    empty_package: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path, f'test "$1" = pack && cp {empty_package} "$5/{package.FILE}"', monkeypatch)
    assert package.find_package() == cache / package.FILE
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert package.find_package().read_bytes() == empty_package.read_bytes()
    assert [path.name for path in cache.iterdir()] == [package.FILE]


def test_the_registry_is_asked_where_npm_fails(
    empty_package: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path, "echo 'E404 nothing here' >&2; exit 1", monkeypatch)
    with pytest.raises(InputError, match="npm failed: E404 nothing here"):
        package.find_package()
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: empty_package.open("rb"))
    assert package.find_package() == cache / package.FILE


def test_a_download_with_another_hash_does_not_reach_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = pack(tmp_path / "other.tgz", {"ort.wasm.min.mjs": b"alert(1)"})
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: other.open("rb"))
    with pytest.raises(InputError, match="its SHA-512 differs"):
        package.find_package()
    assert list(cache.iterdir()) == []


def test_a_package_without_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = pack(tmp_path / "short.tgz", {"ort.wasm.min.mjs": b"x"})
    trust(short, monkeypatch)
    assert package.read_members(short, ["ort.wasm.min.mjs"]) == {"ort.wasm.min.mjs": b"x"}
    with pytest.raises(InputError, match="short.tgz cannot be read as onnxruntime-web"):
        package.read_members(short, ["ort.webgpu.min.mjs"])


def test_the_published_package_has_the_files(runtime_package: Path) -> None:
    names = [name for parts in RUNTIMES.values() for name in parts]
    found = package.read_members(runtime_package, names)
    assert all(found[name][:4] == b"\0asm" for name in names if name.endswith(".wasm"))
    assert all(b"Licensed under the MIT License" in found[one][:300] for one, *_ in RUNTIMES.values())
