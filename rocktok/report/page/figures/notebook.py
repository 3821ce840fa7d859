"""Figures that show themselves in a notebook, whatever backend it has."""

from __future__ import annotations

from matplotlib.figure import Figure

from rocktok.report.page.figures.style import encode

#: Pixels of a display for each inch of a figure; its image has twice as many.
SCREEN = 150


class NotebookFigure(Figure):
    """A matplotlib figure that notebooks show as an image, without `%matplotlib` and pyplot.

    Where matplotlib's inline backend is active, that backend's own image takes the place of this.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """A PNG file, and the size at which it is shown."""
        width, height = self.get_size_inches()
        size = {"width": round(width * SCREEN), "height": round(height * SCREEN)}
        return encode(self, "png"), size
