"""What a decoder computes twice is found, and computed once."""

import torch
from torch import Tensor, nn

from mixqsam.exporting.traced.repeated import computed_once, find_repeated


class Decoder(nn.Module):
    """Two parts that do not know how many masks there are, and one that does."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.other = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, values: Tensor, *, many: bool) -> Tensor:
        found: Tensor = self.head(self.shared(values) + many)
        return found + self.other(values) if many else found


def test_the_outermost_modules_with_equal_arguments_are_found() -> None:
    decoder, values = Decoder(), torch.randn(2, 3)
    runs = [lambda: decoder(values, many=False), lambda: decoder(values, many=True)]
    assert find_repeated(decoder, runs) == ["shared"]
    assert not any(module._forward_pre_hooks for module in decoder.modules())


def test_they_are_computed_once() -> None:
    decoder, values = Decoder(), torch.randn(2, 3)
    expected = [decoder(values, many=many) for many in (False, True)]
    calls: list[int] = []
    decoder.shared[0].register_forward_hook(lambda *_: calls.append(1))
    with computed_once([decoder.shared]):
        found = [decoder(values, many=many) for many in (False, True)]
    assert calls == [1]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    decoder(values, many=True)
    assert calls == [1, 1]
