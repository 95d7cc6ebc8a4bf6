"""The page of the method, and the comments that refer to it."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/method.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^##+ (.+)$", PAGE, flags=re.MULTILINE)
PATHS = sorted(set(re.findall(r"`(mixqsam(?:\.\w+)+)`", PAGE)))
REFERENCE = re.compile(r"docs/method\.md, (“[^”]+”(?:(?:,| and|, and)\s+“[^”]+”)*)")
SOURCES = sorted(path for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py"))


def resolve(path: str) -> object:
    """What a dotted path names: a module, or an attribute of one."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        try:
            value: object = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for attribute in parts[count:]:
            value = getattr(value, attribute)
        return value
    raise ModuleNotFoundError(path)


def references(text: str) -> list[str]:
    """Headings that a text refers to; a reference may be broken over two lines of a comment."""
    joined = re.sub(r"\s*\n\s*#?\s*", " ", text)
    return [heading for group in REFERENCE.findall(joined) for heading in re.findall(r"“([^”]+)”", group)]


@pytest.mark.parametrize("path", PATHS)
def test_what_the_page_names_exists(path: str) -> None:
    if ".oriented" in path:
        pytest.importorskip("shapely")
    assert resolve(path) is not None


def test_each_section_names_what_computes_it() -> None:
    sections = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == len(HEADINGS) == len(set(HEADINGS)) > 15
    assert [one.partition("\n")[0] for one in sections if "`mixqsam." not in one] == []


def test_comments_refer_to_headings_that_exist() -> None:
    found = {path: references(path.read_text(encoding="utf-8")) for path in SOURCES}
    named = {heading for headings in found.values() for heading in headings}
    assert len(named) > 10
    assert named <= set(HEADINGS)


def test_every_mention_of_the_page_is_a_reference() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        mentions = len(re.findall(r"method\.md", text))
        assert mentions == len(REFERENCE.findall(re.sub(r"\s*\n\s*#?\s*", " ", text))), path
        assert not re.search(r"methods? §", text), path


@pytest.mark.parametrize(
    "path", ["mixqsam.nowhere", "mixqsam.numeric.affine.Nothing", "mixqsam.numeric.affine.AffineGrid.no"]
)
def test_a_path_that_does_not_exist_is_noticed(path: str) -> None:
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve(path)


def test_references_are_found_across_lines() -> None:
    assert references("# see (docs/method.md,\n    # “A b” and “C”). x “D”") == ["A b", "C"]
