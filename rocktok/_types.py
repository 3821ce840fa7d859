"""Types that stand in signatures everywhere."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

#: A NumPy array of any type and shape; suffixes of the names say what its axes are.
Array = npt.NDArray[Any]
