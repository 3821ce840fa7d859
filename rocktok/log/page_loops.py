"""Compiled loop of `pages`: the headers of a column chunk that are as writers write them.

Array suffixes: B bytes of a column chunk; D structures that lie in one another.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part

#: Structures in one another, of which page headers have three.
DEPTH = 8


@part
def _varint(data_B: Array, at: int) -> tuple[int, int]:
    """A number, and where it ends; -1 where it does not, or is none of a header."""
    value = shift = 0
    while at < len(data_B) and shift < 56:
        byte = int(data_B[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return value, -1


@Kernel
def sum_pages(data_B: Array, field_D: Array, total_2: Array) -> bool:
    """Add up what the page headers claim; False: they must be looked at one field after the other.

    Args:
        data_B: uint8.
        field_D: int64, room for `DEPTH` numbers.
        total_2: int64, changed in place: the number of values, and the encodings as bits by their
            code.
    """
    at = 0
    while at < len(data_B):
        first, depth, seen = at == 0, 0, 0
        kind = size = values = encoding = -1
        field_D[0] = 0
        while True:
            if at >= len(data_B):
                return False
            byte = int(data_B[at])
            at += 1
            if byte == 0 and depth == 0:
                break
            if byte == 0:
                depth -= 1
                continue
            if byte < 16:  # a field that does not follow the one before: in no page header
                return False
            field_D[depth] += byte >> 4
            field, of_type = field_D[depth], byte & 15
            if 4 <= of_type <= 6:
                coded, at = _varint(data_B, at)
                number = (coded >> 1) ^ -(coded & 1)
                if depth == 0 and field == 1:
                    kind = number
                elif depth == 0 and field == 3:
                    size = number
                elif depth == 1 and field == 1:
                    values = number
                elif depth == 1 and field == (4 if field_D[0] == 8 else 2):
                    encoding = number
            elif of_type == 8:
                length, at = _varint(data_B, at)
                at = -1 if at < 0 else at + length
            elif of_type == 12 and depth + 1 < DEPTH:
                if depth == 0:
                    seen += 1
                depth += 1
                field_D[depth] = 0
            elif of_type == 3:
                at += 1
            elif of_type not in (1, 2):
                return False
            if at < 0:
                return False
        # A page has one structure: 5 or 8 of data, 7 of a dictionary, which comes first.
        last = field_D[0]
        if seen != 1 or size < 0 or at + size > len(data_B):
            return False
        if (kind == 0 and last == 5) or (kind == 3 and last == 8):
            if values < 0 or not 0 <= encoding < 63:
                return False
            total_2[0] += values
            total_2[1] |= np.int64(1) << encoding
        elif not (first and kind == 2 and last == 7):
            return False
        at += size
    return True
