"""`detect` as a whole command, against an earlier checkout and against DuckDB.

`python tests/benchmarks/detect_whole.py DIRECTORY --before CHECKOUT` runs, in turns, `detect` of
the checkout and ours, without and with replication, and with lifts, on two steps of `--two` million
rows (3). With `--duckdb PYTHON` (an interpreter that has DuckDB), in turns, `detect --context off`
on one step of `--one` million rows (100), as the recorder writes it and as if by hand, without
manifests, and SQL for the same sums, with and without the distinct prompts of the same types. Logs
are made in the directory, or those there are taken. Wall time, processor time and peak memory of
processes, imports included; ratios are medians of pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORES = len(os.sched_getaffinity(0))

SQL = """
import duckdb, sys
log = sys.argv[1]
rows, sequences = (f"read_parquet('{log}/{t}/**/*.parquet')" for t in ("rollout", "sequences"))
con = duckdb.connect()
con.execute("set threads = " + sys.argv[2])
con.execute(
    "create table sums as select token_id, count(*) n, sum(loss::double) x, "
    f"sum(loss::double * loss::double) from {rows} group by token_id"
)
if sys.argv[3] == "sums":
    sys.exit()
shown = "select token_id from sums order by x desc limit 100"
con.execute(
    f"select token_id, count(distinct prompt_id) from {rows} join {sequences} using (sequence_id) "
    f"where token_id in ({shown}) group by token_id"
).fetchall()
"""

Command = Sequence[str | Path]

#: Seconds by the clock, of the processor, and MB.
Costs = tuple[float, float, float]


def cost(command: Command, checkout: Path = ROOT) -> Costs:
    """Of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: exit code {os.waitstatus_to_exitcode(status)}")
    seconds = time.perf_counter() - began
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def report(rounds: list[dict[str, Costs]], base: str) -> None:
    """Print medians, and ratios to the base within the rounds."""
    print("| way | seconds | of the processor | MB | ratio, clock | ratio, processor |")
    for name in rounds[0]:
        medians = (statistics.median(costs[name][k] for costs in rounds) for k in range(3))
        seconds, processor, peak = medians
        ratios = []
        for k in range(2):
            of_k = sorted(costs[name][k] / costs[base][k] for costs in rounds)
            ratios.append(f"{statistics.median(of_k):.2f} ({of_k[0]:.2f} to {of_k[-1]:.2f})")
        print(f"| {name} | {seconds:.2f} | {processor:.2f} | {peak:.0f} | {' | '.join(ratios)} |")


def log(path: Path, *options: str) -> Path:
    """A log of `large_logs.py`, made where there is none."""
    if not path.exists():
        maker = Path(__file__).with_name("large_logs.py")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, maker, path, *options], check=True, env=environment)
    return path


def by_hand(path: Path) -> Path:
    """The same shards in a directory of their own, which nothing vouches for."""
    bare = path.with_name(f"{path.name}-by-hand")
    for shard in sorted(path.glob("*/**/*.parquet")):
        link = bare / shard.relative_to(path)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(shard, link)
    return bare


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--duckdb", type=Path)
    parser.add_argument("--two", type=int, default=3)
    parser.add_argument("--one", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    detect = [sys.executable, "-m", "rocktok", "detect"]
    if asked.before is not None:
        rows = ("--rows", str(asked.two * 1_000_000), "--shards", "4")
        shape = (*rows, "--table", "fixed", "--steps", "0", "100")
        two = log(asked.directory / f"two{asked.two}", *shape)
        ways: dict[str, tuple[Command, Path]] = {
            "before": ([*detect, two], asked.before),
            "without replication": ([*detect, two, "--no-replication"], ROOT),
            "with replication": ([*detect, two], ROOT),
            "with lifts": ([*detect, two, "--lifts"], ROOT),
        }
        for command, checkout in ways.values():  # compiled code is loaded, not made
            cost(command, checkout)
        report([{n: cost(*way) for n, way in ways.items()} for _ in range(asked.rounds)], "before")
    if asked.duckdb is not None:
        one = log(asked.directory / f"one{asked.one}", "--rows", str(asked.one * 1_000_000))
        off = ["--context", "off"]
        commands: dict[str, Command] = {
            "DuckDB": [asked.duckdb, "-c", SQL, one, str(CORES), "both"],
            "DuckDB, sums alone": [asked.duckdb, "-c", SQL, one, str(CORES), "sums"],
            "detect --context off": [*detect, one, *off],
            "detect --context off, by hand": [*detect, by_hand(one), *off],
        }
        cost(commands["detect --context off"])
        report([{n: cost(c) for n, c in commands.items()} for _ in range(asked.rounds)], "DuckDB")


if __name__ == "__main__":
    main()
