"""What a process that draws figures loads before the first; import it for that alone."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType

from rocktok.report.page import figures
from rocktok.report.page.figures.style import styled


class _Hidden:
    """Finds no axes in three dimensions, which matplotlib goes without."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "mpl_toolkits.mplot3d":
            raise ModuleNotFoundError("no figure has three dimensions", name=fullname)


def _load() -> tuple[ModuleType, ...]:
    from matplotlib import backends, figure, font_manager
    from matplotlib.backends import backend_agg, backend_svg

    return backends, figure, font_manager, backend_agg, backend_svg


_hidden = _Hidden()
sys.meta_path.insert(0, _hidden)
try:
    with warnings.catch_warnings(), styled():
        warnings.filterwarnings("ignore", message="Unable to import Axes3D")
        LOADED = (*_load(), figures)
finally:
    sys.meta_path.remove(_hidden)
