"""The model card of a quantized directory, from its own records."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixqsam.families import FAMILIES
from mixqsam.measurements import Analysis
from mixqsam.options.frames import split_frame
from mixqsam.reporting.card import CardContent, write_card
from mixqsam.reporting.record import Run


def make_card(analysis: Analysis, allocation: Mapping[str, Any], run: Run) -> str:
    """Make the card of a model; the record of its run has the licence.

    Args:
        analysis: units of the model, and the float model's name.
        allocation: allocation as JSON.
        run: record of the run.
    """
    licence = run.options.get("license")
    return write_card(
        CardContent(
            analysis=analysis,
            allocation=allocation,
            run=run,
            base_model=find_hub_id(analysis.model),
            licence=licence if isinstance(licence, str) else None,
        )
    )


def find_hub_id(source: str) -> str | None:
    """Find the hub id of a float model as its user named it; None for a local or the embedded model."""
    released = {name: place for family in FAMILIES.values() for name, place in family.released.items()}
    source, _ = split_frame(source)
    if Path(source).expanduser().exists():
        return None
    if source in released:
        return released[source]
    return source if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else None
