"""Rows of unlike length in one buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok._types import Array

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Ragged:
    """S rows of token ids: row i is `value_T[start_S[i]:start_S[i + 1]]`.

    Attributes:
        value_T: (T,) int32, all rows one after another.
        start_S: (S + 1,) int64.
    """

    value_T: Array
    start_S: Array

    def __len__(self) -> int:
        return len(self.start_S) - 1

    def __getitem__(self, row: int) -> Array:
        return self.value_T[self.start_S[row] : self.start_S[row + 1]]

    @property
    def length_S(self) -> Array:
        """(S,) int64."""
        return np.diff(self.start_S)

    @classmethod
    def of(cls, value_T: Array, length_S: Array) -> Ragged:
        """From the values and the length of each row."""
        start_S = np.concatenate(([0], np.cumsum(length_S, dtype=np.int64)))
        return cls(np.ascontiguousarray(value_T, dtype=np.int32), start_S)

    @classmethod
    def of_lists(cls, lists: Any) -> Ragged:
        """From an Arrow array of lists of integers; a null is an empty row.

        Raises `pyarrow.ArrowInvalid` for what is no list of int32, or holds a null number.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(is_kind(lists.type) for is_kind in kinds):
            raise pa.ArrowInvalid(f"{lists.type} where lists of token ids should be")
        # A null of a fixed size has a length, and values.
        lists = lists.cast(pa.large_list(lists.type.value_type))
        length_S = pc.fill_null(pc.list_value_length(lists), 0)
        values = pc.list_flatten(lists)
        if values.null_count:
            raise pa.ArrowInvalid("a token id is null")
        return cls.of(np.asarray(values.cast(pa.int32())), np.asarray(length_S))

    def to_lists(self, first: int, last: int) -> Any:
        """Rows first:last as an Arrow array of lists, not copied."""
        import pyarrow as pa

        start_S = self.start_S[first : last + 1]
        values = self.value_T[start_S[0] : start_S[-1]]
        offsets = (start_S - start_S[0]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    def take(self, order_S: Array) -> Ragged:
        """Rows in another order, or some of them; this itself where nothing changes."""
        if np.array_equal(order_S, np.arange(len(self))):
            return self
        # Row by row: an index of every value would be four times as large as the values.
        made = Ragged.of(np.zeros(0), self.length_S[order_S])
        value_T = np.empty(int(made.start_S[-1]), dtype=np.int32)
        for start, row in zip(made.start_S.tolist(), order_S.tolist(), strict=False):
            value = self[row]
            value_T[start : start + len(value)] = value
        return Ragged(value_T, made.start_S)


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """One after another."""
    values = [part.value_T for part in parts] or [np.zeros(0, dtype=np.int32)]
    lengths = [part.length_S for part in parts] or [np.zeros(0, dtype=np.int64)]
    return Ragged.of(np.concatenate(values), np.concatenate(lengths))
