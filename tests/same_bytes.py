"""Whether a change left every output as it was: all commands on fixed logs, byte for byte.

    python tests/same_bytes.py logs DIR           the logs: the sample, two planted, one of rollouts
    python tests/same_bytes.py run DIR OUT        every command and format
    python tests/same_bytes.py compare OUT OTHER  what differs; exit code 1 if anything does

The logs are made once; `run` is done before the change and after it.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
LOGS = ("sample", "planted", "null", "rollouts")
FORMATS = ("table", "json", "csv", "parquet")

#: Name → arguments after LOG. Everything but `report` and `compact` is written in every format.
ANALYSES = {
    "info": ["info"],
    "info-verify": ["info", "--verify"],
    "detect": ["detect"],
    "detect-off": ["detect", "--context", "off"],
    "detect-all": ["detect", "--all"],
    "detect-lifts": ["detect", "--lifts", "--top-k", "20"],
    "detect-recalcitrant": ["detect", "--persistence", "recalcitrant", "--similarity", "jaccard"],
    "detect-eta": [
        "detect",
        "--eta",
        "2",
        "--gamma",
        "0.3",
        "--tau-pre",
        "1",
        "--tau-post",
        "same",
    ],
    "attribute": ["attribute"],
    "attribute-all": ["attribute", "--all", "--group-size", "12"],
    "stagnation": ["stagnation"],
    "stagnation-all": ["stagnation", "--all"],
    "stagnation-last": ["stagnation", "--select-at", "last"],
    "controls": ["controls"],
    "stability": ["stability"],
    "lenses": ["lenses"],
    "compare-domain": ["compare", "--by", "domain"],
}


def make_logs(folder: Path) -> None:
    """The logs that `run` reads."""
    from tests import gradient_logs, planted

    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "sample_data/opd", folder / "sample")
    planted.planted_log(1, "easy").write(folder / "planted")
    log = planted.null_log(2)
    frame = log.rows.copy()
    noise = np.random.default_rng(3)
    frame["grad_norm"] = (frame["loss"] * noise.uniform(0.5, 1.5, len(frame))).astype(np.float32)
    log.rows = frame
    log.write(folder / "null")
    gradient_logs.write(folder / "rollouts", gradient_logs.frame(4), table="rollout")


def run_all(logs: Path, out: Path) -> None:
    """Every command on every log, each output and its messages in a file of its own."""
    out.mkdir(parents=True)
    out = out.resolve()
    calls = []
    for log in LOGS:
        calls += [
            (f"{log}/{name}.{form}", [first, log, *others, "--format", form])
            for name, (first, *others) in ANALYSES.items()
            for form in (FORMATS[:2] if first == "info" else FORMATS)
        ]
        calls.append((f"{log}/report", ["report", log, "-o", str(out / log / "report.files")]))
        calls.append((f"{log}/compact", ["compact", log, "-o", str(out / log / "compact.files")]))
    calls += [
        (f"pairs/compare.{form}", ["compare", "sample", "planted", "--format", form])
        for form in FORMATS
    ]
    for log in (*LOGS, "pairs"):
        (out / log).mkdir()
    with ThreadPoolExecutor(2) as pool:
        for name in pool.map(lambda call: _run(logs, out, *call), calls):
            print(name, flush=True)


def _run(logs: Path, out: Path, name: str, arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rocktok", *arguments], capture_output=True, cwd=logs
    )
    messages = done.stderr.replace(str(out).encode(), b"OUT")
    (out / f"{name}.out").write_bytes(done.stdout.replace(str(out).encode(), b"OUT"))
    (out / f"{name}.err").write_bytes(messages + f"exit code {done.returncode}\n".encode())
    return name


def differences(one: Path, two: Path) -> list[str]:
    """Files, as paths below both, that only one has or whose bytes differ."""
    names = {
        str(p.relative_to(root)) for root in (one, two) for p in root.rglob("*") if p.is_file()
    }
    same, *unlike = filecmp.cmpfiles(one, two, sorted(names), shallow=False)
    print(f"{len(same)} files are the same")
    return sorted(name for group in unlike for name in group)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("logs", "run", "compare"))
    parser.add_argument("paths", nargs="+", type=Path)
    given = parser.parse_args()
    if given.what == "logs":
        make_logs(*given.paths)
    elif given.what == "run":
        run_all(*given.paths)
    else:
        unlike = differences(*given.paths)
        print(*unlike, sep="\n")
        sys.exit(bool(unlike))


if __name__ == "__main__":
    main()
