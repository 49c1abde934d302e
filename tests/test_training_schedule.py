"""Learning rates by steps and by the clock, and work done ahead."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from videogen.training import schedule
from videogen.training.prefetch import Prefetcher
from videogen.training.schedule import TimeBox, lr_scale


def test_the_rate_warms_up_stays_and_falls():
    rates = [lr_scale(step, 4, 10, 5, final_ratio=0.2) for step in (0, 1, 3, 9, 10, 12, 14, 99)]
    assert rates == pytest.approx([0.25, 0.5, 1, 1, 0.84, 0.52, 0.2, 0.2])
    assert lr_scale(0) == lr_scale(10**6) == 1


@pytest.fixture
def clock(monkeypatch):
    """A clock in minutes that stands until it is set."""
    now = [100.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: 60 * now[0])
    return now


def test_the_decay_ends_with_the_box(clock):
    box = TimeBox(10, decay_minutes=4)
    clock[0] += 5  # the clock starts when it is first looked at
    seen = []
    for minute in (0, 5, 6, 7, 9, 9.96, 10, 11):
        box.start()
        clock[0] = 105 + minute
        seen.append(box.look())
    assert [scale for scale, _ in seen] == pytest.approx([1, 1, 1, 0.75, 0.25, 0.01, 0, 0])
    assert [stop for _, stop in seen] == [False] * 6 + [True] * 2
    assert box.minutes_left == 0


def test_a_run_cut_into_calls_decays_as_one_that_is_not(clock):
    first, second = TimeBox(7, decay_minutes=4, more_minutes=3).start(), TimeBox(3, decay_minutes=4, spent_minutes=7)
    clock[0] += 6.9
    assert first.look() == (pytest.approx(3.1 / 4), False)
    clock[0] = 107
    assert first.look()[1]
    second.start()
    assert second.look() == (pytest.approx(3 / 4), False)


def test_a_decay_as_long_as_the_run_may_be_cut_anywhere(clock):
    for cut in range(1, 90):
        spent, now = cut / 10, 0.7
        box = TimeBox(now, decay_minutes=9, spent_minutes=spent, more_minutes=max(0.0, 9 - spent - now))
        assert box.scale() <= 1


def test_a_signal_stops_and_no_box_never_does(clock):
    box = TimeBox()
    clock[0] += 1e6
    assert box.look() == (1.0, False)
    assert box.look(stop=True) == (1.0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "`max_minutes` must be at least 0, got -1"),
        ((float("nan"),), "`max_minutes` must be at least 0, got nan"),
        ((5, 6), "`decay_minutes` must be at least 0 and at most `max_minutes`, got 6 and 5"),
        ((5, -1), "`decay_minutes` must be at least 0"),
        ((float("inf"), 3), "`decay_minutes` needs `max_minutes`"),
        ((5, 1, 0, float("inf")), "`more_minutes` must be at least 0 and finite"),
    ],
)
def test_impossible_boxes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeBox(*arguments)


def _square(number: int) -> tuple[int, int]:
    if number == 13:
        raise RuntimeError("thirteen")
    time.sleep(0.01 * (number % 3))  # results come in order all the same
    return number * number, os.getpid()


def test_without_workers_nothing_is_done_ahead():
    asked = []
    with Prefetcher(lambda key: asked.append(key) or key) as prefetcher:
        results = prefetcher.map(itertools.count())
        assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert asked == [0, 1, 2]


@pytest.mark.slow
def test_workers_keep_the_order_and_pass_errors_on():
    with Prefetcher(_square, workers=2) as prefetcher:
        results = list(itertools.islice(prefetcher.map(itertools.count()), 10))
        assert [square for square, _ in results] == [n * n for n in range(10)]
        processes = {process for _, process in results}
        assert os.getpid() not in processes and len(processes) <= 2
        assert [square for square, _ in prefetcher.map(iter([5, 4]))] == [25, 16]
        with pytest.raises(RuntimeError, match="thirteen"):
            list(prefetcher.map(iter([12, 13, 14])))


KILLED = """
import itertools, os, sys, time
from videogen.training.prefetch import Prefetcher

def work(number):
    return os.getpid()

if __name__ == "__main__":
    with Prefetcher(work, workers=2) as prefetcher:
        for process in prefetcher.map(itertools.count()):
            print(process, flush=True)
            time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "setpgrp"), reason="needs process groups")
def test_workers_end_with_a_killed_run_and_outlive_a_signal_to_its_group(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "killed.py")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stdout is not None
    workers = {int(run.stdout.readline()) for _ in range(40)}
    assert 1 <= len(workers) <= 2 and run.pid not in workers
    assert all(os.getpgid(worker) != run.pid for worker in workers)
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 60
    while workers and time.monotonic() < deadline:
        workers = {worker for worker in workers if _runs(worker)}
        time.sleep(0.05)
    assert not workers


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
