"""Hook of hatchling: the README as a package index shows it, where links into the repository lead nowhere.

With a `Repository` in `[project.urls]`, pictures and links become absolute, at the tag of the version. Without one,
pictures are left out, and links to files become plain text.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)\n*")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")
_VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)


class ReadmeHook(MetadataHookInterface):
    """Fills the field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the changed README into the metadata."""
        root = Path(self.root)
        found = _VERSION.search((root / "src/mixqsam/__init__.py").read_text(encoding="utf-8"))
        if found is None:
            raise ValueError("src/mixqsam/__init__.py does not hold __version__")
        repository = metadata.get("urls", {}).get("Repository")
        text = (root / "README.md").read_text(encoding="utf-8")
        readme = rewrite_links(text, repository=repository, tag=f"v{found[1]}")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def rewrite_links(text: str, *, repository: str | None, tag: str) -> str:
    """The README with absolute links, or without pictures and links to files if there is no repository."""
    if repository is None:
        return _LINK.sub(r"\1", _PICTURE.sub("", text))
    text = _PICTURE.sub(rf"![\1]({repository}/raw/{tag}/\2)\n\n", text)
    return _LINK.sub(rf"[\1]({repository}/blob/{tag}/\2)", text)
