"""Bad input: one line that names the file and the remedy, exit code 1, nothing written.

Every command that reads a log meets every damaged log; the message is compared to the letter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rocktok.log import LogWriter
from rocktok.schema import SCHEMA_VERSION as LATEST
from tests.logs import RUN, rows, sequence_rows, shards, write_by_hand, write_log
from tests.processes import run_command as run

#: The command line in a process of its own, without the minute of waiting for absent files.
_CALL = """
from rocktok.log import opening
opening.MISSING_WAIT = 0.0
from rocktok.cli import run
run()
"""

RESTORE = "restore it from a copy, or go on without it with --allow-missing"


def missing(path: Path) -> str:
    return f"{path}/nowhere: no such directory; give the directory of a log"


def empty(path: Path) -> str:
    (path / "nowhere").mkdir()
    return (
        f"{path}/nowhere: no shards in rollout/ or fixed/; it is not a log, or nothing has been "
        "recorded yet"
    )


def truncated(path: Path) -> str:
    target = shards(write_log(path / "nowhere"))[0]
    size = target.stat().st_size
    target.write_bytes(target.read_bytes()[:-40])
    return (
        f"{target}: has {size - 40} bytes where its manifest says {size}: truncated or "
        f"overwritten; {RESTORE}"
    )


def truncated_by_hand(path: Path) -> str:
    target = shards(write_by_hand(path / "nowhere", rows(0, [0])))[0]
    target.write_bytes(target.read_bytes()[:-40])
    return f"{target}: no Parquet footer at the end: truncated; {RESTORE}"


def flipped_bit_in_a_page(path: Path) -> str:
    target = shards(write_log(path / "nowhere"))[0]
    data = bytearray(target.read_bytes())
    loss = pq.read_metadata(target).row_group(0).column(4)
    assert loss.path_in_schema == "loss"
    data[loss.data_page_offset + loss.total_compressed_size - 9] ^= 4
    target.write_bytes(bytes(data))
    return (
        f"{target}: row group 0, column loss: damaged (its CRC32 is not the manifest's); {RESTORE}"
    )


def flipped_bit_in_a_page_by_hand(path: Path) -> str:
    target = path / "nowhere" / "fixed" / "a.parquet"
    target.parent.mkdir(parents=True)
    table = pa.Table.from_pandas(pd.DataFrame(rows(0, [0])), preserve_index=False)
    pq.write_table(table, target, write_page_checksum=True, use_dictionary=False)
    data = bytearray(target.read_bytes())
    loss = pq.read_metadata(target).row_group(0).column(4)
    data[loss.data_page_offset + loss.total_compressed_size - 9] ^= 4
    target.write_bytes(bytes(data))
    return f"{target}: row group 0, column loss: damaged (could not verify page integrity, CRC"


def flipped_bit_in_the_footer(path: Path) -> str:
    target = shards(write_log(path / "nowhere"))[0]
    data = bytearray(target.read_bytes())
    data[-60] ^= 1
    target.write_bytes(bytes(data))
    return f"{target}: damaged footer (its CRC32 is not the manifest's); {RESTORE}"


def newer_shard(path: Path) -> str:
    target = path / "nowhere" / "fixed" / "a.parquet"
    target.parent.mkdir(parents=True)
    table = pa.Table.from_pandas(pd.DataFrame(rows(0, [0])), preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"rocktok.schema_version": "7"}), target)
    return _newer(target, 7)


def newer_run(path: Path) -> str:
    target = write_log(path / "nowhere") / "run.json"
    newer = {**json.loads(target.read_text()), "schema_version": LATEST + 1, "crc32": None}
    target.write_text(json.dumps(newer))
    return _newer(target, LATEST + 1)


def _newer(target: Path, version: int) -> str:
    return (
        f"{target}: schema version {version}, but this rocktok reads versions up to {LATEST}; "
        "upgrade rocktok"
    )


def _by_hand(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    early, late = rows(0, range(10)), rows(10, range(10))
    change(early)
    (path / "nowhere").mkdir()
    (path / "nowhere" / "run.json").write_text(json.dumps(RUN))
    write_by_hand(path / "nowhere", late, "b")
    # pandas would write NaN as null, which is another message.
    pq.write_table(pa.table(early), path / "nowhere" / "fixed" / "a.parquet")
    return path / "nowhere" / "fixed" / "a.parquet"


def nan_loss(path: Path) -> str:
    target = _by_hand(path, lambda batch: batch["loss"].__setitem__(17, np.nan))
    return f"{target}: row group 0, row 17, column loss: nan is not a finite number"


def infinite_loss(path: Path) -> str:
    target = _by_hand(path, lambda batch: batch["loss"].__setitem__(5, np.inf))
    return f"{target}: row group 0, row 5, column loss: inf is not a finite number"


def negative_loss(path: Path) -> str:
    target = _by_hand(path, lambda batch: batch["loss"].__setitem__(5, -0.5))
    return (
        f"{target}: row group 0, row 5, column loss: -0.5 is below −0.0001: an exact reverse KL "
        "is never negative; if the losses are not exact, state in run.json how they were computed: "
        '{"loss": {"exactness": "sampled"}}, topk or truncated'
    )


def negative_token(path: Path) -> str:
    target = _by_hand(path, lambda batch: batch["token_id"].__setitem__(3, -100))
    return (
        f"{target}: row group 0, row 3, column token_id: -100 is negative; padding is never "
        "recorded"
    )


def token_beyond_the_vocabulary(path: Path) -> str:
    target = _by_hand(path, lambda batch: batch["token_id"].__setitem__(3, 50))
    return (
        f"{target}: row group 0, row 3, column token_id: 50 is outside the vocabulary of 50 "
        "(run.json)"
    )


def unordered(path: Path) -> str:
    def swap(batch: dict[str, np.ndarray]) -> None:
        for values in batch.values():
            values[[4, 5]] = values[[5, 4]]

    target = _by_hand(path, swap)
    return (
        f"{target}: row group 0, row 5, column position: out of order (step 0, sequence 0, "
        "position 4 after 0, 0, 5); sort the shard by step, sequence_id, position"
    )


def duplicate_row(path: Path) -> str:
    target = _by_hand(path, lambda batch: batch["position"].__setitem__(1, 0))
    return (
        f"{target}: row group 0, row 1, column position: duplicate of the row before (step 0, "
        f"sequence 0, position 0), both in {target}; remove one"
    )


def duplicate_shard(path: Path) -> str:
    log = path / "nowhere"
    write_by_hand(log, rows(0, range(5)), "a")
    write_by_hand(log, rows(0, range(4, 9)), "b")
    write_by_hand(log, rows(10, range(9)), "c")
    return (
        f"{log}/fixed/a.parquet and {log}/fixed/b.parquet: both hold sequence 4 at step 0; keep "
        "each sequence of a step in one shard, its rows once"
    )


def listed_but_gone(path: Path) -> str:
    target = shards(write_log(path / "nowhere"))[1]
    target.unlink()
    return f"{target}: is listed in a manifest but missing; {RESTORE}"


def two_runs(path: Path) -> str:
    log = write_log(path / "nowhere")
    other = write_log(path / "other", steps=(20,))
    stray = shards(other)[0]
    target = log / "fixed" / "stray.parquet"
    target.write_bytes(stray.read_bytes())
    ids = [json.loads((p / "run.json").read_text())["run_id"] for p in (other, log)]
    return (
        f"{target}: belongs to run {ids[0]}, but {log}/run.json is of run {ids[1]}; keep each "
        "run in its own directory"
    )


def missing_column(path: Path) -> str:
    batch = rows(0, [0])
    del batch["loss"]
    write_by_hand(path / "nowhere", batch)
    return (
        f"{path}/nowhere/fixed/a.parquet: has no column loss; every shard of the table must have it"
    )


def null_value(path: Path) -> str:
    frame = pd.DataFrame(rows(0, [0]))
    frame["token_id"] = frame["token_id"].astype("Int32").mask(frame["position"] == 3)
    write_by_hand(path / "nowhere", frame)
    write_by_hand(path / "nowhere", rows(10, [0]), "b")
    return (
        f"{path}/nowhere/fixed/a.parquet: row group 0, row 3, column token_id: null or NaN; every "
        "row must have a value"
    )


@pytest.mark.parametrize("command", ["detect", "info"])
@pytest.mark.parametrize(
    "damage",
    [
        missing,
        empty,
        truncated,
        truncated_by_hand,
        flipped_bit_in_a_page,
        flipped_bit_in_a_page_by_hand,
        flipped_bit_in_the_footer,
        newer_shard,
        newer_run,
        nan_loss,
        infinite_loss,
        negative_loss,
        negative_token,
        token_beyond_the_vocabulary,
        unordered,
        duplicate_row,
        duplicate_shard,
        listed_but_gone,
        two_runs,
        missing_column,
        null_value,
    ],
)
def test_damage_is_one_line_that_names_the_file(
    damage: Callable[[Path], str], command: str, tmp_path: Path
) -> None:
    message = damage(tmp_path)
    output = tmp_path / "out.json"
    extra = ["--verify"] if command == "info" else []
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, printed, said = run(command, tmp_path / "nowhere", "-o", output, *extra)
    complaint = [line for line in said.splitlines() if not _is_note(line)]
    assert code == 1
    assert len(complaint) == 1
    assert complaint[0].startswith(f"rocktok: {message}")
    if not message.endswith("CRC"):
        assert complaint[0] == f"rocktok: {message}"
    assert printed == ""
    if command == "detect":
        assert not output.exists()
    output.unlink(missing_ok=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def _is_note(line: str) -> bool:
    return line.startswith("rocktok: note: ") or "listed but absent; waiting" in line


def test_one_step_with_context_required(tmp_path: Path) -> None:
    write_log(tmp_path / "log", steps=(4,))
    code, printed, said = run("detect", tmp_path / "log", "--context", "required")
    assert (code, printed) == (1, "")
    assert said == (
        f"rocktok: {tmp_path}/log: context is required, but fixed/ has no complete step before "
        "step 4; record with fixed_sequences, or score saved checkpoints with `rocktok rescore`\n"
    )


def test_rollouts_only_with_context_required(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", run=RUN) as writer:
        writer.write(sequence_rows(range(3)), table="sequences")
        writer.write(rows(0, range(3)))
    code, _, said = run("detect", tmp_path / "log", "--context", "required")
    assert code == 1
    assert said == (
        f"rocktok: {tmp_path}/log: context is required, but rollout/, where every step has its "
        "own text, is all that the log has; record with fixed_sequences, or score "
        "saved checkpoints with `rocktok rescore`\n"
    )


def test_text_that_differs_between_the_steps(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_by_hand(log, rows(0, range(5)), "a")
    other = rows(10, range(5))
    other["token_id"][30] += 1
    write_by_hand(log, other, "b")
    code, printed, said = run("detect", log, "-q")
    assert (code, printed) == (1, "")
    assert said == (
        f"rocktok: {log}/fixed/b.parquet: sequence 2 at step 10 is not the text that "
        f"{log}/fixed/a.parquet has at step 0; a sequence_id in fixed/ must mean the same text at "
        "every step\n"
    )


def test_most_losses_zero(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for step, name in ((0, "a"), (10, "b")):
        batch = rows(step, range(5))
        batch["loss"][:55] = 0
        write_by_hand(log, batch, name)
    code, _, said = run("detect", log, "-q")
    assert code == 1
    assert said == (
        f"rocktok: {log}: a share of 0.8 of the losses at step 0 is zero or less, and so "
        "is the threshold; raise --quantile-pre or give --tau-pre\n"
    )


def test_an_unknown_step_lists_those_there_are(tmp_path: Path) -> None:
    write_log(tmp_path / "log", steps=(0, 10, 20))
    code, _, said = run("detect", tmp_path / "log", "--post", "15")
    assert code == 1
    assert said == (
        f"rocktok: {tmp_path}/log: fixed/ has no step 15; --post must be one of 0, 10, 20\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--gamma", "2"],
            "rocktok: --min-similarity is 2.0; it must be 'auto', or above 0 and at most 1\n",
        ),
        (
            ["--eta", "7"],
            "rocktok: --min-partner-share is 7.0; it must be 'auto', or from 0 to 1\n",
        ),
        (
            ["--pre", "10", "--post", "0"],
            "rocktok: --pre is step 10, post is step 0; it must be the earlier one\n",
        ),
        (
            ["--similarity", "embedding"],
            "rocktok: --embeddings: give both similarity 'embedding' and an embedding matrix, or "
            "neither\n",
        ),
    ],
)
def test_wrong_options_are_usage_errors(arguments: list[str], message: str, tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    code, printed, said = run("detect", tmp_path / "log", *arguments)
    assert (code, printed, said) == (2, "", message)


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    output = tmp_path / "rocks.json"
    output.write_text("mine")
    code, _, said = run("detect", tmp_path / "log", "-q", "-o", output)
    assert code == 2
    assert said == f"rocktok: {output}: exists already; give --force to replace it\n"
    assert output.read_text() == "mine"
    assert run("detect", tmp_path / "log", "-q", "-o", output, "--force")[0] == 0
    assert json.loads(output.read_text())["schema"] == "rocktok.detect/3"


def test_allow_missing_goes_on_and_counts(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", steps=(0, 10, 20))
    target = shards(log)[1]
    target.unlink()
    code, printed, said = run("detect", log, "--allow-missing", "--format", "json")
    assert code == 0
    assert json.loads(printed)["log"]["skipped_shards"] == 1
    assert f"rocktok: note: {target}: left out: gone\n" in said


#: Without bytecode: Python would leave cut-off .pyc files behind, and choke on them ever after.
FULL = """
import resource, sys
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
"""


def run_on_full_disk(*arguments: str | Path) -> tuple[int, str]:
    """The command where no file can grow beyond 512 bytes: writes fail as on a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", FULL + _CALL, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "suffix",
    [
        "json",
        *(
            pytest.param(s, marks=[pytest.mark.long, pytest.mark.exhaustive])
            for s in ("csv", "parquet", "txt")
        ),
    ],
)
def test_a_full_disk_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    log = write_log(tmp_path / "log")
    output = tmp_path / f"rocks.{suffix}"
    options = ["--all", "--quantile-pre", "0.3", "--quantile-post", "0.3"]
    said = f"rocktok: {output}: cannot be written (File too large)\n"
    assert run_on_full_disk("detect", log, "-q", *options, "-o", output) == (1, said)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    output.write_text("mine")
    assert run_on_full_disk("detect", log, "-q", *options, "-o", output, "--force") == (1, said)
    assert output.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", output.name]


def test_a_full_disk_leaves_no_half_log(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    output = tmp_path / "compact"
    code, said = run_on_full_disk("compact", log, "-o", output)
    assert (code, said) == (1, f"rocktok: {output}: cannot be written (File too large)\n")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["detect", "-q"], ["info"], ["info", "--format", "json"]])
def test_a_full_disk_behind_a_pipe(tmp_path: Path, command: list[str]) -> None:
    log = write_log(tmp_path / "log")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", _CALL, *command, str(log)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = "rocktok: the output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, said)
