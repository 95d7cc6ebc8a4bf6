"""Corrupt files: their bytes, and the values of JSON."""

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**12, 10**400, -(10**12), 0.5, 1e308, -1e308, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "/etc/passwd", "..", "\u0000", "٣", "a" * 5000, "1e5", "W4A4"),
    *([], {}, [[]], [1, 2, 3, 4], {"a": 1}),
)
_TOKENS = (b"\x00", b"\xff" * 8, b"1e999", b"-", b"NaN", b"[" * 2000, b'{"a":', b"9" * 14, b"\xef\xbb\xbf", b"../")
_NUMBERS = (0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**12)

# content, first byte, end, chance, other contents
Spoiler = Callable[[bytearray, int, int, random.Random, Sequence[bytes]], None]


def spoiled(seeds: Sequence[bytes], *, text: bool, seed: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Number → content, without end: the seeds themselves, then spoiled ones; each depends on its number alone.

    Args:
        seeds: contents that are good.
        text: they are JSON.
        seed: another one gives other contents.
        start: the first number.
    """
    index = start
    while True:
        if index < len(seeds):
            yield index, seeds[index]
        else:
            draw = random.Random(f"{seed} {index}")
            yield index, spoil(draw.choice(seeds), draw, others=seeds, text=text)
        index += 1


def spoil(content: bytes, draw: random.Random, *, others: Sequence[bytes], text: bool) -> bytes:
    """Corrupt a content; the result is probably not valid."""
    if text and draw.random() < 0.7:
        return _spoil_values(content, draw)
    result = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        # Headers are at the beginning, and are where the interesting faults are.
        place = draw.randrange(min(len(result), draw.choice((16, 64, 1 << 30)))) if result else 0
        end = min(len(result), place + draw.choice((1, 2, 4, 8, 64, 1024)))
        draw.choice(_SPOILERS)(result, place, end, draw, others)
    return bytes(result)


def _flip(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    del end, others
    if content:
        content[place] ^= 1 << draw.randrange(8)


def _set(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    del others
    content[place:end] = bytes([draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))]) * (end - place)


def _remove(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    del draw, others
    del content[place:end]


def _double(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    del draw, others
    content[place:place] = content[place:end]


def _insert(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    del end, others
    content[place:place] = draw.choice(_TOKENS)


def _cut(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    del end, draw, others
    del content[place:]


def _number(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    del end, others
    size = draw.choice((4, 8))
    number = draw.choice(_NUMBERS) % 2 ** (8 * size)
    content[place : place + size] = number.to_bytes(size, draw.choice(("little", "big")))


def _splice(content: bytearray, place: int, end: int, draw: random.Random, others: Sequence[bytes]) -> None:
    other = draw.choice(others)
    start = draw.randrange(len(other) + 1)
    content[place:end] = other[start : start + draw.choice((4, 64, 4096))]


_SPOILERS: tuple[Spoiler, ...] = (_flip, _set, _remove, _double, _insert, _cut, _number, _splice)


def _spoil_values(content: bytes, draw: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = _replaced(value, draw)
    return json.dumps(value).encode()


def _replaced(value: Any, draw: random.Random) -> Any:
    """The value with one of its parts removed, doubled, put in another's place, scaled, or made nonsense."""
    places = _places(value)
    if not places or draw.random() < 0.02:
        return copy.deepcopy(draw.choice(_VALUES))
    owner, key = draw.choice(places)
    old, kind = owner[key], draw.randrange(5)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, list):
        owner.append(copy.deepcopy(old))
    elif kind == 2:
        other, name = draw.choice(places)
        owner[key] = copy.deepcopy(other[name])
    elif kind == 3 and isinstance(old, int | float) and abs(old) < 1e100:
        owner[key] = old * draw.choice((-1, 0, 0.5, 2, 10**6, 10**12)) + draw.choice((0, 1, -1))
    else:
        owner[key] = copy.deepcopy(draw.choice(_VALUES))
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Container and key of every part."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        one = stack.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            stack.append(one[key])
    return found
