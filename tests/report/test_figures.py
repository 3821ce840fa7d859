"""Figures: the data that is drawn, the axes they take, nothing cut off, the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocktok.report.naming import rock_names
from rocktok.report.page import figures
from rocktok.report.page.drawing import draw_one
from rocktok.report.page.figures import APPENDIX, BY_NAME, FIGURES
from rocktok.report.page.figures.figure import AbsentError
from rocktok.report.page.figures.multiples import multiples
from rocktok.report.page.figures.style import encode, label, settle, styled
from rocktok.report.page.files import figure_numbers
from rocktok.report.result import ReportResult
from tests.paths import ROOT
from tests.report.samples import sample_report


@pytest.fixture(scope="module")
def sample() -> ReportResult:
    return sample_report()


def lines(figure: Any, text: str) -> Any:
    """The line with a label that begins so."""
    return next(x for x in figure.axes[0].lines if x.get_label().startswith(text))


def test_every_figure_is_in_the_list_and_public() -> None:
    names = [figure.name for figure in FIGURES]
    assert len(set(names)) == len(names)
    assert sorted(names) == figures.__all__
    assert all(getattr(figures, name) is figure for name, figure in BY_NAME.items())
    compared = ["stagnation", "funnel", "clusters", "ccr", "density", "position", "shares",
                "coverage"]  # fmt: skip
    assert names[0] == "early_late"
    assert names[-len(APPENDIX) :] == sorted(APPENDIX)
    assert [figure.name for figure in FIGURES if figure.shared_axes] == compared


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("name", list(BY_NAME))
def test_nothing_is_cut_off(sample: ReportResult, name: str, columns: int) -> None:
    figure = getattr(figures, name)(sample, columns=columns)
    settle(figure)
    with styled():
        box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert width == {1: 3.35, 2: 6.9}[columns]
    assert box.x0 > -0.01 and box.y0 > -0.01
    assert box.x1 < width + 0.01 and box.y1 < height + 0.01
    axis = figure.axes[0]
    assert axis.get_xlabel() or [t.get_text() for t in axis.get_xticklabels()]
    assert axis.get_ylabel() or name == "clusters"
    assert BY_NAME[name].caption(BY_NAME[name].numbers(sample)).text


@pytest.mark.long
@pytest.mark.parametrize("name", ["funnel", "sensitivity", "stagnation"])
@pytest.mark.parametrize(
    "form", ["svg", *(pytest.param(form, marks=pytest.mark.long) for form in ("png", "pdf"))]
)
def test_the_same_bytes(sample: ReportResult, name: str, form: str) -> None:
    first, second = (encode(getattr(figures, name)(sample), form) for _ in range(2))
    assert first == second
    numbers = BY_NAME[name].numbers(sample)
    assert draw_one(name, numbers, (form,), False) == draw_one(name, numbers, (form,), False)


def test_an_axis_of_the_users(sample: ReportResult) -> None:
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    before = dict(rcParams)
    axes = Figure().subplots(1, 2)
    assert figures.stagnation(sample.stagnation, ax=axes[0]) is axes[0].figure
    figures.ccr(sample.detect, axes[1])
    assert len(axes[0].lines) == len(figures.stagnation.numbers(sample)["lines"])
    assert dict(rcParams) == before


def test_funnel(sample: ReportResult) -> None:
    figure = figures.funnel(sample)
    rocks = {row["token_id"]: row for row in sample.detect.rocks}
    drawn = sorted(zip(*lines(figure, "30 tested rock tokens (FDR 5%)").get_data(), strict=True))
    assert drawn == sorted((r["frequency"], r["mean_loss"]) for r in rocks.values())
    others = lines(figure, "other types").get_xdata()
    assert len(others) == len(sample.types["token_id"]) - len(rocks)
    numbers = figures.funnel.numbers(sample)
    n, loss = (np.array(sample.types[k]) for k in ("frequency", "loss_post"))
    for row, median in zip(numbers["band"], lines(figure, "median").get_ydata(), strict=True):
        held = loss[(n >= row["frequency_low"]) & (n < row["frequency_high"])]
        assert row["types"] == len(held)
        assert median == pytest.approx(np.median(held))


def test_early_late(sample: ReportResult) -> None:
    figure = figures.early_late(sample)
    types, rocks = sample.types, set(sample.rocks)
    expected = sorted(
        (a, b)
        for v, n, a, b in zip(*(types[k] for k in ("token_id", "frequency", "loss_pre",
                                                   "loss_post")), strict=True)
        if n >= 20 and v in rocks
    )  # fmt: skip
    assert (
        sorted(zip(*lines(figure, "18 of 30 tested rock tokens").get_data(), strict=True))
        == expected
    )
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()


def test_coverage_and_stagnation(sample: ReportResult) -> None:
    assert sample.stability is not None and sample.stagnation is not None
    drawn = lines(figures.coverage(sample), "loss covered").get_data()
    assert list(drawn[0]) == [row["k"] for row in sample.stability.cutoffs]
    assert list(drawn[1]) == [row["coverage"] for row in sample.stability.cutoffs]
    for group, text in (("rocks", "rocks"), ("high_loss", "high loss")):
        line = lines(figures.stagnation(sample), text).get_data()
        curve = [row for row in sample.stagnation.curves if row["group"] == group]
        assert list(line[0]) == [row["step"] for row in curve]
        assert list(line[1]) == [row["loss"] for row in curve]


def test_shares_and_clusters(sample: ReportResult) -> None:
    assert sample.attribute is not None
    step = sample.attribute.log["step"]
    groups = [r for r in sample.attribute.groups if r["step"] == step and r["types"]]
    bars = figures.shares(sample).axes[0].containers
    for container, name in zip(bars, ("position_share", "loss_share", "grad_share"), strict=True):
        assert [b.get_height() for b in container] == [100 * row[name] for row in groups]
    found = figures.clusters.numbers(sample)["clusters"]
    assert sum(row["rocks"] for row in found) == len(sample.rocks)
    total = sum(row["loss_share"] for row in sample.detect.rocks)
    assert sum(row["loss_share"] for row in found) == pytest.approx(total)
    widths = [b.get_width() for b in figures.clusters(sample).axes[0].containers[0]]
    assert widths == [100 * row["loss_share"] for row in found]


def test_strips_hold_every_type(sample: ReportResult) -> None:
    assert sample.stagnation is not None
    figure = figures.delta_kl(sample)
    numbers = figures.delta_kl.numbers(sample)["groups"]
    points = [x.get_ydata() for x in figure.axes[0].lines if len(x.get_ydata()) > 2]
    for drawn, group in zip(points, [g for g in numbers if len(g["types"]) > 2], strict=True):
        assert list(drawn) == [one["value"] for one in group["types"]]


def test_sensitivity(sample: ReportResult) -> None:
    assert sample.sensitivity is not None
    figure = figures.sensitivity(sample)
    grid = figure.axes[0].images[0].get_array()
    assert grid.shape == (5, 8)
    assert sorted(grid.compressed()) == sorted(c["jaccard"] for c in sample.sensitivity)
    texts = sorted(int(t.get_text()) for t in figure.axes[0].texts)
    assert texts == sorted(c["rocks"] for c in sample.sensitivity)


@pytest.mark.parametrize("name", ["stagnation", "delta_kl"])
def test_captions_say_how_groups_were_chosen(sample: ReportResult, name: str) -> None:
    figure = getattr(figures, name)
    numbers = figure.numbers(sample)
    said = "rocks at the first two steps of fixed text"
    assert said in figure.caption(numbers)[1]
    assert said not in figure.caption({**numbers, "chosen": False})[1]


def test_what_a_result_does_not_hold(sample: ReportResult) -> None:
    with pytest.raises(AbsentError, match="density: is drawn from ReportResult, not from"):
        figures.density(sample.detect)
    with pytest.raises(AbsentError, match="coverage: is drawn from StabilityResult"):
        figures.coverage(sample.detect)


def test_small_multiples(sample: ReportResult) -> None:
    one = figures.density.numbers(sample)
    numbers = {"one_$x$": one, "two": one, "a/long/" * 9 + "path": one}
    figure = multiples(figures.density, numbers)
    used = [ax for ax in figure.axes if ax.get_visible()]
    # One legend for all, and no number in it that is one panel's alone.
    assert [ax.get_legend() for ax in used] == [None] * 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "of a rock type", "retained occurrences"]  # fmt: skip
    assert legend.get_title().get_text() == "tested rock tokens (FDR 5%); vertical lines: medians"
    assert [ax.get_title() for ax in used][:2] == list(numbers)[:2]
    assert used[2].get_title() == "…" + ("a/long/" * 9 + "path")[-35:]
    assert len({ax.get_ylim() for ax in used}) == 1
    encode(figure, "png")


@pytest.mark.parametrize("name", ["funnel", "clusters", "ccr", "coverage"])
def test_panels_share_what_is_a_quantity(sample: ReportResult, name: str) -> None:
    whole = BY_NAME[name].numbers(sample)
    key = {"funnel": "points", "ccr": "points", "coverage": "cutoffs", "clusters": "clusters"}[name]
    rows = whole[key]
    few = rows[:3] if name != "clusters" else [{**r, "loss_share": r["loss_share"] / 9,
                                                "position_share": 0.001} for r in rows]  # fmt: skip
    less = {**whole, key: few, "labels": [], "recommended": None}
    figure = multiples(BY_NAME[name], {"a": whole, "b": less})
    first, second = (ax for ax in figure.axes if ax.get_title())
    assert first.get_xlim() == second.get_xlim()
    ticks = [[t.get_text() for t in ax.get_xticklabels()] for ax in (first, second)]
    assert ticks[0] == ticks[1]
    assert len(ticks[0]) < 10
    assert first.get_ylim() == second.get_ylim() or name == "clusters"


def test_clusters_up_to_all_of_the_loss() -> None:
    row = {"cluster": "other", "rocks": 5, "position_share": 0.9, "loss_share": 0.99,
           "examples": ["a"]}  # fmt: skip
    figure = figures.clusters({"clusters": [row]})
    settle(figure)
    axis = figure.axes[0]
    assert max(axis.get_xticks()) == 100
    assert axis.get_legend().get_window_extent().y1 < axis.get_window_extent().y0


def test_steps_have_whole_ticks() -> None:
    curve = [{"step": s, "low": 1.0, "loss": 2.0, "high": 3.0} for s in (0, 1)]
    figure = figures.stagnation({"lines": [{"group": "rocks", "types": 3, "curve": curve}]})
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_empty_bins_do_not_break_the_line() -> None:
    bins = [{"group": group, "low": i / 20, "high": (i + 1) / 20,
             "loss_post": 1.0 + i if i % 3 == 0 else None}
            for group in ("rocks", "others") for i in range(20)]  # fmt: skip
    patch = figures.position({"bins": bins, "pre": 0, "post": 1}).axes[0].patches[0]
    assert np.isfinite(patch.get_data().values).all()
    assert list(patch.get_data().values) == [1.0 + i for i in range(0, 20, 3)]


def test_no_loss_at_all_is_drawn_without_a_warning() -> None:
    curve = [{"step": s, "low": 0.0, "loss": 0.0, "high": 0.0} for s in (0, 1)]
    points = [{"token_id": i, "frequency": 3 + i, "mean_loss": 0.0, "is_rock": False}
              for i in range(4)]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = [{"group": "all positions", "types": None, "curve": curve}]
        learning = figures.stagnation({"lines": lines})
        encode(learning, "png")
        encode(figures.funnel({"points": points, "band": [], "labels": []}), "png")
    assert learning.axes[0].get_yscale() == "linear"
    assert learning.axes[0].get_ylim()[0] <= 0 < learning.axes[0].get_ylim()[1]


def test_the_limit_of_rocks_is_said(sample: ReportResult) -> None:
    numbers = figures.sensitivity.numbers(sample)
    title = "number of rocks, η auto: tested at FDR 5%"
    assert figures.sensitivity(numbers).axes[0].get_title("left") == title
    assert "hardness alone" in figures.sensitivity.caption(numbers).text
    numbers = {**numbers, "in_use": {**numbers["in_use"], "top_k": 100, "fdr": None}}
    assert figures.sensitivity(numbers).axes[0].get_title("left") == "number of rocks, at most 100"
    assert "first 100 (--top-k)" in figures.sensitivity.caption(numbers).text


def test_rocks_are_named_by_their_rule(sample: ReportResult) -> None:
    detect = sample.detect
    ranked = {**detect.params, "rule": "top-k", "top_k": 100}
    for params, log, names in (
        ({}, {}, ("30 tested rock tokens (FDR 5%)", "beyond chance, FDR 5%.")),
        (ranked, {}, ("first 30 by context Rock Score", "by context Rock Score, untested.")),
        (ranked, {"pre": None}, ("first 30 by Rock Score", "types by Rock Score, untested.")),
        (ranked | {"tau_r": 2.5}, {}, ("30 types with a context Rock Score of 2.5 nats or more",
                                       "2.5 nats or more, untested.")),
    ):  # fmt: skip
        other = replace(detect, params={**detect.params, **params}, log={**detect.log, **log})
        found = rock_names(other)
        assert found["rocks"] == names[0]
        assert found["rule"].endswith(names[1])
        numbers = figures.funnel.numbers(other)
        assert figures.funnel.caption(numbers).text.endswith(found["rule"])
        assert lines(figures.funnel(numbers), found["rocks"])
    # Numbers of an older report.json do not say.
    del numbers["named"]
    assert lines(figures.funnel(numbers), "rocks")


@pytest.mark.parametrize("text", ["$x^2$", "\\frac{", "$", "漢字", "\u202eabc", "\ud800", "\x1b[0m",
                                  "a" * 50, "\n", "<b>", "_{", "%"])  # fmt: skip
def test_tokens_are_text_and_no_mathematics(text: str) -> None:
    rows = [{"token_id": i, "token": text, "rock_score": 1.0 + i, "ccr": 0.5, "ccr_low": None,
             "ccr_high": None, "retained_share": 0.5} for i in range(2)]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.ccr({"points": rows})
        encode(figure, "svg")
    shown = figure.axes[0].texts[0].get_text()
    assert shown == label(text)
    assert len(shown) <= 14
    assert shown.isprintable() and all(ord(c) < 0x250 or c == "…" for c in shown)


# -- settings of the user -------------------------------------------------------------------

#: What a matplotlibrc may say; every one of them would change a figure, or end it.
_SETTINGS = """
text.usetex: True
font.family: serif
axes.grid: True
axes.facecolor: pink
axes.prop_cycle: cycler('color', ['k', 'r'])
axes.xmargin: 0.4
axes.formatter.use_locale: True
lines.linestyle: --
legend.loc: upper left
legend.facecolor: yellow
figure.facecolor: gray
figure.constrained_layout.w_pad: 0.3
savefig.bbox: tight
savefig.transparent: True
savefig.pad_inches: 1
image.cmap: hot
scatter.marker: x
svg.image_inline: False
pdf.compression: 0
path.sketch: 1, 100, 2
xtick.direction: in
ytick.minor.visible: True
errorbar.capsize: 9
hatch.linewidth: 5
patch.edgecolor: red
"""

_DRAW = """
import hashlib, json, sys
from rocktok.report.page.drawing import draw_one
for name, numbers in json.load(sys.stdin).items():
    for form, data in draw_one(name, numbers, ()).items():
        print(name, form, hashlib.sha256(data).hexdigest())
"""


def drawn_elsewhere(numbers: dict[str, Any], **environment: str) -> str:
    """Figures' digests from a process with such an environment."""
    done = subprocess.run(
        [sys.executable, "-c", _DRAW],
        input=json.dumps(numbers),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.long
@pytest.mark.exhaustive
def test_no_setting_of_the_user_changes_a_figure(sample: ReportResult, tmp_path: Path) -> None:
    numbers = figure_numbers(sample)
    assert len(numbers) >= 12
    plain = drawn_elsewhere(numbers, MATPLOTLIBRC=str(tmp_path / "none"))
    (tmp_path / "matplotlibrc").write_text(_SETTINGS)
    odd = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": "module://no.backend"}
    assert drawn_elsewhere(numbers, **odd) == plain


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("nonsense", None),
        ("module://no.backend", _SETTINGS.encode()),
        pytest.param("", b"\xff\xfe: 1", marks=pytest.mark.long),
    ],
)
def test_no_setting_of_the_user_ends_a_figure(
    sample: ReportResult, backend: str, settings: bytes | None, tmp_path: Path
) -> None:
    if settings is not None:
        (tmp_path / "matplotlibrc").write_bytes(settings)
    one = {"funnel": figure_numbers(sample)["funnel"]}
    rc = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": backend}
    mine = hashlib.sha256(draw_one("funnel", one["funnel"], ())["svg"]).hexdigest()
    assert f"funnel svg {mine}\n" in drawn_elsewhere(one, **rc)
