"""Models of other budgets, made by the page's server."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.tiny import make_pictures
from starlette.testclient import TestClient

from mixqsam.errors import InputError
from mixqsam.pipeline.trial import TrialMaker, find_obstacle
from mixqsam.serving.app import make_app
from mixqsam.serving.workspace import Workspace, collect_models
from tests.serve.conftest import LIMITS, OWN, segment

LARGE = {"size": 1e9, "bitops": 1e15}


def start(client: TestClient, **budget: Any) -> Any:
    return client.post("/api/tries", json={"model": "out", **LARGE, **budget}, headers=OWN)


def finish(client: TestClient, answer: Any) -> Any:
    """Wait until a model is made, or cannot be."""
    assert answer.status_code == 200, answer.text
    trial = answer.json()
    for _ in range(600):
        if trial["model"] or trial["error"]:
            return trial
        time.sleep(0.05)
        trial = client.get(f"/api/tries/{trial['number']}").json()
    raise AssertionError(trial)


def altered(quantized: Path, folder: Path, **options: Any) -> Path:
    """The directory as if other options had made it."""
    shutil.copytree(quantized, folder)
    run = json.loads((folder / "run.json").read_text())
    run["options"] = {name: value for name, value in {**run["options"], **options}.items() if value is not None}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_a_model_of_another_budget_joins_the_others(client: TestClient) -> None:
    ranges = client.post("/api/allocate", json={"model": "out"}, headers=OWN).json()
    assert ranges["obstacle"] is None
    trial = finish(client, start(client))
    assert trial["error"] is None
    (found,) = [model for model in trial["models"] if model["name"] == trial["model"]]
    assert (trial["model"], found["base"]) == ("out, try 1", "out")
    assert found["size"] >= ranges["size"]["high"]
    own, larger = (segment(client, models=["float", name]).json()["difference"] for name in ("out", trial["model"]))
    # The most bits there are agree with the float model, where 4 bits do not.
    assert larger["iou"] > max(0.9, own["iou"])
    assert finish(client, start(client))["number"] == trial["number"]


def test_the_oldest_tried_model_is_removed(client: TestClient) -> None:
    ranges = client.post("/api/allocate", json={"model": "out"}, headers=OWN).json()
    first = finish(client, start(client, size=ranges["size"]["now"] * 1.1))["model"]
    second = finish(client, start(client, size=ranges["size"]["now"] * 1.3))
    assert first not in [model["name"] for model in second["models"]]
    gone = segment(client, models=[first])
    assert gone.status_code == 400
    assert "is not served" in gone.json()["error"]
    assert finish(client, start(client, size=ranges["size"]["now"] * 1.1))["model"] not in {first, second["model"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 1}, "smallest"),
        ({"size": "x"}, "size in bytes"),
        ({"size": float("inf")}, "1 to 1e15 bytes"),
        ({"size": 1e300, "bitops": 1e300}, "1 to 1e15 bytes"),
        ({"size": 5e-324}, "1 to 1e15 bytes"),
        ({"model": "float"}, "no stored analysis"),
        ({"model": None}, "“model” is missing"),
    ],
)
def test_a_budget_that_cannot_be_tried_gets_a_message(client: TestClient, change: dict[str, Any], words: str) -> None:
    body = json.dumps({"model": "out", **LARGE, **change})
    answer = client.post("/api/tries", content=body, headers=OWN)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    missing = client.get("/api/tries/999")
    assert (missing.status_code, "Try it" in missing.json()["error"]) == (404, True)


def test_what_is_missing_is_said_before_and_what_fails_afterwards(quantized: Path, tmp_path: Path) -> None:
    moved = altered(quantized, tmp_path / "moved", images=str(tmp_path / "gone"))
    assert "which is not on this machine" in str(find_obstacle(moved))
    python = altered(quantized, tmp_path / "python", images=None)
    assert "no option named" in str(find_obstacle(python))
    (moved / "run.json").unlink()
    with pytest.raises(InputError, match="does not record the images"):
        TrialMaker(moved)
    folder = make_pictures(tmp_path / "pictures", count=1)
    (folder / "00.png").write_text("no picture")
    broken = altered(quantized, tmp_path / "out", images=str(folder))
    workspace = Workspace(collect_models([str(broken)]), {}, limits=LIMITS)
    with TestClient(make_app(workspace, hosts=["testserver"])) as client:
        trial = finish(client, start(client))
    assert trial["model"] is None
    assert "00.png" in trial["error"]
