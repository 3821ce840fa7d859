"""`compare`: overlap and rank correlation of lists of rocks."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.compare.cutoffs import chance_jaccard
from rocktok.analyses.compare.rankings import Ranking, compare_rankings
from rocktok.analyses.compare.table import render
from rocktok.errors import LogError, UsageError
from rocktok.log.sequences import load_domains
from rocktok.stats.ranks import spearman
from tests.logs import rows, sequence_rows, write_by_hand, write_log
from tests.paths import SAMPLE
from tests.processes import run_command


def ranking(name: str, tokens: str, vocab: str | None = "v", **changes: Any) -> Ranking:
    """Rocks named by letters, best first; an id is the letter's number."""
    held = tuple((ord(t), t, float(100 - i)) for i, t in enumerate(tokens))
    fields = {"ranked_by": "context_rock_score", "about": {}, **changes}
    return Ranking(name, vocab, held, **fields)


def test_by_hand() -> None:
    found = compare_rankings([ranking("one", "abc"), ranking("two", "bad")], {})
    (pair,) = found.pairs
    assert found.matched_by == "token_id"
    assert (pair["shared_count"], pair["jaccard"]) == (2, 0.5)
    assert (pair["shared"], pair["only_first"], pair["only_second"]) == (["a", "b"], ["c"], ["d"])
    # Union a b c d: ranks 1 2 3 4 and 2 1 4 3.
    assert pair["spearman"] == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert [row["token"] for row in found.tokens] == ["a", "b", "c", "d"]
    assert [row["ranks"] for row in found.tokens] == [[1, 2], [2, 1], [3, None], [None, 3]]
    assert found.notes == ()


def test_all_pairs_of_three() -> None:
    found = compare_rankings(
        [ranking(n, t) for n, t in (("x", "ab"), ("y", "ab"), ("z", "cd"))], {}
    )
    assert [(p["first"], p["second"], p["jaccard"]) for p in found.pairs] == [
        ("x", "y", 1.0), ("x", "z", 0.0), ("y", "z", 0.0)
    ]  # fmt: skip
    assert found.pairs[0]["spearman"] == pytest.approx(1)
    assert found.pairs[1]["spearman"] < 0


def test_unlike_vocabularies_are_matched_by_text() -> None:
    other = Ranking("two", "w", ((7, "a", 2.0), (8, "a", 1.0)), "rock_score", {})
    found = compare_rankings([ranking("one", "ab"), other], {})
    assert found.matched_by == "token"
    assert found.pairs[0]["shared"] == ["a"]
    assert found.pairs[0]["rocks_second"] == 1
    assert len(found.notes) == 2
    assert [row["token_id"] for row in found.tokens] == [None, None]


def test_ids_beyond_a_vocabulary_are_nobody_elses(tmp_path: Path) -> None:
    one = Ranking("one", "v", ((23, "<id 23>", 2.0), (1, "a", 1.0)), "rock_score", {})
    two = Ranking("two", "w", ((1, "a", 2.0), (23, "<id 23>", 1.0)), "rock_score", {})
    found = compare_rankings([one, two], {})
    assert (found.matched_by, found.pairs[0]["shared"]) == ("token", ["a"])
    assert found.pairs[0]["jaccard"] == pytest.approx(1 / 3)
    assert [row["ranks"] for row in found.tokens] == [[2, 1], [1, None], [None, 2]]


def test_lists_without_a_vocabulary() -> None:
    sized = [
        ranking(name, tokens, None, about={"path": name, "vocab_size": 500})
        for name, tokens in (("one", "ab"), ("two", "bc"))
    ]
    found = compare_rankings(sized, {})
    assert (found.matched_by, found.pairs[0]["shared_count"]) == ("token_id", 1)
    assert [row["token_id"] for row in found.tokens] == [98, 97, 99]
    assert found.notes == (
        "one: has no vocabulary: tokens are matched by id, and only the equal vocabulary "
        "sizes suggest that ids mean the same",
    )
    # Parts of one log.
    parts = [ranking(name, "ab", None, about={"path": "log"}) for name in ("maths", "code")]
    assert (compare_rankings(parts, {}).matched_by, compare_rankings(parts, {}).notes) == (
        "token_id",
        (),
    )
    with_texts = ranking("three", "ab", about={"path": "three", "vocab_size": 500})
    assert compare_rankings([*sized, with_texts], {}).matched_by == "token_id"
    for other in (
        ranking("wide", "ab", None, about={"path": "wide", "vocab_size": 600}),
        ranking("unknown", "ab", None, about={"path": "unknown"}),
    ):
        with pytest.raises(
            LogError, match=r"^one: has no vocabulary, so its tokens can be matched"
        ):
            compare_rankings([sized[0], other], {})
    unlike = ranking("four", "ab", "w", about={"path": "four", "vocab_size": 500})
    with pytest.raises(LogError, match=r"^one: has no vocabulary"):
        compare_rankings([sized[0], with_texts, unlike], {})


def test_losses_that_were_measured_unlike() -> None:
    lists = [ranking(n, "a", about={"exactness": e}) for n, e in (("x", "exact"), ("y", "sampled"))]
    with pytest.raises(
        LogError, match=r"^y: its losses are 'sampled', those of x 'exact'; give logs of"
    ):
        compare_rankings(lists, {})
    assert compare_rankings([lists[0], ranking("old", "a")], {}).pairs[0]["jaccard"] == 1.0


def test_lists_without_rocks() -> None:
    found = compare_rankings([ranking("one", ""), ranking("two", "")], {"at": [5]})
    assert [row["jaccard"] for row in found.at_k] == [None]
    assert [row["share"] for row in found.replication] == [None, None]
    assert (found.pairs[0]["jaccard"], found.pairs[0]["spearman"]) == (None, None)
    assert found.notes == ("one: no rocks", "two: no rocks")
    with pytest.raises(UsageError, match="two sources or more"):
        compare_rankings([ranking("one", "a")], {})


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=8), st.randoms())
def test_spearman_is_scipys(values: list[int], random: Any) -> None:
    from scipy.stats import rankdata, spearmanr

    other = values.copy()
    random.shuffle(other)
    found = spearman(rankdata(values), rankdata(other))
    if len(set(values)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(values, other).statistic, abs=1e-12)


@settings(deadline=None)
@given(st.permutations("abcdef"), st.integers(0, 6), st.integers(0, 6))
def test_order_of_the_two_does_not_matter(letters: list[str], m: int, n: int) -> None:
    one, two = ranking("one", "".join(letters[:m])), ranking("two", "".join(letters[6 - n :]))
    there, back = (compare_rankings(p, {}).pairs[0] for p in ([one, two], [two, one]))
    assert there["jaccard"] == back["jaccard"]
    assert there["spearman"] == pytest.approx(back["spearman"])
    assert (there["only_first"], there["only_second"]) == (back["only_second"], back["only_first"])


# Logs, domains and the command.


def run(*arguments: str | Path) -> tuple[int, str, str]:
    return run_command("compare", *arguments)


@pytest.mark.long
def test_logs_and_files(tmp_path: Path) -> None:
    rocks = tmp_path / "rocks.json"
    assert run_command("detect", SAMPLE, "-q", "-o", rocks)[0] == 0
    output = tmp_path / "c.json"
    assert run(SAMPLE, rocks, "--top-k", "30", "-q", "-o", output)[0] == 0
    content = json.loads(output.read_text())
    assert content["schema"] == "rocktok.compare/1"
    assert (content["matched_by"], content["pairs"][0]["jaccard"]) == ("token_id", 1.0)
    assert content["pairs"][0]["spearman"] == pytest.approx(1)
    code, printed, said = run(SAMPLE, rocks, "-q")
    assert (code, said) == (0, "")
    # The answer is a sentence, and may be longer than a table is wide.
    assert max(len(line) for line in printed.splitlines()[2:]) <= 80
    assert run(SAMPLE, rocks, "-q", "-o", tmp_path / "c.csv")[0] == 0
    assert pd.read_csv(tmp_path / "c.csv")["jaccard"].tolist() == [1.0]


def with_domains(path: Path, domains: list[str | None]) -> Path:
    for step, name in ((0, "a"), (10, "b")):
        write_by_hand(path, rows(step, range(40)), name)
    facts = {**sequence_rows(range(40)), "domain": domains}
    return write_by_hand(path, facts, table="sequences")


def test_domains_are_the_logs_of_their_sequences(tmp_path: Path) -> None:
    kinds = ["code" if i % 3 else "maths" for i in range(40)]
    kinds[5] = None
    log = rocktok.open(with_domains(tmp_path / "log", kinds))
    domains = load_domains(log)
    assert {k: len(v) for k, v in domains.items()} == {"code": 25, "maths": 14}
    options = {"quantile_pre": 0.3, "quantile_post": 0.3, "all_types": True, "eta": 0.05}
    for name, ids in domains.items():
        for step, shard in ((0, "a"), (10, "b")):
            batch = pd.DataFrame(rows(step, range(40)))
            write_by_hand(tmp_path / name, batch[batch["sequence_id"].isin(ids)], shard)
        facts = pd.DataFrame(sequence_rows(range(40)))
        write_by_hand(tmp_path / name, facts, table="sequences")
        part = rocktok.detect(log, only=ids, **options)
        alone = rocktok.detect(rocktok.open(tmp_path / name), **options)
        assert part.tokens == alone.tokens
        assert part.totals == alone.totals
        assert part.density == alone.density


def test_the_domains_of_a_log(tmp_path: Path) -> None:
    kinds = ["code" if i % 2 else "maths" for i in range(40)]
    log = with_domains(tmp_path / "log", kinds)
    code, printed, _ = run(log, "--by", "domain", "--format", "json", "-q")
    assert code == 0
    assert [row["name"] for row in json.loads(printed)["log"]] == ["code", "maths"]
    assert json.loads(printed)["matched_by"] == "token_id"
    said = "rocktok: --by domain compares the domains of one log, but 2 were given\n"
    assert run(log, log, "--by", "domain") == (2, "", said)


def test_sequences_without_a_domain_and_one_domain_alone(tmp_path: Path) -> None:
    kinds: list[str | None] = ["code" if i % 2 else "maths" for i in range(40)]
    kinds[5] = kinds[6] = None
    code, printed, _ = run(
        with_domains(tmp_path / "two", kinds), "--by", "domain", "--format", "json"
    )
    assert code == 0
    assert json.loads(printed)["notes"][0] == "2 sequences have no domain and are left out"
    one = with_domains(tmp_path / "one", ["maths"] * 40)
    said = "all sequences have the domain 'maths'; a comparison needs two or more domains"
    assert run(one, "--by", "domain") == (1, "", f"rocktok: {one}: {said}\n")


def test_a_log_without_domains(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    with pytest.raises(LogError, match="no sequence has a domain; record it in sequences/"):
        load_domains(rocktok.open(log))
    assert run(log, "--by", "domain")[0] == 1


@pytest.mark.parametrize("content", ['{"schema": "rocktok.detect/1"}', '"x"'])
def test_files_that_are_none_of_detects(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    code, printed, said = run(path, path)
    remedy = "give what `rocktok detect LOG --format json -o FILE` writes"
    assert (code, printed) == (1, "")
    assert said == f"rocktok: {path}: is not a result of `rocktok detect`; {remedy}\n"


def test_lists_without_rocks_have_a_table(tmp_path: Path) -> None:
    found = compare_rankings([ranking("one", "", about=ABOUT), ranking("two", "", about=ABOUT)], {})
    table = render(found)
    assert "Ranks of the tokens, sorted by number of lists\ntoken  A  B\n" + "─" * 11 in table
    assert found.answer() == [
        "None of the 2 lists has a rock, so there is no agreement to measure.",
        "Tokens matched by id; one log is one training run, no interval.",
    ]


@pytest.mark.parametrize(
    ("lists", "answer"),
    [
        (("abc", "bcd"), "A and B share 2 of 3 rocks (Jaccard 0.50)."),
        (("abc", "cd"), "A and B share 1 rock, of 3 and 2 (Jaccard 0.25)."),
        (("abc", ""), "A and B share 0 rocks, of 3 and 0 (Jaccard 0.00)."),
        (("ab", "bc", "bd"), "1 of 4 rocks are in all 3 lists; Jaccard of pairs 0.33 to 0.33."),
    ],
)
def test_the_answer_comes_first(lists: tuple[str, ...], answer: str) -> None:
    rankings = [ranking(f"log {i}", tokens, about=ABOUT) for i, tokens in enumerate(lists)]
    result = compare_rankings(rankings, {})
    assert result.answer()[0] == answer
    # What was compared stands last.
    assert repr(result).splitlines()[-1].startswith(f"{'ABC'[len(lists) - 1]}  ")


ABOUT = {"table": "fixed", "pre": 0, "post": 10, "path": "log"}


def test_long_names_leave_room_for_every_rank() -> None:
    names = [f"/runs/qwen3-4b-math-distill-seed{i}/opd-log-run-{i}" for i in range(30)]
    lists = [ranking(name, "ab", about={**ABOUT, "path": name}) for name in names]
    lines = render(compare_rankings(lists, {})).splitlines()
    assert max(map(len, lines[2:])) <= 80
    assert "A   …en3-4b-math-distill-seed0/opd-log-run-0  fixed/  0, 10      R_ctx" in lines
    assert lines[-1].startswith("AD  …3-4b-math-distill-seed29/opd-log-run-29")
    at = lines.index("Ranks of the tokens, sorted by number of lists")
    headings = [line.split()[1:] for line in lines[at:] if line.startswith("token ")]
    assert len(headings) > 1
    letters = [chr(ord("A") + i) for i in range(26)]
    assert list(chain(*headings)) == [*letters, "AA", "AB", "AC", "AD"]
    ranks = [line.split()[1:] for line in lines[at:] if line.startswith("'b'")]
    assert list(chain(*ranks)) == ["2"] * 30


def test_what_is_said_of_a_file_and_of_what_was_left_out(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    found = rocktok.detect(rocktok.open(log), top_k=2, quantile_pre=0.3, quantile_post=0.3)
    assert len(found.rocks) <= 2
    path = tmp_path / "rocks.json"
    path.write_text(json.dumps({**found.to_dict(), "notes": ["a shard is gone"]}))
    code, printed, said = run(path, path, "--top-k", "3", "--format", "json")
    content = json.loads(printed)
    assert code == 0
    assert content["notes"] == [
        f"{path}: a shard is gone",
        f"{path}: holds {len(found.rocks)} rocks, fewer than the 3 that --top-k compares",
    ]
    assert said == "".join(f"rocktok: note: {note}\n" for note in content["notes"])
    mine = rocktok.open(log).identity()
    assert {name: content["log"][0][name] for name in mine} == mine
    assert (content["log"][0]["exactness"], content["log"][0]["vocab_size"]) == ("exact", 50)


@pytest.mark.parametrize("top_k", ["0", "-2"])
def test_top_k_of_files_is_checked(tmp_path: Path, top_k: str) -> None:
    path = tmp_path / "rocks.json"
    path.write_text("{}")
    said = f"rocktok: --top-k is {top_k}; it must be 1 or more\n"
    assert run(path, path, f"--top-k={top_k}") == (2, "", said)


def test_a_log_that_defaults_cannot_search(tmp_path: Path) -> None:
    for step, name in ((0, "a"), (10, "b")):
        batch = rows(step, range(40))
        batch["loss"] = np.where(np.arange(len(batch["loss"])) % 10, 0, batch["loss"])
        write_by_hand(tmp_path / "log", batch, name)
    code, _, said = run(tmp_path / "log", tmp_path / "log")
    assert code == 1
    assert said.endswith(
        "raise --quantile-pre or give --tau-pre; run "
        f"`rocktok detect {tmp_path / 'log'}` with that option and give its JSON\n"
    )


def test_one_is_not_enough(tmp_path: Path) -> None:
    code, _, said = run(write_log(tmp_path / "log"), "-q")
    assert code == 2
    assert said == (
        "rocktok: compare needs two sources or more; give logs or JSON files of `rocktok detect`\n"
    )


def test_a_vocabulary_is_known_by_its_texts(tmp_path: Path) -> None:
    same = [rocktok.open(write_log(tmp_path / name)).vocab.identity for name in "ab"]
    assert same[0] == same[1] is not None
    assert rocktok.open(with_domains(tmp_path / "c", ["x"] * 40)).vocab.identity is None
    assert np.unique([same[0], rocktok.open(SAMPLE).vocab.identity]).size == 2


# Published lists.

HEADER = (
    "rock_id,rock_token,rock_freq,rock_mean_kl,rock_freq_mean,"
    "ctrl_id,ctrl_token,ctrl_freq,ctrl_mean_kl,ctrl_freq_mean"
)


def published(path: Path, ids: list[int], *, tokens: str = "<id={}>", first: int = 1000) -> Path:
    """A file in the layout of the published scripts, written by us; controls count from `first`."""
    lines = [HEADER]
    for rank, v in enumerate(ids):
        score = 900.0 / (rank + 1)
        lines.append(
            f"{v},{tokens.format(v)},100,{score / 100},{score},{first + rank},x,90,0.1,9.0"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def test_published_lists_by_hand(tmp_path: Path) -> None:
    one = published(tmp_path / "math.csv", list(range(300)))
    # The first 50 share 25, the first 100 share 75, the first 200 share 175.
    two = published(tmp_path / "code.csv", list(range(25, 325)), first=1100)
    found = rocktok.compare(one, two, types=1000)
    assert [(r["k"], r["shared_count"], r["jaccard"]) for r in found.at_k] == [
        (50, 25, 25 / 75), (100, 75, 75 / 125), (200, 175, 175 / 225)
    ]  # fmt: skip
    # Controls of ranks 100 to 199 of the one are those of 0 to 99 of the other.
    assert [r["jaccard_controls"] for r in found.at_k] == [0.0, 0.0, 100 / 300]
    assert found.pairs[0]["rocks_first"] == 100  # as without --top-k elsewhere
    (there, back) = found.replication
    assert (there["by"], there["rocks"], there["seen"], there["replicated"]) == (
        "listed", 100, 100, 75
    )  # fmt: skip
    assert back["share"] == 1.0
    assert found.notes == (
        "tokens are matched by id, and nothing says that ids mean the same in all lists; compare "
        "lists of one tokenizer alone",
    )
    text = repr(found)
    assert "Jaccard index of the first K of each list" in text
    assert "J@50" in text and "chance@200" in text and "controls@100" in text
    plain = repr(rocktok.compare(one, two))
    assert "chance@" not in plain and "(--types)" in plain


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 5))
def test_agreement_by_chance_is_that_of_all_draws(a: int, b: int, more: int) -> None:
    from itertools import combinations

    types = max(a, b) + more
    fixed = set(range(a))
    draws = [set(c) for c in combinations(range(types), b)]
    found = chance_jaccard(a, b, types)
    if not a + b:
        assert found is None
        return
    mean = np.mean([len(fixed & one) / len(fixed | one) for one in draws])
    assert found == pytest.approx(mean)
    assert chance_jaccard(a, b, None) is chance_jaccard(9, 9, 8) is None


def test_texts_tell_two_tokenizers_apart(tmp_path: Path) -> None:
    one = published(tmp_path / "qwen.csv", [1, 2, 3, 4], tokens="w{}")
    same = published(tmp_path / "too.csv", [2, 1, 9, 8], tokens="w{}")
    found = rocktok.compare(one, same)
    assert (found.matched_by, found.pairs[0]["shared_count"]) == ("token_id", 2)
    assert not any("nothing says" in note for note in found.notes)
    path = tmp_path / "llama.csv"
    path.write_text("rock_id,rock_token\n1,w3\n2,other\n3,w1\n")
    found = rocktok.compare(one, path)
    assert (found.matched_by, found.pairs[0]["shared_count"]) == ("token", 2)
    assert any("holds 3 tokens" in note for note in found.notes)
    path.write_text("rock_id,rock_token\n1,w3\n2,other\n3,\n")
    with pytest.raises(LogError, match=r"llama.csv: has tokens without a text, and the ids of"):
        rocktok.compare(one, path)


def test_a_published_list_beside_a_log(tmp_path: Path) -> None:
    """The log knows how hard every type is: the list's rocks replicate by that."""
    log = rocktok.open(SAMPLE)
    found = rocktok.detect(log, all_types=True, replication=False)
    held = {r["token_id"]: r["hardness"] for r in found.tokens
            if r["hardness"] is not None and (r["prompts_held"] or 0) >= 3}  # fmt: skip
    ids = [*sorted(held)[:60], 1021, 1020]
    result = rocktok.compare(published(tmp_path / "a.csv", ids), log, at=[10])
    there, back = result.replication
    hard = [held[v] >= 1.5 for v in ids if v in held]
    assert (there["by"], there["seen"], there["replicated"]) == ("hardness", len(hard), sum(hard))
    assert (back["by"], back["rocks"], back["seen"]) == ("listed", 30, 30)
    assert [row["k"] for row in result.at_k] == [10]
    assert result.at_k[0]["jaccard_chance"] is None  # the file does not say of how many
    twice = rocktok.compare(log, log, at=[10])
    assert twice.at_k[0]["jaccard_chance"] == pytest.approx(chance_jaccard(10, 10, 147))
    assert twice.replication[0]["share"] == 1.0


def test_types_of_some_alone_do_not_tell_of_replication() -> None:
    """A file with the best types alone would say that all of them are hard."""
    found = rocktok.detect(rocktok.open(SAMPLE), top_k=None, replication=False).to_dict()
    assert Ranking.of("some", found).hardness is None
    every = rocktok.detect(rocktok.open(SAMPLE), all_types=True, replication=False).to_dict()
    assert len(Ranking.of("all", every).hardness or {}) > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); {wanted}"),
        ("", "has no column rock_id (its columns: none); {wanted}"),
        ("id,score\n1,2\n", "has no column rock_id (its columns: id, score); {wanted}"),
        ("rock_id\n", "holds no rows; {wanted}"),
        ('rock_id\n"3,070"\n', "row 1: rock_id is '3,070', which is no token id; correct it"),
        ("rock_id\n1\nnan\n", "row 2: rock_id is 'nan', which is no token id; correct it"),
        ("rock_id,rock_token\n1,a\n,b\n", "row 2: rock_id is '', which is no token id; correct it"),
        ("rock_id\n-1\n", "row 1: rock_id is '-1', which is no token id; correct it"),
        ("rock_id\n7.5\n", "row 1: rock_id is '7.5', which is no token id; correct it"),
        ("rock_id\n9999999999\n", "row 1: rock_id is '9999999999', which is no token id; correct "
         "it"),
        ("rock_id,ctrl_id\n1,x\n", "row 1: ctrl_id is 'x', which is no token id; correct it"),
        ("rock_id\n7\n8\n7.0\n", "row 3: rock_id 7 stands in row 1, too; leave one out"),
        ("rock_id,rock_freq_mean\n1,much\n", "row 1: rock_freq_mean is 'much', not a number; "
         "correct it"),
        (b"\xff\xfe\x00", "is not a CSV file ('utf-8' codec can't decode byte 0xff in position 0: "
         "invalid start byte); {wanted}"),
    ],
)  # fmt: skip
def test_published_files_that_are_none(
    content: str | bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    good = published(tmp_path / "b.csv", [1, 2])
    wanted = "give a CSV file with a column rock_id, the best first"
    assert run(path, good) == (1, "", f"rocktok: {path}: {message.format(wanted=wanted)}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", "0,5"], "rocktok: --at is 0,5; give numbers of 1 or more\n"),
        (["--types", "0"], "rocktok: --types is 0; it must be 1 or more\n"),
    ],
)
def test_wrong_numbers(options: list[str], message: str, tmp_path: Path) -> None:
    path = published(tmp_path / "a.csv", [1, 2])
    assert run(path, path, *options) == (2, "", message)


def test_rows_that_are_not_sorted_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("rock_id,rock_freq_mean\n1,2.0\n2,3.0\n")
    found = rocktok.compare(path, published(tmp_path / "b.csv", [2, 1]), at=[1])
    assert found.at_k[0]["jaccard"] == 0.0  # as the file has them
    assert any("not sorted by rock_freq_mean" in note for note in found.notes)


# --- JSON lists of ids -------------------------------------------------------------------------


def test_a_json_list_of_ids_is_a_published_list(tmp_path: Path) -> None:
    """As the published scripts write rocks and controls for training."""
    rocks, controls, table = (tmp_path / n for n in ("rock.json", "random.json", "rocks.csv"))
    rocks.write_text("[5, 3, 9]")
    controls.write_text("[3, 8, 7]")
    table.write_text("rock_id\n5\n3\n9\n")
    found = rocktok.compare(rocks, controls, table)
    assert [row["shared_count"] for row in found.pairs] == [1, 3, 1]
    assert [row["jaccard"] for row in found.at_k if row["k"] == 50] == [0.2, 1.0, 0.2]
    assert found.pairs[1]["spearman"] == 1.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds no ids; give a JSON list of token ids, the best first"),
        ("[1, 2, 1]", "holds an id twice"),
        ("[1, -2]", "-2 is no token id"),
        ('["a"]', "'a' is no token id"),
        ("[1.5]", "1.5 is no token id"),
        ("[[1]]", "[1] is no token id"),
        ("[1, 2", "is not JSON"),
        ("3", "is not a result of `rocktok detect`"),
    ],
)
def test_what_is_no_list_of_ids(tmp_path: Path, content: str, said: str) -> None:
    path, other = tmp_path / "rock.json", tmp_path / "other.json"
    path.write_text(content)
    other.write_text("[1]")
    with pytest.raises(LogError) as error:
        rocktok.compare(path, other)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
