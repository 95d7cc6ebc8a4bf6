"""Hooks of mkdocs: the page of the command line from its help, and links to the page that `scripts/site` adds."""

import html
import os
import subprocess
import sys
from typing import Any

_PLACEHOLDER = "<!-- the command line -->"
_TRY = "<!-- try it -->"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill the placeholders of a page."""
    markdown = markdown.replace(_TRY, _try_it("../" * page.url.count("/")))
    return markdown.replace(_PLACEHOLDER, _reference()) if _PLACEHOLDER in markdown else markdown


def _try_it(root: str) -> str:
    """A link to the page of the quantized MobileSAM; nothing in a site without it.

    It is not Markdown, because mkdocs knows the files of the documentation alone.
    """
    if "MIXQSAM_SITE_HAS_TRY" not in os.environ:
        return ""
    words = "Click on a picture: a quantized MobileSAM runs in your browser"
    return f'<a class="md-button md-button--primary" href="{root}try/">{words}</a>'


def _reference() -> str:
    """The text of `--help-all` for every command, as Markdown without a title."""
    command = [sys.executable, "-m", "typer", "mixqsam.cli.main", "utils", "docs", "--name", "mixqsam"]
    environment = {**os.environ, "MIXQSAM_HELP_ALL": "1"}
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout  # noqa: S603
    text = text.replace('<span style="font-weight: bold">', "**").replace("</span>", "**")
    return html.unescape(text.split("\n", 1)[1])
