"""Everything in a picture, as the page's server finds it."""

import asyncio
import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mixqsam.errors import InputError
from mixqsam.sam.automatic import Masks, encode_runs
from mixqsam.serving import everything, requests
from mixqsam.serving.masks import describe_everything
from mixqsam.serving.workspace import Workspace
from tests.serve.conftest import LIMITS, OWN, segment


@pytest.fixture(autouse=True)
def unsure_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with random weights is sure of nothing."""
    monkeypatch.setitem(requests.SURENESS, "unsure", (-99.0, 0.0))


def find(client: TestClient, **change: Any) -> Any:
    body = {"model": "out", "image": "a.png", "side": 4, "sureness": "unsure", **change}
    return client.post("/api/everything", json=body, headers=OWN)


def last_line(answer: Any) -> Any:
    return json.loads(answer.text.splitlines()[-1])


def test_each_mask_comes_with_the_prompt_that_gives_it_again(client: TestClient) -> None:
    response = find(client)
    progress = [json.loads(line) for line in response.text.splitlines()[:-1]]
    assert progress == [{"done": 8, "total": 16}]
    answer = last_line(response)
    assert 0 < len(answer["masks"]) == answer["found"]
    for mask in answer["masks"]:
        again = segment(client, models=["out"], box=None, points=[[*mask["point"], 1]], mask=mask["choice"]).json()
        content = base64.b64decode(again["results"][0]["mask"].partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(content))) > 0
        assert encode_runs(pixels) == mask["segmentation"]
        assert int(pixels.sum()) == mask["area"]
        assert again["results"][0]["encoded_now"] is False


def test_the_surest_masks_are_described() -> None:
    pixels = np.eye(3, dtype=bool)[:, None]
    some = Masks(
        pixels,
        np.array([0.9, 0.8, 0.7], np.float32),
        np.ones(3),
        np.zeros((3, 2)),
        np.array([1, 2, 3]),
        np.zeros((3, 4), int),
    )
    answer = describe_everything(some, maximum=2)
    assert ([mask["choice"] for mask in answer["masks"]], answer["found"]) == ([1, 2], 3)


def test_sure_masks_are_fewer(client: TestClient) -> None:
    assert last_line(find(client, sureness="sure"))["found"] < last_line(find(client))["found"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"side": LIMITS.grid + 1}, "1 to 4 points per side"),
        ({"side": 0}, "1 to 4 points per side"),
        ({"side": True}, "1 to 4 points per side"),
        ({"side": "4"}, "1 to 4 points per side"),
        ({"sureness": "x"}, "one of sure, likely, unsure"),
        ({"sureness": ["sure"]}, "one of sure, likely, unsure"),
        ({"model": "x"}, "'x' is not served"),
        ({"image": "x"}, "is not on the server"),
        ({"image": None}, "“image” is missing"),
    ],
)
def test_bad_requests_get_a_message(client: TestClient, change: dict[str, Any], words: str) -> None:
    answer = find(client, **change)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_other_web_sites_are_refused(client: TestClient) -> None:
    for path in ("/api/everything", "/api/tries"):
        assert client.post(path, json={"model": "out"}).status_code == 403


def test_what_fails_on_the_way_is_the_last_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = Workspace.find_masks, []

    def fail_second(self: Workspace, *args: Any) -> Masks:
        calls.append(args)
        if len(calls) > 1:
            raise InputError("The second group fails.")
        return whole(self, *args)

    monkeypatch.setattr(Workspace, "find_masks", fail_second)
    assert last_line(find(client)) == {"error": "The second group fails."}


def test_work_for_a_visitor_who_left_ends(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = Workspace.find_masks, []

    def count(self: Workspace, *args: Any) -> Masks:
        calls.append(args)
        return whole(self, *args)

    monkeypatch.setattr(Workspace, "find_masks", count)
    monkeypatch.setattr(everything, "_POINTS_AT_ONCE", 1)
    body = json.dumps({"model": "out", "image": "a.png", "side": 4, "sureness": "unsure"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        del message

    scope = {
        "type": "http", "method": "POST", "path": "/api/everything", "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", b"testserver"), (b"x-mixqsam", b"1")], "scheme": "http", "client": None,
        "server": ("testserver", 80), "root_path": "", "raw_path": b"/api/everything",
    }  # fmt: skip
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert 1 <= len(calls) < 16
