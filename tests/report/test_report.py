"""`report`: what it rests on, what it writes, what it says of logs that lack something."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import rocktok
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.rock_passes import find_rocks
from rocktok.analyses.detect.table import opening
from rocktok.analyses.run import Run
from rocktok.cli import cli
from rocktok.engine.passes import Engine
from rocktok.errors import UsageError
from rocktok.log import LogWriter
from rocktok.report.clusters import NAMES, Clusters
from rocktok.report.page.drawing import Drawing
from rocktok.report.page.figures import BY_NAME
from rocktok.report.page.files import add_figures, render_report
from rocktok.report.page.summary import summary
from rocktok.report.passes import report
from rocktok.report.positions import BINS, LossByPosition
from rocktok.report.result import ReportResult
from rocktok.report.sequences import DrawnSequences, SequenceRows
from rocktok.report.text_view import choose
from tests.logs import RUN, bare_copy, rows, sequence_rows, write_by_hand, write_log
from tests.paths import SAMPLE
from tests.processes import run_command as run
from tests.report.samples import report_anew, sample_files, sample_report


@pytest.fixture(scope="module")
def sample() -> ReportResult:
    return sample_report()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return sample_files()


# -- what it rests on ----------------------------------------------------------------------


@pytest.mark.long
def test_it_is_what_the_commands_say(sample: ReportResult) -> None:
    log = rocktok.open(SAMPLE)
    found = rocktok.detect(log, lifts=True)
    assert sample.detect.tokens == found.tokens
    assert sample.detect.permuted == found.permuted
    gradient = rocktok.attribute(log, replicates=200)
    assert sample.attribute is not None
    assert (sample.attribute.groups, sample.attribute.tests) == (gradient.groups, gradient.tests)
    share = dict(zip(sample.types["token_id"], sample.types["grad_share"], strict=True))
    for row in gradient.tokens:
        assert share[row["token_id"]] == pytest.approx(row["grad_share"])
    learning = rocktok.stagnation(log, replicates=200)
    assert sample.stagnation is not None
    assert sample.stagnation.groups == learning.groups
    assert sample.missing == ()
    # `attribute` alone finds the rocks once more.
    spared = Run.begin(log, None, "auto", 0)
    find_rocks(spared, DetectParams(table=spared.table))
    assert sample.log["passes"]["attribute"] == gradient.log["passes"] - spared.passes


@pytest.mark.long
def test_means_of_types_at_both_steps(sample: ReportResult) -> None:
    log = rocktok.open(SAMPLE)
    means: dict[int, dict[int, list[float]]] = {}
    for step in (8, 500):
        for batch in log.scan("fixed", ["token_id", "loss"], steps=[step]):
            pairs = zip(batch.columns["token_id"].tolist(), batch.columns["loss"], strict=True)
            for v, loss in pairs:
                means.setdefault(v, {}).setdefault(step, []).append(max(float(loss), 0.0))
    types = sample.types
    assert types["token_id"] == sorted(means)
    for v, n, first, last in zip(*(types[k] for k in ("token_id", "frequency", "loss_pre",
                                                      "loss_post")), strict=True):  # fmt: skip
        assert n == len(means[v][500])
        assert first == pytest.approx(np.mean(means[v][8]), rel=1e-6)
        assert last == pytest.approx(np.mean(means[v][500]), rel=1e-6)


@pytest.fixture(scope="module")
def ranked() -> ReportResult:
    """Of the rule "top-k"."""
    return report(SAMPLE, rule="top-k", sequences=0, replicates=100, lifts=False)


@pytest.mark.parametrize(
    "rule, gamma, eta",
    [("top-k", 0.3, "auto"), ("top-k", 0.5, 0.05), ("top-k", 0.6, "auto"), ("top-k", 0.7, 0.1),
     ("tested", 0.3, "auto"), ("tested", 0.4, "auto"), ("tested", 0.5, "auto"),
     ("tested", 0.7, "auto")],
)  # fmt: skip
def test_the_grid_is_detect_under_other_settings(
    sample: ReportResult, ranked: ReportResult, rule: str, gamma: float, eta: Any
) -> None:
    """No type of the sample has so many hard occurrences that a sample of them is judged."""
    result = ranked if rule == "top-k" else sample
    found = rocktok.detect(rocktok.open(SAMPLE), gamma=gamma, eta=eta, rule=rule)
    assert max(row["persistent"] for row in found.rocks) < 500
    assert result.sensitivity is not None
    cell = next(c for c in result.sensitivity if (c["gamma"], c["eta"]) == (gamma, eta))
    assert cell["counts"] == "rocks"
    rocks = {row["token_id"] for row in found.rocks}
    in_use = set(result.rocks)
    assert cell["rocks"] == len(rocks)
    assert cell["shared"] == len(rocks & in_use)
    assert cell["jaccard"] == pytest.approx(len(rocks & in_use) / len(rocks | in_use))
    assert cell["loss_share"] == pytest.approx(sum(row["loss_share"] for row in found.rocks))


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [pytest.param({"eta": 0.05, "gamma": 0.55, "persistence": "recalcitrant"},
                  marks=pytest.mark.exhaustive),
     pytest.param({"tau_r": 20.0, "window": 4}, marks=pytest.mark.exhaustive),
     {"similarity": "jaccard", "partners": "all", "top_k": 7, "pre": 100, "post": 400}],
)  # fmt: skip
def test_options_of_detect(options: dict[str, Any]) -> None:
    log = rocktok.open(SAMPLE)
    found = rocktok.detect(log, **options)
    result = report(log, replicates=100, lifts=False, sequences=4, **options)
    assert result.detect.tokens == found.tokens
    assert set(result.contexts) == set(result.rocks)
    assert result.sensitivity is not None
    setting = (found.params["gamma"], found.params["eta"])
    at = next(c for c in result.sensitivity if (c["gamma"], c["eta"]) == setting)
    assert (at["rocks"], at["jaccard"]) == (len(found.rocks), 1.0)
    assert result.stagnation is not None
    steps = result.stagnation.log["steps"]
    assert (steps[0], steps[-1]) == (options.get("pre", 8), options.get("post", 500))
    autos = [c for c in result.sensitivity if c["eta"] == "auto" and c["rocks"]]
    assert autos


def test_the_setting_in_use_gives_the_rocks_in_use(
    sample: ReportResult, ranked: ReportResult
) -> None:
    for result in (sample, ranked):
        assert result.sensitivity is not None
        cell = next(c for c in result.sensitivity
                    if (c["gamma"], c["eta"], c["null_distance"]) == (0.5, "auto", 16))  # fmt: skip
        assert (cell["rocks"], cell["shared"]) == (len(result.rocks),) * 2
        assert cell["jaccard"] == 1.0
        numbers = [c["counts"] for c in result.sensitivity if c["eta"] != "auto"]
        assert set(numbers) == {"rocks" if result is ranked else "hard and recurring"}


def test_the_cell_in_use_is_what_judging_again_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken from `detect`; in a log without samples nothing else comes out."""
    from rocktok.report import passes
    from rocktok.report.grid import setting_of
    from rocktok.report.sensitivity import rocks_at

    seen = []

    def grid(types: Any, params: Any, shares: Any, gammas: Any) -> list[Any]:
        again = rocks_at(setting_of(params), types, params, shares)
        seen.append(types.token_T[sorted(again)].tolist())
        return []

    monkeypatch.setattr(passes, "grid_rows", grid)
    result = report(SAMPLE, sequences=0, replicates=100, lifts=False)
    assert seen == [sorted(result.rocks)]


def test_contexts_are_retained_occurrences_of_their_rock(sample: ReportResult) -> None:
    text = rocktok.open(SAMPLE)
    tokens: dict[tuple[int, int], int] = {}
    for batch in text.scan("fixed", ["token_id"], steps=[500]):
        columns = (batch.columns[n].tolist() for n in ("sequence_id", "position", "token_id"))
        for sequence, position, v in zip(*columns, strict=True):
            tokens[sequence, position] = v
    assert set(sample.contexts) == set(sample.rocks)
    for v, found in sample.contexts.items():
        rates = [example["rate"] for example in found["examples"]]
        assert rates == sorted(rates, reverse=True)
        assert len(rates) == min(6, found["distinct"])
        for example in found["examples"]:
            sequence, position = example["sequence_id"], example["position"]
            assert tokens[sequence, position] == v
            before = [tokens[sequence, position - k] for k in range(8, 0, -1)
                      if (sequence, position - k) in tokens]  # fmt: skip
            assert example["before"] == [text.vocab.text(u) for u in before]
            assert example["loss_pre"] >= sample.detect.thresholds["tau_pre"]
            assert example["loss_post"] >= sample.detect.thresholds["tau_post"]


def test_contexts_on_the_page_lead_to_texts_on_the_page(sample: ReportResult) -> None:
    assert sample.texts is not None and sample.contexts_in_text is not None
    texts = {one["sequence_id"]: one for one in sample.texts["sequences"]}
    assert set(sample.contexts_in_text) == set(sample.rocks)
    for v, found in sample.contexts_in_text.items():
        for example in found["examples"]:
            text = texts[example["sequence_id"]]
            at = text["positions"].index(example["position"])
            assert (text["token_ids"][at], text["retained"][at]) == (v, 1)
    # Sequences are chosen for this: every rock with a context that recurs leads to one.
    with_contexts = {v for v, found in sample.contexts.items() if found["examples"]}
    assert {v for v, found in sample.contexts_in_text.items() if found["examples"]} == with_contexts


def test_curves_are_means_at_the_steps_shown(sample: ReportResult) -> None:
    losses: dict[tuple[int, int], list[float]] = {}
    for batch in rocktok.open(SAMPLE).scan("fixed", ["step", "token_id", "loss"]):
        columns = (batch.columns[name].tolist() for name in ("step", "token_id", "loss"))
        for step, v, loss in zip(*columns, strict=True):
            losses.setdefault((step, v), []).append(max(loss, 0.0))
    assert list(sample.curves) == list(sample.rocks)
    for v, curve in sample.curves.items():
        assert [one["step"] for one in curve] == [8, 100, 200, 300, 400, 500]
        for one in curve:
            assert one["loss"] == pytest.approx(np.mean(losses[one["step"], v]), rel=1e-6)


def test_sequences_are_chosen_for_rocks_without_a_context_first() -> None:
    def at(*sequences: int) -> Any:
        return {"examples": [{"sequence_id": v} for v in sequences]}

    drawn = DrawnSequences(0, 9)
    drawn.update({"sequence_id": np.arange(100, 109)})
    # 5 holds a context of two rocks; then 7, of the third; then 6, with the most of those left.
    contexts = {1: at(5, 6, 6), 2: at(5, 8), 3: at(7)}
    assert list(choose(drawn, contexts, 6))[:4] == [5, 7, 6, 8]
    few = choose(drawn, contexts, 3)
    assert list(few.items())[:2] == [(5, "holds contexts"), (7, "holds contexts")]
    assert few == {5: "holds contexts", 7: "holds contexts", drawn.result()[0]: "drawn at random"}
    assert choose(drawn, contexts, 0) == {}
    assert list(choose(drawn, {}, 2)) == drawn.result()[:2]


def test_the_text_holds_what_the_log_does(sample: ReportResult) -> None:
    texts = sample.texts
    assert texts is not None
    assert texts["steps"] == [8, 100, 200, 300, 400, 500]
    assert [c["key"] for c in texts["columns"]][:2] == ["loss", "student_logprob"]
    assert len(texts["sequences"]) == 24
    assert texts["total"] == 256
    one = texts["sequences"][0]
    batches = list(rocktok.open(SAMPLE).scan("fixed", ["token_id", "loss", "grad_norm"]))
    for at, step in enumerate(texts["steps"]):
        held = [
            (v, loss, norm)
            for b in batches
            for s, q, v, loss, norm in zip(
                *(b.columns[n] for n in ("step", "sequence_id", "token_id", "loss", "grad_norm")),
                strict=True,
            )
            if s == step and q == one["sequence_id"]
        ]
        assert [v for v, _, _ in held] == one["token_ids"]
        assert one["values"]["loss"][at] == pytest.approx([max(x, 0) for _, x, _ in held], rel=1e-3)
        assert one["values"]["grad_norm"][at] == pytest.approx([n for *_, n in held], rel=1e-3)
    tau = sample.detect.thresholds
    for sequence in texts["sequences"]:
        first, last = sequence["values"]["loss"][0], sequence["values"]["loss"][-1]
        for mark, kept, a, b, v in zip(sequence["persistent"], sequence["retained"], first, last,
                                       sequence["token_ids"], strict=True):  # fmt: skip
            if abs(a - tau["tau_pre"]) > 1e-3 and abs(b - tau["tau_post"]) > 1e-3:
                assert mark == (a >= tau["tau_pre"] and b >= tau["tau_post"])
            assert not kept or (mark and v in sample.rocks)


@pytest.mark.long
def test_all_retained_occurrences_are_marked() -> None:
    whole = report(rocktok.open(SAMPLE), sequences=256, lifts=False, replicates=100)
    assert whole.texts is not None
    assert whole.texts["capped"] is None or len(whole.texts["sequences"]) < 256
    rows = {row["token_id"]: row["retained"] for row in whole.detect.rocks}
    if len(whole.texts["sequences"]) == 256:
        marked = sum(sum(s["retained"]) for s in whole.texts["sequences"])
        assert marked == sum(rows.values())


def test_the_density_counts_every_sequence(sample: ReportResult) -> None:
    density = sample.density
    assert sum(density["type"]) == sum(density["retained"]) == density["sequences"] == 256


@pytest.mark.long
@pytest.mark.exhaustive
def test_threads_change_nothing(files: dict[str, bytes], sample: ReportResult) -> None:
    with Engine(3) as engine:
        again = report_anew(engine)
    assert render_report(again) == files


# -- accumulators --------------------------------------------------------------------------


def _batch(rng: np.random.Generator) -> dict[str, Any]:
    lengths = rng.integers(1, 40, 6)
    gaps = [np.sort(rng.choice(60, n, replace=False)) for n in lengths]
    return {
        "sequence_id": np.repeat(np.sort(rng.choice(1000, 6, replace=False)), lengths),
        "position": np.concatenate(gaps).astype(np.int32),
        "token_id": rng.integers(0, 9, lengths.sum()).astype(np.int32),
        "loss": rng.exponential(1.0, lengths.sum()).astype(np.float32),
    }


def test_losses_by_position_one_by_one() -> None:
    rng = np.random.default_rng(3)
    parts = [_batch(rng) for _ in range(5)]
    rocks = np.array([7, 2])
    found = LossByPosition(rocks, ())
    for part in parts:
        one = LossByPosition(rocks, ())
        one.update(part)
        found.merge(one)
    count, total = np.zeros((2, BINS), int), np.zeros((2, BINS))
    for part in parts:
        for v in np.unique(part["sequence_id"]):
            at = part["sequence_id"] == v
            length = part["position"][at].max() + 1
            for p, t, loss in zip(*(part[n][at] for n in ("position", "token_id", "loss")),
                                  strict=True):  # fmt: skip
                cell = int(t in (2, 7)), int((p + 0.5) / length * BINS + 1e-12)
                count[cell] += 1
                total[cell] += loss
    assert found.count_GB.tolist() == count.tolist()
    np.testing.assert_allclose(found.sum_GB["loss_post"], total, rtol=1e-6)
    table = found.result()
    assert [row["group"] for row in table[::BINS]] == ["others", "rocks"]
    assert all((row["loss_post"] is None) == (row["positions"] == 0) for row in table)


def test_a_draw_of_sequences_is_the_same_however_it_is_cut() -> None:
    rng = np.random.default_rng(4)
    ids = np.sort(rng.choice(10_000, 300, replace=False))
    whole = DrawnSequences(1, 20)
    whole.update({"sequence_id": ids})
    cut = DrawnSequences(1, 20)
    for part in (ids[200:], ids[:70], ids[70:200]):
        one = DrawnSequences(1, 20)
        one.update({"sequence_id": np.repeat(part, 3)})
        cut.merge(one)
    assert cut.result() == whole.result()
    assert set(whole.result()) <= set(ids.tolist())
    assert (cut.seen, len(whole.result())) == (300, 20)
    assert set(cut.rows_S["rows"].tolist()) == {3}


def test_rows_of_sequences_come_back_whole() -> None:
    rng = np.random.default_rng(5)
    parts = [_batch(rng) for _ in range(2)]
    parts[1]["sequence_id"] = parts[1]["sequence_id"] + 5_000
    collect = SequenceRows(("loss",))
    for part in parts:
        one = SequenceRows(("loss",))
        one.update(part)
        collect.merge(one)
    found = collect.result()
    for part in parts:
        for v in np.unique(part["sequence_id"]).tolist():
            at = part["sequence_id"] == v
            for name in ("position", "loss"):
                assert found[v][name].tolist() == part[name][at].tolist()


# -- clusters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, cluster",
    [("\n\n", "whitespace and Markdown"), (" ", "whitespace and Markdown"),
     ("**", "whitespace and Markdown"), ("---\n\n", "whitespace and Markdown"),
     (" 42", "digits"), ("3.14", "digits"), ("So", "discourse markers"),
     (" therefore", "discourse markers"), ("Note", "discourse markers"), (" mugs", "words"),
     ("é", "words"), ("don't", "words"), ("}$.", "delimiters"), ("),", "delimiters"),
     ("\\[", "delimiters"), ("\\textbf", "other"), ("<id 7>", "other"), ("x1", "other"),
     ("", "other")],
)  # fmt: skip
def test_clusters(text: str, cluster: str) -> None:
    assert Clusters().of(text) == cluster


def test_own_clusters_come_first() -> None:
    rules = Clusters({"names": [" ?(Anna|Omar)"], "digits": ["zwei"]})
    assert [rules.of(t) for t in (" Anna", "Omar", "zwei", "2", "So")] == [
        "names", "names", "digits", "digits", "discourse markers"]  # fmt: skip
    assert rules.names == ("names", "digits", *(n for n in NAMES if n != "digits"))
    with pytest.raises(UsageError, match="clusters: '\\(' of 'x' is no regular expression"):
        Clusters({"x": ["("]})


# -- what it writes ------------------------------------------------------------------------


def test_files(files: dict[str, bytes], sample: ReportResult) -> None:
    assert {name for name in files if "/" not in name} == {"report.html", "report.json"}
    assert len([name for name in files if name.startswith("figures/")]) == 15
    assert all(files[n].startswith(b"<?xml") for n in files if n.startswith("figures/"))
    assert len(files["report.html"]) < 3_000_000
    content = json.loads(files["report.json"])
    assert content["schema"] == "rocktok.report/3"
    assert set(content["figures"]) == {n[8:-4] for n in files if n.startswith("figures/")}
    assert content["summary"] == summary(sample)
    assert content["log"]["passes"] == sample.log["passes"]
    assert len(content["tokens"]) == min(500, len(sample.types["token_id"]))
    assert content["figures"]["ccr"]["points"][0]["token"] == sample.detect.rocks[0]["token"]


def test_the_summary_answers_with_the_numbers_of_the_results(sample: ReportResult) -> None:
    points = summary(sample)
    assert len(points) == 6
    share = sum(row["loss_share"] for row in sample.detect.rocks)
    assert f"carry {100 * share:.1f}% of the loss" in points[0]["text"]
    # The page opens with the sentences of `detect`, to the letter.
    assert points[0]["text"].startswith(" ".join(opening(sample.detect)))
    # What noise has as well, as labels permuted within types do, is no finding of the test.
    assert "would reach the lowest of their scores" not in points[0]["text"]
    singled = [row["singled_out"] for row in sample.detect.rocks]
    yes, no = singled.count(True), singled.count(False)
    said = f"singles out the contexts of {yes} of them, not those of {no}"
    assert said in points[0]["text"]
    assert repr(sample.detect.rocks[0]["token"]) in points[1]["text"]
    assert sample.stagnation is not None and sample.stagnation.adjusted is not None
    adjusted = sample.stagnation.adjusted
    assert adjusted["verdict"] == "not comparable"
    support = f"{adjusted['supported']} of {adjusted['measured']} have five other types"
    assert f"The rocks are not comparable with other types: {support}" in points[3]["text"]


@pytest.mark.long
def test_a_list_that_is_cut_is_called_so() -> None:
    result = report(rocktok.open(SAMPLE), top_k=5, sequences=0, lifts=False, replicates=100)
    text = summary(result)[0]["text"]
    assert text.startswith("5 or more of 232 token types stay hard")
    assert "The first 5 by context Rock Score stand at" in text
    with_lifts = report(rocktok.open(SAMPLE), top_k=5, sequences=0, replicates=100)
    assert with_lifts.detect.permuted is not None
    reach = with_lifts.detect.permuted["reach_lowest"]
    said = f"{reach} type{'s' * (reach != 1)} would reach the lowest of their scores"
    assert said in summary(with_lifts)[0]["text"]
    figure = BY_NAME["sensitivity"]
    said = "No cell counts more than the first 5 (--top-k)."
    assert said in figure.caption(figure.numbers(result)).text


@pytest.mark.long
def test_the_same_bytes_in_other_processes(sample: ReportResult, files: dict[str, bytes]) -> None:
    again_in = ("svg", "pdf")
    with Drawing(again_in, jobs=2) as drawing:
        for part in (sample.detect, sample.attribute, sample.stagnation, sample.stability):
            add_figures(drawing, part)
        again = render_report(sample, again_in, drawing)
    # The page links the files of all formats, and is the same but for that.
    link = rb' <a class="download" href="figures/\w+\.pdf"[^>]*>PDF</a>'
    again["report.html"], links = re.subn(link, b"", again["report.html"])
    assert links == 15
    for name, data in files.items():
        assert again[name] == data, name
    assert len([n for n in again if n.endswith(".pdf")]) == 15
    here = Drawing(("pdf",))
    here.add("ccr", json.loads(files["report.json"])["figures"]["ccr"])
    assert here.drawn()["ccr"]["pdf"] == again["figures/ccr.pdf"]
    assert here.drawn()["ccr"]["svg"] == again["figures/ccr.svg"]


@pytest.mark.long
def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = run("report", SAMPLE, "-o", out, "--replicates", "100", "--no-lifts",
                               "--figure-format", "svg,png", "--top-k", "20")  # fmt: skip
    assert code == 0, stderr
    answer, how_sure, path = stdout.splitlines()
    assert answer.startswith("20 rock tokens by context Rock Score carry 52.8% of the loss")
    assert how_sure.startswith("Untested")
    assert path == f"{out / 'report.html'}"
    assert all(line.startswith("rocktok: note: ") for line in stderr.splitlines())
    assert {p.suffix for p in (out / "figures").iterdir()} == {".svg", ".png"}
    assert len(json.loads((out / "report.json").read_text())["figures"]) == 14
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    before = (out / "report.json").stat().st_ino
    code, _, stderr = run("report", SAMPLE, "-o", out)
    assert (code, stderr) == (2, f"rocktok: {out}: exists already; give --force to replace it\n")
    assert (out / "report.json").stat().st_ino == before
    code, _, stderr = run("report", SAMPLE, "-o", out, "-q", "--force", "--no-lifts",
                          "--sequences", "0", "--replicates", "100")  # fmt: skip
    assert (code, stderr) == (0, "")
    assert {p.suffix for p in (out / "figures").iterdir()} == {".svg"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.long
def test_several_logs(tmp_path: Path) -> None:
    logs = [
        write_log(tmp_path / "a", sequences=60),
        write_log(tmp_path / "b", sequences=80),
        SAMPLE,
    ]
    code, _, stderr = run("report", "--compare", *logs, "-o", tmp_path / "out", "--no-lifts",
                          "--replicates", "100")  # fmt: skip
    assert code == 0, stderr
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["schema"] == "rocktok.report-comparison/1"
    each = [set(log["figures"]) for log in content["logs"]]
    # The made logs are noise, in which nothing is a rock.
    assert all({"funnel", "position", "coverage"} <= figures for figures in each)
    assert [len(figures) > 5 for figures in each] == [False, False, True]
    assert len(content["compare"]["pairs"]) == 3
    figures = {p.stem for p in (tmp_path / "out" / "figures").iterdir()}
    # The made logs have no rocks, so that only one log has a density.
    assert {"funnel", "position", "stagnation", "coverage"} <= figures
    assert "density" not in figures
    for log, options in zip(
        content["logs"], (log["params"] for log in content["logs"]), strict=True
    ):
        assert options["detect"]["gamma"] == 0.5
        # A pass for each step that is shown as text.
        assert log["log"]["passes"]["texts"] in (2, 6)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('"prompt_id"') == 24
    table = list(csv.DictReader((tmp_path / "out" / "tables" / "tokens.csv").open()))
    assert len(table) == len(content["compare"]["tokens"])


@pytest.mark.long
def test_logs_that_cannot_be_compared_are_not_read(tmp_path: Path) -> None:
    unlike = {**RUN, "loss": {**RUN["loss"], "exactness": "sampled"}}
    for name, about in (("a", RUN), ("b", unlike)):
        with LogWriter(tmp_path / name, run=about) as writer:
            writer.write(rows(0, range(9)), table="fixed")
    code, text = _refused("--compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert code == 1
    assert "its losses are 'sampled'" in text
    assert not (tmp_path / "out").exists()


# -- logs that lack something --------------------------------------------------------------


def _lacks(path: Path, **options: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    found = report(rocktok.open(path), replicates=100, **options)
    files = render_report(found, ("svg",))
    content = json.loads(files["report.json"])
    page = files["report.html"].decode()
    for row in content["missing"]:
        assert row["why"] and row["remedy"], row
    assert content["summary"][0]["text"]
    assert "<h1>" in page
    return content, files


def test_a_log_with_one_step(tmp_path: Path) -> None:
    content, _ = _lacks(write_log(tmp_path, steps=(10,)))
    what = {row["what"]: row for row in content["missing"]}
    assert "loss of rocks over the steps" in what
    assert what["loss of rocks over the steps"]["why"] == "fixed/ has one complete step, 10"
    assert any(name.startswith("persistence") for name in what)
    assert "rocktok rescore" in what["loss of rocks over the steps"]["remedy"]
    assert set(content["figures"]) == {"funnel", "position", "coverage"}


def test_a_log_without_gradients(tmp_path: Path) -> None:
    content, _ = _lacks(write_log(tmp_path))
    of_the_log = [row for row in content["missing"] if not row["what"].startswith("the figure")]
    assert [row["what"] for row in of_the_log] == ["shares of the gradient norm by token type"]
    assert content["missing"][0]["why"] == "fixed/ has no column grad_norm"
    assert not {"shares", "gradient_norm", "gradient_cosine"} & set(content["figures"])


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_log_without_gradient_sums(tmp_path: Path) -> None:
    bare_copy(SAMPLE, tmp_path / "log", ("fixed", "rollout", "sequences"))
    content, _ = _lacks(tmp_path / "log", lifts=False)
    assert [row["what"] for row in content["missing"]] == ["gradient directions"]
    assert content["figures"]["gradient_norm"]["measure"] == "mean_grad_norm"
    assert "gradient_cosine" not in content["figures"]


def test_a_log_without_vocabulary(tmp_path: Path) -> None:
    content, _ = _lacks(write_log(tmp_path, vocab=False))
    assert "texts and functional clusters of tokens" in {r["what"] for r in content["missing"]}
    assert content["tokens"][0]["token"].startswith("<id ")


def test_rows_by_hand_and_nothing_else(tmp_path: Path) -> None:
    for step in (0, 10):
        write_by_hand(tmp_path, rows(step, range(40)), f"s{step}")
    content, _ = _lacks(tmp_path)
    assert "grouping of sequences by prompt" in {row["what"] for row in content["missing"]}
    assert "stagnation" in content["figures"]


@pytest.mark.long
def test_rollouts_alone(tmp_path: Path) -> None:
    for step in (0, 10):
        write_by_hand(tmp_path, rows(step, range(step * 4, step * 4 + 40)), f"s{step}", "rollout")
    write_by_hand(tmp_path, sequence_rows(range(80)), "all", "sequences")
    content, _ = _lacks(tmp_path)
    assert content["figures"]["stagnation"]["table"] == "rollout"
    assert content["log"]["pre"] is None
    assert "cannot be told" in content["summary"][0]["text"]


def test_too_few_positions_for_a_null(tmp_path: Path) -> None:
    content, _ = _lacks(write_log(tmp_path, sequences=10))
    missing = {row["what"]: row for row in content["missing"]}
    assert "too few positions" in missing["recurring contexts"]["why"]
    assert content["summary"][0]["text"].startswith("Whether any token type is a rock cannot be")
    assert not {"sensitivity", "density", "clusters", "ccr"} & set(content["figures"])


@pytest.mark.long
@pytest.mark.parametrize("zero", [(0, 10), (10,), (0,)])
def test_losses_of_zero(tmp_path: Path, zero: tuple[int, ...]) -> None:
    for step in (0, 10):
        made = rows(step, range(60))
        made["loss"] = made["loss"] * np.float32(step not in zero)
        write_by_hand(tmp_path, made, f"s{step}")
    write_by_hand(tmp_path, sequence_rows(range(60)), "all", "sequences")
    content, _ = _lacks(tmp_path)
    missing = {row["what"]: row for row in content["missing"]}
    why = next(row["why"] for what, row in missing.items() if what.startswith("persistence"))
    assert "is zero or less" in why
    first = content["summary"][0]["text"]
    nothing = "No position of step 10 has any loss"
    no_rocks = "No rocks can be named, as persistence cannot be told"
    assert first.startswith(nothing if 10 in zero else no_rocks)
    assert 10 in zero or "the losses at step 0 is zero or less" in first


@pytest.mark.long
def test_the_remedy_fits_the_options() -> None:
    log = rocktok.open(SAMPLE)
    quick: dict[str, Any] = {"sequences": 0, "lifts": False, "replicates": 100}
    for options, what, remedy in (
        ({"table": "rollout"}, "persistence", "leave out --table rollout"),
        ({"context": "off"}, "persistence", "leave out --context off"),
        ({"post": 8}, "loss of rocks over the steps", "give a later --post"),
    ):
        result = report(log, **options, **quick)
        assert [row["remedy"] for row in result.missing if row["what"].startswith(what)] == [remedy]


def test_figures_that_too_little_was_recorded_for_are_named(tmp_path: Path) -> None:
    content, _ = _lacks(write_log(tmp_path))
    figures = {r["what"]: r for r in content["missing"] if r["what"].startswith("the figure")}
    assert figures["the figure “Change of the loss”"]["remedy"] == "record more prompts"
    assert "delta_kl" not in content["figures"]
    said = "It is unknown whether the types with the most loss learn: the group is empty."
    assert any(said in s["text"] for s in content["summary"])


def test_one_prompt(tmp_path: Path) -> None:
    for step in (0, 10):
        write_by_hand(tmp_path, rows(step, range(30)), f"s{step}")
    one = {**sequence_rows(range(30)), "prompt_id": ["p"] * 30}
    write_by_hand(tmp_path, one, "all", "sequences")
    content, _ = _lacks(tmp_path)
    assert "stability of the rocks under half of the prompts" in {
        r["what"] for r in content["missing"]
    }


# -- wrong input ---------------------------------------------------------------------------


def _refused(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(a) for a in ("report", *arguments)])
    error = done.exception
    assert error is not None
    return getattr(error, "exit_code", getattr(error, "code", 1)), f"{error}{done.output}"


@pytest.mark.long
def test_wrong_arguments(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    out = tmp_path / "out"
    code, text = _refused(log, log, "-o", out)
    assert (code, "2 logs were given; add --compare to show several" in text) == (2, True)
    code, text = _refused("--compare", log, "-o", out)
    assert (code, "--compare needs two logs or more" in text) == (2, True)
    code, text = _refused(log, "-o", out, "--figure-format", "png,jpg")
    assert (code, "'jpg' is not a figure format; choose from png, pdf, svg" in text) == (2, True)
    code, text = _refused(log)
    assert (code, "Missing option '-o'" in text) == (2, True)
    code, text = _refused(tmp_path / "none", "-o", out)
    assert (code, "none" in text) == (1, True)
    code, text = _refused(log, "-o", out, "--rows", "0")
    assert (code, "rows is 0; it must be 1 or more" in text) == (2, True)
    assert not out.exists()


@pytest.mark.parametrize(
    "content, said",
    [("{", "is not JSON"), ("[1]", "does not list the patterns"),
     ('{"a": "b"}', "does not list the patterns"), ('{"a": ["("]}', "no regular expression")],
)  # fmt: skip
def test_wrong_clusters(tmp_path: Path, content: str, said: str) -> None:
    log = write_log(tmp_path / "log")
    (tmp_path / "c.json").write_text(content)
    code, text = _refused(log, "-o", tmp_path / "out", "--clusters", tmp_path / "c.json")
    assert code in (1, 2)
    assert said in text
    assert not (tmp_path / "out").exists()


def test_a_directory_of_other_files_is_left_alone(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "report.json").write_text("{}")
    for force in ((), ("--force",)):
        code, text = _refused(log, "-o", other, *force)
        assert (code, f"{other}: contains other files; give a new directory" in text) == (2, True)
    code, text = _refused(log, "-o", other / "report.json")
    assert (code, "is a file; give a directory" in text) == (2, True)
    assert [p.name for p in other.iterdir()] == ["report.json"]


def test_a_damaged_log_writes_nothing(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    shard = next((log / "fixed").rglob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(bytes(data))
    code, stdout, stderr = run("report", log, "-o", tmp_path / "out")
    assert (code, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert shard.name in stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]


@pytest.mark.long
def test_text_is_capped(sample: ReportResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocktok.report.text_view.VALUES", 10_000)
    found = report(rocktok.open(SAMPLE), lifts=False, replicates=100)
    assert found.texts is not None
    shown = sum(len(s["token_ids"]) * len(s["values"]) * 6 for s in found.texts["sequences"])
    assert 5_000 < shown <= 10_000
    assert "At most 10,000 values are shown" in found.texts["capped"]
    longest = max(len(s["token_ids"]) for s in found.texts["sequences"])
    monkeypatch.setattr("rocktok.report.text_view.VALUES", 6 * 7 * 10)
    monkeypatch.setattr("rocktok.report.text_view.STEPS", 3)
    found = report(rocktok.open(SAMPLE), lifts=False, replicates=100, sequences=1)
    assert found.texts is not None
    assert "Of 6 steps 3 are shown" in found.texts["capped"]
    shown = len(found.texts["sequences"][0]["token_ids"])
    assert shown < longest
    assert f"is shown up to its token {shown} of" in found.texts["capped"]
