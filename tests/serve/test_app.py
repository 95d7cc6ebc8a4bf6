"""The page's server, without a browser."""

import asyncio
import base64
import io
import json
import shlex
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from mixqsam.errors import OutputError
from mixqsam.pipeline.stages import make_predictor
from mixqsam.prompts import Prompts
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from mixqsam.serving.recent import LruCache
from mixqsam.serving.server import serve
from mixqsam.serving.worker import Worker
from mixqsam.serving.workspace import collect_models
from tests.serve.conftest import LIMITS, OWN, segment


def png(width: int, height: int, **more: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 20)).save(stream, format="PNG", **more)
    return stream.getvalue()


def test_the_page_and_what_it_needs_are_served(client: TestClient) -> None:
    for path in ("/", "/static/page.js", "/static/page.css", "/report.css"):
        assert client.get(path).status_code == 200
    # Browsers run modules of this type alone.
    headers = client.get("/static/page.js").headers
    assert headers["content-type"].startswith("text/javascript")
    assert headers["cache-control"] == "no-store"
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
    state = client.get("/api/state").json()
    assert [(one["name"], one["analysed"]) for one in state["models"]] == [("float", False), ("out", True)]
    assert 0 < state["models"][1]["size"] < state["models"][0]["size"]
    assert state["samples"] == ["a.png", "b.jpg"]
    small = Image.open(io.BytesIO(client.get("/api/images/a.png?small").content))
    assert small.size == (64, 40)


def test_masks_are_the_predictors_own(client: TestClient, quantized: Path, picture_folder: Path) -> None:
    first = segment(client).json()
    assert [one["encoded_now"] for one in first["results"]] == [True, True]
    assert segment(client, image="b.jpg").status_code == 200
    again = segment(client).json()
    assert [one["encoded_now"] for one in again["results"]] == [False, False]
    predictor = make_predictor(quantized)
    predictor.set_image(Image.open(picture_folder / "a.png"))
    expected = predictor.segment(Prompts(boxes=np.array([[5.0, 5.0, 40.0, 30.0]]))).masks[0, 0]
    for answer in (first, again):
        content = base64.b64decode(answer["results"][1]["mask"].partition(",")[2])
        assert (np.asarray(Image.open(io.BytesIO(content))) > 0).tolist() == expected.tolist()
        assert answer["results"][1]["pixels"] == int(expected.sum())
    difference = first["difference"]
    assert first["results"][0]["pixels"] - difference["only_first"] == int(expected.sum()) - difference["only_second"]


def test_one_of_three_masks_can_be_chosen(client: TestClient, sam: Sam, picture_folder: Path) -> None:
    predictor = SamPredictor(sam)
    predictor.set_image(Image.open(picture_folder / "a.png"))
    expected = predictor.segment(Prompts(boxes=np.array([[5.0, 5.0, 40.0, 30.0]])), multimask=True).scores[0]
    found = [segment(client, mask=number).json()["results"][0]["predicted_iou"] for number in (1, 2, 3)]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    for wrong in (4, -1, True, "1", [1], 0.5, None):
        refused = segment(client, mask=wrong)
        assert refused.status_code == 400
        assert "one of its three" in refused.json()["error"]


def test_points_refine_a_box(client: TestClient) -> None:
    boxed, both = segment(client), segment(client, points=[[10, 10, 1], [30, 20, 0]])
    points = segment(client, box=None, points=[[20, 20, 1]])
    assert (boxed.status_code, both.status_code, points.status_code) == (200, 200, 200)


def test_uploads_are_taken_shrunk_and_forgotten(client: TestClient) -> None:
    first = client.post("/api/images", content=png(250, 100), headers=OWN).json()
    assert (first["width"], first["height"]) == (100, 40)
    assert segment(client, image=first["image"]).status_code == 200
    for _ in range(LIMITS.images):
        client.post("/api/images", content=png(20, 10), headers=OWN)
    gone = segment(client, image=first["image"])
    assert gone.status_code == 400
    assert "upload it again" in gone.json()["error"]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 400, "not an image"),
        (b"GIF89a", 400, "The upload"),
        (png(30, 30)[:60], 400, "The upload"),
        (b"x" * 60_001, 413, "at most 0.06 MB"),
        (png(14_000, 14_000, compress_level=9)[:60_000], 400, "larger than"),
    ],
)
def test_bad_uploads_get_a_message(client: TestClient, content: bytes, code: int, words: str) -> None:
    answer = client.post("/api/images", content=content, headers=OWN)
    assert answer.status_code == code
    assert words in answer.json()["error"]
    assert segment(client).status_code == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": ["float", "x"]}, "'x' is not served"),
        ({"models": []}, "one to 2 names"),
        ({"models": ["float"] * 3}, "one to 2 names"),
        ({"models": 7}, "one to 2 names"),
        ({"image": "../a.png"}, "is not on the server"),
        ({"image": None}, "“image” is missing"),
        ({"box": None}, "Draw a box or click"),
        ({"box": [1, 2, 3]}, "x1, y1, x2, y2"),
        ({"box": "abcd"}, "x1, y1, x2, y2"),
        ({"box": [500, 500, 600, 600]}, "no area inside"),
        ({"points": [[1, 1, 7]]}, "label is neither 1 (object) nor 0"),
        ({"points": [[900, 1, 1]]}, "outside the image of"),
        ({"points": [[1, 1, 1]] * 5}, "at most 4"),
        ({"points": {"a": 1}}, "a point x, y, label"),
    ],
)
def test_bad_prompts_get_a_message(client: TestClient, change: dict[str, Any], words: str) -> None:
    answer = segment(client, **change)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_numbers_that_are_none(client: TestClient) -> None:
    for text in ('{"models":["float"],"image":"a.png","box":[NaN,1,2,3]}', "[1]", "{", "[" * 1500):
        answer = client.post("/api/segment", content=text, headers=OWN)
        assert answer.status_code == 400
    long = client.post("/api/segment", content=json.dumps({"x": "y" * 3000}), headers=OWN)
    assert long.status_code == 413


def test_only_the_page_itself_is_answered(client: TestClient) -> None:
    foreign = client.post("/api/segment", json={"models": ["float"]})
    assert foreign.status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/api/images/..%2f..%2fetc%2fpasswd").status_code in {400, 404}


def test_other_budgets_are_solved_from_the_stored_analysis(client: TestClient) -> None:
    def ask(**value: Any) -> Any:
        return client.post("/api/allocate", json={"model": "out", **value}, headers=OWN)

    limits = ask().json()
    assert limits["size"]["low"] < limits["size"]["now"] < limits["size"]["high"]
    size, bitops = limits["size"]["now"] * 1.001, limits["bitops"]["now"] * 1.001
    same = ask(size=size, bitops=bitops).json()
    assert same["size"] <= size
    assert same["bitops"] <= bitops
    assert same["uniform"] == "W4A4"
    assert same["picture"].startswith("<svg")
    assert same["expected"].startswith("Expected quality, predicted by the analysis: a divergence of ")
    larger = ask(size=limits["size"]["high"], bitops=limits["bitops"]["high"]).json()
    assert larger["mean_weight_bits"] > same["mean_weight_bits"]
    command = shlex.split(ask(size=size, bitops=bitops, tied=True).json()["command"])
    assert command[:3] == ["mixqsam", "quantize", "--config"]
    assert json.loads(Path(command[3]).read_text())["options"]["budget"] == "W4A4"
    assert "--tied" in command
    for wrong in ({"size": 1, "bitops": 1}, {"size": "x", "bitops": 1}, {"size": 1}, {"size": -1, "bitops": 1}):
        assert ask(**wrong).status_code == 400
    assert ask(model="float").status_code == 400


def test_a_full_queue_says_so_and_a_slow_client_is_cut_off(client: TestClient) -> None:
    async def crowd() -> list[object]:
        worker, gate = Worker(2), threading.Event()
        tasks = [asyncio.create_task(worker.run(lambda: gate.wait(20))) for _ in range(5)]
        await asyncio.sleep(0.1)
        gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        worker.close()
        return list(found)

    found = asyncio.run(crowd())
    assert found[:3] == [True] * 3
    for one in found[3:]:
        assert isinstance(one, HTTPException)
        assert (one.status_code, "busy" in one.detail) == (503, True)

    async def slowly() -> tuple[int, bytes]:
        sent: list[Any] = []
        scope = {
            "type": "http", "method": "POST", "path": "/api/images", "query_string": b"", "http_version": "1.1",
            "headers": [(b"host", b"testserver"), (b"x-mixqsam", b"1")], "scheme": "http", "client": None,
            "server": ("testserver", 80), "root_path": "", "raw_path": b"/api/images",
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.2)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        await client.app(scope, receive, send)
        return sent[0]["status"], sent[1]["body"]

    status, body = asyncio.run(slowly())
    assert status == 408
    assert b"too long" in body


def test_only_the_recent_is_kept() -> None:
    recent: LruCache[int] = LruCache(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)


def test_names_of_models(quantized: Path, model_directory: Path) -> None:
    assert collect_models([str(quantized)]) == {"float": str(model_directory), "out": str(quantized)}
    assert collect_models(["sam-tiny"]) == {"sam-tiny": "sam-tiny"}
    assert list(collect_models([str(quantized), str(model_directory)])) == ["float", "out"]


def test_an_address_in_use_is_named(quantized: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OutputError, match="choose another --port"):
        serve(collect_models([str(quantized)]), {}, host="127.0.0.1", port=taken.getsockname()[1], ready=print)


def test_a_predictor_goes_back_to_an_image(sam: Sam, picture_folder: Path) -> None:
    predictor = SamPredictor(sam)
    assert predictor.keep() is None
    prompts = Prompts(boxes=np.array([[5.0, 5.0, 30.0, 30.0]]))
    predictor.set_image(Image.open(picture_folder / "a.png"))
    kept, expected = predictor.keep(), predictor.segment(prompts).logits
    predictor.set_image(Image.open(picture_folder / "b.jpg"))
    predictor.restore(kept)
    assert predictor.segment(prompts).logits.tolist() == expected.tolist()
