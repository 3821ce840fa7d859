"""Batches as the writer takes them: mappings or DataFrames in, checked Arrow tables out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok.errors import DataError
from rocktok.log.checks import ListCheck, Rules, Where, check_values, to_numpy
from rocktok.log.lists import from_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Columns whose values the rules of the format bind, where it is not all of them; `gradients`
#: marks sums with token id −1.
_CHECKED = {"sequences": ("step", "num_tokens"), "gradients": ("step",)}


class _InBatch(Where):
    """Where a value stands in a batch: for messages."""

    def at(self, row: int, column: str) -> str:
        return f"{self.name}: row {row}, column {column}"


def as_table(
    batch: Mapping[str, Any] | Any,
    table: str,
    statistics: Iterable[str],
    rules: Rules,
    lists: ListCheck,
) -> pa.Table:
    """A batch for one of the tables, in the format's own types.

    Args:
        batch: columns as arrays, tensors on any device, lists, or scalars, which are repeated.
        table: where it is to go.
        statistics: optional columns that `rollout` and `fixed` must have.
        rules: what the log promises of its values.
        lists: what earlier batches had for the length of their lists.

    Raises `DataError` for missing or unknown columns, values that do not fit or that break a rule
    of the format, nulls, NaN, unequal lengths.
    """
    if table not in schema.TABLES:
        raise DataError(f"no table {table!r}; choose from {', '.join(schema.TABLES)}")
    names = list(batch.keys())
    optional: Iterable[str] = ()
    if table == "sequences":
        optional = [n for n in names if n not in schema.required_names(table)]
    elif table in schema.OCCURRENCE_TABLES:
        optional = statistics
    try:
        wanted = schema.arrow_schema(table, optional)
    except ValueError as error:
        raise DataError(f"{table}: {error}") from error
    _check_names(names, wanted.names, table)
    values = {name: _host(batch[name]) for name in names}
    length = max((len(v) for v in values.values() if not _is_scalar(v)), default=1)
    arrays = [_arrow(values[field.name], field, length, table) for field in wanted]
    rows = pa.Table.from_arrays(arrays, schema=wanted)
    where = _InBatch(table, 0)
    checked = {n: to_numpy(rows[n], n, where) for n in _CHECKED.get(table, rows.schema.names)}
    check_values(checked, rules, where)
    lists.check(checked, where)
    return rows


def _host(value: Any) -> Any:
    """A tensor as an array in host memory, a list of tensors as a list of arrays, else itself."""
    if hasattr(value, "detach"):
        value = value.detach()
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()  # NumPy has no bfloat16
        array = value.cpu().numpy()
        return array if array.ndim else array.item()
    if _is_list(value) and any(hasattr(item, "detach") for item in value):
        return [_host(item) for item in value]
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_scalar(value: Any) -> bool:
    # A list may hold rows of unequal length, of which NumPy makes no array.
    return not _is_list(value) and np.ndim(value) == 0


def _is_matrix(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2


def _check_names(names: list[str], wanted: list[str], table: str) -> None:
    missing = [name for name in wanted if name not in names]
    extra = [name for name in names if name not in wanted]
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(extra)}, which this log does not record"] if extra else []
        raise DataError(f"{table}: the batch {' and '.join(parts)}")


def _arrow(value: Any, field: Any, length: int, table: str) -> pa.Array:
    """One column as Arrow, cast safely: a value that does not fit is an error, never wrapped."""
    if _is_scalar(value):
        value = [value] * length
    floating = pa.types.is_floating(field.type)
    lists = pa.types.is_list(field.type)
    vectors = lists and pa.types.is_floating(field.type.value_type)
    try:
        array = from_matrix(value, field.type) if _is_matrix(value) else pa.array(value)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        array = array.cast(field.type, safe=not (floating or vectors))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{table}: column {field.name}: {str(error).splitlines()[0]}") from error
    if len(array) != length:
        raise DataError(f"{table}: column {field.name} has {len(array)} rows, others {length}")
    if array.null_count and not field.nullable:
        raise DataError(f"{table}: column {field.name}: nulls are not allowed")
    numbers = array.flatten() if lists else array
    if lists and numbers.null_count and not field.nullable:
        raise DataError(f"{table}: column {field.name}: nulls are not allowed in lists")
    if (floating or vectors) and not np.isfinite(np.asarray(numbers)).all():
        raise DataError(f"{table}: column {field.name}: NaN or infinite values")
    return array
