"""Work given to other threads while the analyses beside this one go on."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import rocktok
from rocktok.analyses.run import Run
from rocktok.engine.passes import Engine
from rocktok.errors import DataError
from rocktok.stats.sums import TypeSums
from tests.logs import write_log

#: Seconds after which a test fails that waits for what never comes.
LONG = 60


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("aside") / "log", sequences=6)


@pytest.mark.parametrize("main_works", [True, False])
def test_others_go_on_while_one_works(log: Path, main_works: bool) -> None:
    seen = threading.Event()
    with Engine(2) as engine:
        run = Run.begin(rocktok.open(log), engine, "fixed", 0)

        def works() -> bool:
            return engine.aside(lambda: seen.wait(LONG))

        def others() -> bool:
            seen.set()
            return True

        first, second = (works, others) if main_works else (others, works)
        companion = engine.start(second)
        if main_works:
            assert first()
        else:
            # The companion begins, and sleeps over its work, when a pass is asked for.
            other = engine.start(others)
            engine.run(run.source(10), TypeSums(("loss",)))
            assert other.result()
        assert companion.result()


def test_no_pass_is_made_while_one_works(log: Path) -> None:
    """Whoever asks waits for those who work: they may ask for the same rows."""
    asked = threading.Event()
    with Engine(2) as engine:
        run = Run.begin(rocktok.open(log), engine, "fixed", 0)

        def total() -> float:
            sums = TypeSums(("loss",))
            engine.run(run.source(10), sums)
            return float(sums.sum_V["loss"].sum())

        def asks() -> float:
            asked.set()
            return total()

        def works() -> float:
            assert engine.aside(lambda: asked.wait(LONG))
            return total()

        companions = [engine.start(works), engine.start(asks)]
        mine = total()
        assert [companion.result() for companion in companions] == [mine, mine]
        assert engine.passes == 1


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_the_calls(jobs: int) -> None:
    with Engine(jobs) as engine:
        made = list(engine.asides(lambda n: n * n, ((n,) for n in range(50)), 4))
        assert made == [n * n for n in range(50)]
        assert list(engine.asides(lambda n: n, [], 4)) == []
        assert engine.aside(lambda: np.arange(3).sum()) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_raised_where_the_result_is_asked_for(jobs: int) -> None:
    def fails(n: int) -> int:
        if n == 2:
            raise DataError("the third")
        return n

    with Engine(jobs) as engine:
        made = engine.asides(fails, ((n,) for n in range(9)), 3)
        assert [next(made), next(made)] == [0, 1]
        with pytest.raises(DataError, match="the third"):
            next(made)
        assert engine.aside(lambda: 5) == 5


def test_who_stops_asking_leaves_nothing_waiting() -> None:
    begun, goes_on = threading.Semaphore(0), threading.Event()
    done = []

    def call(n: int) -> int:
        begun.release()
        assert n == 0 or goes_on.wait(LONG)
        done.append(n)
        return n

    with Engine(1 + 1) as engine:
        made = engine.asides(call, ((n,) for n in range(20)), 10)
        assert next(made) == 0
        for _ in range(3):
            assert begun.acquire(timeout=LONG)
        made.close()
        goes_on.set()
    # The two that ran; the others were never begun.
    assert sorted(done) == [0, 1, 2]


def test_a_companion_that_is_dropped_at_work_ends(log: Path) -> None:
    released, ended = threading.Event(), threading.Event()
    with Engine(2) as engine:
        run = Run.begin(rocktok.open(log), engine, "fixed", 0)

        def works() -> None:
            try:
                engine.aside(lambda: released.wait(LONG))
            finally:
                ended.set()

        def drops() -> None:
            nonlocal companion
            companion = None
            released.set()

        companion: object = engine.start(works)
        dropper = engine.start(drops)
        engine.run(run.source(10), TypeSums(("loss",)))
        dropper.result()
        assert ended.wait(LONG)
