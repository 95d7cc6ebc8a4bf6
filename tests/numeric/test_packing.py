import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixqsam.errors import ArtifactError
from mixqsam.numeric.packing import pack, packed_bytes, unpack
from tests.oracles import pack_slowly


@given(st.integers(2, 8).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), max_size=80))))
def test_packs_like_the_oracle_and_back(case: tuple[int, list[int]]) -> None:
    bits, codes = case
    tensor = torch.tensor(codes, dtype=torch.uint8)
    packed = pack(tensor, bits=bits)
    assert bytes(packed.tolist()) == pack_slowly(codes, bits)
    assert torch.equal(unpack(packed, bits=bits, count=len(codes)), tensor)


@pytest.mark.parametrize("bits", range(2, 9), ids=lambda bits: f"{bits}-bit")
def test_large_tensors_cross_block_borders(bits: int) -> None:
    codes = torch.randint(
        0, 2**bits, (3 * (1 << 20) + 5,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    packed = pack(codes, bits=bits)
    assert packed.numel() == packed_bytes(codes.numel(), bits)
    assert torch.equal(unpack(packed, bits=bits, count=codes.numel()), codes)


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 3 bits"):
        pack(torch.tensor([8], dtype=torch.uint8), bits=3)


def test_a_wrong_length_is_refused() -> None:
    with pytest.raises(ArtifactError, match="expected 4 bytes"):
        unpack(torch.zeros(5, dtype=torch.uint8), bits=3, count=10)
