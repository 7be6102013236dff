"""Packed codes against a bit string built by hand, and their exact width."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggtq.quant.numbers.packing import pack, packed_width, unpack

BITS = (2, 3, 4, 5, 6, 7, 8, 16)


def bit_string(row: list[int], bits: int) -> bytes:
    """The layout's definition: code i at bits i·b …, least significant first, padded to whole bytes."""
    number = sum(code << (bits * i) for i, code in enumerate(row))
    return number.to_bytes(-(-len(row) * bits // 8), "little")


@pytest.mark.parametrize("bits", BITS)
@settings(max_examples=60)
@given(data=st.data())
def test_packing_is_the_bit_string_and_unpacks_to_the_codes(bits: int, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 41))
    code = st.integers(0, 2**bits - 1)
    codes = data.draw(
        st.lists(st.lists(code, min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    )
    packed = pack(torch.tensor(codes, dtype=torch.int32), bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, packed_width(columns, bits))
    assert [bytes(row.tolist()) for row in packed] == [bit_string(row, bits) for row in codes]
    assert unpack(packed, bits, columns).tolist() == codes


def test_two_four_bit_codes_share_a_byte() -> None:
    assert pack(torch.tensor([[0x1, 0xF, 0x7]]), 4).tolist() == [[0xF1, 0x07]]


@pytest.mark.parametrize(
    ("bits", "expected"), [(2, 256), (3, 384), (4, 512), (5, 640), (6, 768), (7, 896), (8, 1024), (16, 2048)]
)
def test_a_row_of_1024_codes_takes_exactly_its_bits(bits: int, expected: int) -> None:
    assert pack(torch.zeros(1, 1024, dtype=torch.int32), bits).shape == (1, expected)
