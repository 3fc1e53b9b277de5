"""Conversions in pieces give what one call would."""

import numpy as np
import pytest

from models.pieces import PIECE, listed, texts


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 7])
def test_texts_become_the_same_array_and_come_back(size: int) -> None:
    values = [f"{'é' * (number % 5)}{number}" if number % 3 else "" for number in range(size)]
    array = texts(values)
    whole = np.array(values, np.str_)
    assert array.dtype == whole.dtype
    assert np.array_equal(array, whole)
    assert listed(array) == whole.tolist() == values
