"""Results as tables, figures and pages. Called, the package is `rocktok.report.passes.report`."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class _Report(ModuleType):
    """`rocktok.report` names this package and a function: Python sets the name to the package."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from rocktok.report.passes import report

        return report(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        from rocktok.report.passes import report

        return inspect.signature(report)


sys.modules[__name__].__class__ = _Report
