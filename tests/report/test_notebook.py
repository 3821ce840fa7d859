"""In a notebook figures show once, without magic; docs/tour.ipynb runs."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import subprocess
import sys
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure

from rocktok.report.page import figures
from tests.paths import ROOT
from tests.processes import LIMIT

TOUR = ROOT / "docs/tour.ipynb"

NUMBERS: dict[str, Any] = {
    "clusters": [
        {"cluster": "words", "rocks": 3, "position_share": 0.1, "loss_share": 0.3, "examples": []},
        {"cluster": "digits", "rocks": 1, "position_share": 0.2, "loss_share": 0.1, "examples": []},
    ]
}


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_a_figure_shows_itself_and_is_still_one_of_matplotlib() -> None:
    figure: Any = figures.clusters(NUMBERS)
    assert isinstance(figure, Figure)
    png, size = figure._repr_png_()
    width, height = size_of(png)
    assert size == {"width": 502, "height": 375}
    assert abs(width - 2 * size["width"]) <= 2 and abs(height - 2 * size["height"]) <= 2
    assert png == figures.clusters(NUMBERS)._repr_png_()[0]
    sink = BytesIO()
    figure.savefig(sink, format="svg")
    assert b"<svg" in sink.getvalue()
    assert pickle.loads(pickle.dumps(figure)).axes[0].get_xlabel() == figure.axes[0].get_xlabel()


def test_a_figure_is_none_of_pyplots() -> None:
    """Else a notebook with the inline backend would show it a second time."""
    code = (
        "import sys\nfrom rocktok.report.page import figures\n"
        f"figures.clusters({NUMBERS!r})._repr_png_()\n"
        "import matplotlib.pyplot as plt\n"
        "print(plt.get_fignums(), 'IPython' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[] False\n", done.stderr


def test_one_image_with_the_inline_backend_and_without() -> None:
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.pylabtools import select_figure_formats

    figure = figures.clusters(NUMBERS)
    formatter = DisplayFormatter()
    data, metadata = formatter.format(figure)
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"] == {"width": 502, "height": 375}
    # What `%matplotlib inline` does: a printer for every matplotlib figure.
    select_figure_formats(SimpleNamespace(display_formatter=formatter), {"png"})
    inline, _ = formatter.format(figure)
    assert set(inline) == {"image/png", "text/plain"}
    assert inline["image/png"] != data["image/png"]
    size_of(base64.b64decode(inline["image/png"]))


#: The first line of a cell → kinds of its output, and what stands in it.
EXPECTED = {
    "import rocktok": ("text/html", '<div class="rocktok-card">'),
    "rocktok.check(log)": ("text/html", '<div class="rocktok-card">'),
    "found = rocktok.detect(log)": ("text/html", "rock tokens carry"),
    "figures.funnel(found, columns=2)": ("image/png", "iVBOR"),
    "found.table.loc": ("text/html", "mean_loss_pre"),
    "rocktok.text(log, detected=found)": ("text/html", '<iframe title="text of 3 sequences'),
    "learning = rocktok.stagnation": ("text/html", '<div class="rocktok-card">'),
    "figures.stagnation(learning)": ("image/png", "iVBOR"),
}


def test_the_tour_is_kept_without_outputs() -> None:
    content = json.loads(TOUR.read_text())
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    firsts = ["".join(cell["source"]).splitlines()[0] for cell in cells]
    for first, expected in zip(firsts, EXPECTED, strict=True):
        assert first.startswith(expected)
    assert not any("%" in "".join(cell["source"]) for cell in cells)


@pytest.mark.long
@pytest.mark.exhaustive
def test_the_tour_runs() -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(TOUR, as_version=4)
    where = {"metadata": {"path": str(TOUR.parent)}}
    NotebookClient(notebook, timeout=LIMIT, kernel_name="python3", resources=where).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, (kind, text) in zip(cells, EXPECTED.values(), strict=True):
        # One output, no warning beside it.
        (output,) = cell.outputs
        assert output.output_type == "execute_result"
        assert set(output.data) == {kind, "text/plain"}
        assert text in output.data[kind]
