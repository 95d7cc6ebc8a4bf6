"""Test `mixqsam serve` under load on loopback, with valid and invalid requests of parallel clients.

    python -m benchmarks.server_load [--clients 200] [--seconds 120]

Serves a tiny model. Most clients request masks, allocations and images and check the responses. Others send invalid
JSON, files that are not images, large requests, endless heads and bodies, or disconnect. The benchmark counts responses
by kind and status, wrong masks, responses with status 500, times of slow clients, and the server's memory every second.
Writes docs/data/server_load.json.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.harness import machine
from benchmarks.tiny import command, environment, make_model, make_pictures, quantize

DATA = Path(__file__).parents[1] / "docs/data/server_load.json"
OWN = {"x-mixqsam": "1"}
GOOD = ("page", "state", "picture", "mask", "mask", "mask", "mask", "budget", "upload")
BAD = ("no JSON", "bad box", "foreign", "no image", "too large", "goes away")
SLOW = ("slow head", "slow body")


class Load:
    """The clients and their results."""

    def __init__(self, address: str, port: int, pictures: Path) -> None:
        self.address, self.port = address, port
        self.names = sorted(path.name for path in pictures.iterdir())
        self.upload = (pictures / self.names[0]).read_bytes()
        self.answers: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.kept: list[float] = []
        self.expected: dict[str, Any] = {}

    async def prepare(self) -> None:
        """Request the right responses, without load."""
        async with httpx.AsyncClient(base_url=self.address, timeout=60) as client:
            for name in self.names:
                answer = await client.post("/api/segment", json=self.prompt(name), headers=OWN)
                self.expected[name] = [one["mask"] for one in answer.json()["results"]]

    @staticmethod
    def prompt(name: str) -> dict[str, Any]:
        """A box on an image, for both models."""
        return {"models": ["float", "out"], "image": name, "box": [5, 5, 50, 45]}

    async def client(self, number: int, until: float) -> None:
        """One client, with one kind of request after the other."""
        draw = random.Random(number)
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=self.address, timeout=60, limits=limits) as http:
            while time.monotonic() < until:
                kind = draw.choice(SLOW if number % 20 == 0 else BAD if number % 5 == 0 else GOOD)
                try:
                    status = await getattr(self, "_" + kind.replace(" ", "_").lower())(http, draw)
                except (httpx.HTTPError, OSError) as error:
                    status = type(error).__name__
                self.answers[f"{kind}: {status}"] += 1
                await asyncio.sleep(draw.uniform(0, 0.2))

    async def _page(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        del draw
        return (await http.get("/")).status_code

    async def _state(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        del draw
        return (await http.get("/api/state")).status_code

    async def _picture(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        return (await http.get(f"/api/images/{draw.choice(self.names)}?small")).status_code

    async def _mask(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        name = draw.choice(self.names)
        answer = await http.post("/api/segment", json=self.prompt(name), headers=OWN)
        if answer.status_code == 200 and [one["mask"] for one in answer.json()["results"]] != self.expected[name]:
            self.wrong["another mask"] += 1
        self._check_busy(answer)
        return answer.status_code

    async def _budget(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        size = draw.uniform(52_000, 70_000)
        body = {"model": "out", "size": size, "bitops": 2e7}
        answer = await http.post("/api/allocate", json=body, headers=OWN)
        if answer.status_code == 200 and answer.json()["size"] > size * 1.00001:
            self.wrong["over budget"] += 1
        self._check_busy(answer)
        return answer.status_code

    async def _upload(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        del draw
        return (await http.post("/api/images", content=self.upload, headers=OWN)).status_code

    def _check_busy(self, answer: httpx.Response) -> None:
        if answer.status_code == 503 and "busy" not in answer.text and "Unavailable" not in answer.text:
            self.wrong["a 503 that says nothing"] += 1

    async def _no_json(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        return (await http.post("/api/segment", content=draw.randbytes(200), headers=OWN)).status_code

    async def _bad_box(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        body = self.prompt(self.names[0]) | {"box": [draw.choice([None, "x", 1e308]), 1, 2, 3]}
        return (await http.post("/api/segment", json=body, headers=OWN)).status_code

    async def _foreign(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        del draw
        return (await http.post("/api/segment", json=self.prompt(self.names[0]))).status_code

    async def _no_image(self, http: httpx.AsyncClient, draw: random.Random) -> int:
        return (await http.post("/api/images", content=draw.randbytes(5000), headers=OWN)).status_code

    async def _too_large(self, http: httpx.AsyncClient, draw: random.Random) -> str:
        del http, draw
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = b"POST /api/images HTTP/1.1\r\nhost: localhost\r\nx-mixqsam: 1\r\n"
        writer.write(head + f"content-length: {10**12}\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 60)
        writer.close()
        return line.decode().split(" ")[1] if line else "hung up"

    async def _goes_away(self, http: httpx.AsyncClient, draw: random.Random) -> str:
        del http
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        size = draw.randrange(1000, 100_000)
        writer.write(b"POST /api/images HTTP/1.1\r\nhost: localhost\r\nx-mixqsam: 1\r\n")
        writer.write(f"content-length: {size}\r\n\r\n".encode() + b"x" * draw.randrange(900))
        await writer.drain()
        writer.close()
        return "gone"

    async def _slow_head(self, http: httpx.AsyncClient, draw: random.Random) -> str:
        del http, draw
        return await self._slowly(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ")

    async def _slow_body(self, http: httpx.AsyncClient, draw: random.Random) -> str:
        del http, draw
        head = b"POST /api/images HTTP/1.1\r\nhost: localhost\r\nx-mixqsam: 1\r\ncontent-length: 100000\r\n\r\n"
        return await self._slowly(head)

    async def _slowly(self, head: bytes) -> str:
        """Send a byte per second until the server disconnects."""
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head)
        reading = asyncio.create_task(reader.read(100))
        while not reading.done() and time.monotonic() < started + 60:
            try:
                writer.write(b"x")
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.wait({reading}, timeout=1)
        reading.cancel()
        writer.close()
        self.kept.append(time.monotonic() - started)
        return "cut off" if self.kept[-1] < 59 else "kept for a minute"


def resident(process: int) -> float:
    """Resident memory of a process in megabytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


async def watch(process: int, until: float) -> list[float]:
    """Record the memory every second."""
    found = []
    while time.monotonic() < until:
        found.append(resident(process))
        await asyncio.sleep(1)
    return found


async def run(load: Load, process: int, *, clients: int, seconds: float) -> list[float]:
    """Run all clients in parallel."""
    await load.prepare()
    until = time.monotonic() + seconds
    watching = asyncio.create_task(watch(process, until))
    await asyncio.gather(*(load.client(number, until) for number in range(clients)))
    memory = await watching
    async with httpx.AsyncClient(base_url=load.address, timeout=60) as http:
        # After the storm it answers as before.
        status = await load._mask(http, random.Random(0))
        if status != 200:
            load.wrong["not well afterwards"] += 1
    return memory


def main() -> None:
    """Serve, load, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--output", type=Path, default=DATA)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, pictures = make_model(folder / "model"), make_pictures(folder / "pictures", count=4)
        quantize(model, pictures, folder / "out")
        words = command("serve", folder / "out", "--images", pictures, "--port", 0)
        settings = {**environment(folder / "cache"), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=settings) as server:  # noqa: S603
            try:
                line = server.stdout.readline() if server.stdout else ""
                found = re.search(r"(http://127\.0\.0\.1:(\d+))/", line)
                assert found, line
                load = Load(found[1], int(found[2]), pictures)
                memory = asyncio.run(run(load, server.pid, clients=chosen.clients, seconds=chosen.seconds))
                crashed = server.poll() is not None
            finally:
                server.terminate()
    statuses: Counter[str] = Counter(key.split(": ")[1] for key in load.answers.elements())
    third = max(1, len(memory) // 3)
    summary = {
        "machine": machine(),
        "clients": chosen.clients,
        "seconds": chosen.seconds,
        "requests": sum(load.answers.values()),
        "by_status": dict(statuses),
        "by_kind": dict(sorted(load.answers.items())),
        "wrong": dict(load.wrong),
        "crashed": crashed,
        "slow_kept_seconds": max(load.kept, default=0.0),
        "memory_mb": {
            "start": memory[0],
            "second_third": float(np.median(memory[third : 2 * third])),
            "last_third": float(np.median(memory[2 * third :])),
            "most": max(memory),
        },
    }
    chosen.output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
