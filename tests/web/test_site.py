"""The documentation links to the page that `scripts/site` adds, and only where it is."""

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.conftest import load_script

ROOT = Path(__file__).parents[2]
TRY = "<!-- try it -->"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return load_script(ROOT / "scripts/docs_hooks.py")


@pytest.mark.parametrize(("file", "address", "link"), [("index.md", "", "try/"), ("web.md", "web/", "../try/")])
def test_pages_link_to_the_model_where_the_site_has_it(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch, file: str, address: str, link: str
) -> None:
    page, text = SimpleNamespace(url=address), (ROOT / "docs" / file).read_text(encoding="utf-8")
    assert TRY in text
    assert "try/" not in hooks.on_page_markdown(text, page=page)
    monkeypatch.setenv("MIXQSAM_SITE_HAS_TRY", "1")
    assert f'href="{link}"' in hooks.on_page_markdown(text, page=page)
