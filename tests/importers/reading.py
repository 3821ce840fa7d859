"""What an import has written, as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import rocktok


def rows(log: Path, table: str = "rollout") -> pd.DataFrame:
    """All rows of a table, by step, sequence and position."""
    opened = rocktok.open(log)
    names = opened.columns(table)
    parts = [pd.DataFrame(part.columns) for part in opened.scan(table, names)]
    return pd.concat(parts, ignore_index=True)


def sequences(log: Path) -> pd.DataFrame:
    found = [pq.read_table(path).to_pandas() for path in sorted((log / "sequences").glob("*"))]
    return pd.concat(found, ignore_index=True).sort_values("sequence_id", ignore_index=True)


def close(found: Any, wanted: Any) -> None:
    """Equal but for rounding to float32."""
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), rtol=2e-6,
                               atol=2e-6)  # fmt: skip
