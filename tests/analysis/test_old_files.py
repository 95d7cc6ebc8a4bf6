"""Analyses of versions 1 and 2, which knew neither role nor block."""

import json
from typing import Any

import numpy as np
import pytest

from mixqsam.errors import ArtifactError
from mixqsam.measurements import Analysis
from mixqsam.plan import Unit
from mixqsam.sam.load import Sam


def analysis(sam: Sam) -> Analysis:
    costs = sam.costs()
    count = len(costs.units)
    return Analysis("x", 3, costs, {"spatial": np.full(count, 1 / count)}, {}, {}, ())


def as_old(value: dict[str, Any], version: int) -> dict[str, Any]:
    """What those versions wrote."""
    old: dict[str, Any] = json.loads(json.dumps(value)) | {"version": version}
    for unit in old["units"]:
        for key in ("role", "block", "attention"):
            del unit[key]
    if version == 1:
        del old["compact_bytes"]
    return old


@pytest.mark.parametrize("version", [1, 2])
def test_old_analyses_get_the_roles_that_new_ones_have(sam: Sam, version: int) -> None:
    new = analysis(sam)
    again = Analysis.from_json(as_old(new.to_json(), version), source="a.json")
    assert again.units == new.units
    assert again.to_json()["version"] == 3
    assert Analysis.from_json(again.to_json(), source="a.json").units == new.units


@pytest.mark.parametrize(
    ("change", "version"),
    [
        ({"role": "mlp"}, 3),
        ({"block": 3}, 3),
        ({"attention": 3}, 3),
        ({"role": None}, 3),
        ({"name": "vision_encoder.layers.0.conv9"}, 2),
        ({"name": 7}, 2),
    ],
)
def test_a_unit_of_no_known_role_is_refused(sam: Sam, change: dict[str, Any], version: int) -> None:
    value = analysis(sam).to_json()
    value = as_old(value, version) if version < 3 else json.loads(json.dumps(value))
    value["units"][0] |= change
    with pytest.raises(ArtifactError, match=r"a.json is malformed"):
        Analysis.from_json(value, source="a.json")


def test_new_files_say_everything_of_a_unit(sam: Sam) -> None:
    written = analysis(sam).to_json()["units"][0]
    assert Unit(**written) == sam.costs().units[0]
    del written["role"]
    value = analysis(sam).to_json()
    value["units"][0] = written
    with pytest.raises(ArtifactError, match="malformed"):
        Analysis.from_json(value, source="x")
