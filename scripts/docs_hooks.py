"""Hooks of mkdocs: generate the page of the command line from its help."""

import html
import os
import subprocess
import sys
from typing import Any

_PLACEHOLDER = "<!-- the command line -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the page with the placeholder."""
    return markdown.replace(_PLACEHOLDER, _reference()) if _PLACEHOLDER in markdown else markdown


def _reference() -> str:
    """The text of `--help-all` for every command, as Markdown without a title."""
    command = [sys.executable, "-m", "typer", "mixqsam.cli.main", "utils", "docs", "--name", "mixqsam"]
    environment = {**os.environ, "MIXQSAM_HELP_ALL": "1"}
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout  # noqa: S603
    text = text.replace('<span style="font-weight: bold">', "**").replace("</span>", "**")
    return html.unescape(text.split("\n", 1)[1])
