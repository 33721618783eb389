"""Rates and times against a clock that the test sets."""

import io
import os
import subprocess
import sys

import pytest

from larq_ensemble.console.progress import Lines
from larq_ensemble.console.wording import counted, duration
from larq_ensemble.progress import listening, tracked, working


class Clock:
    """A clock whose time passes when the test says so."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(clock):
    return Lines(io.StringIO(), clock)


def shown(lines):
    return lines._stream.getvalue().splitlines()


def test_the_whole_is_estimated_after_the_first_steps(lines, clock):
    """Of 20 steps the first takes 60 s, because it is traced, and each of the others 2 s."""
    with listening(lines), working("training", 20 * 64, unit="image") as work:
        work.detail = "epoch 1 of 4"
        clock.now += 60
        work.advance(64)
        assert not shown(lines)
        clock.now += 2
        work.advance(64)
        assert shown(lines) == [
            "training, epoch 1 of 4: 128 of 1,280 images, 32 images/s, about 36 s left"
        ]


def test_lines_get_rarer(lines, clock):
    """A day of work of a step a second."""
    times = []
    with listening(lines), working("training", 86_400, unit="image") as work:
        for _ in range(86_400):
            clock.now += 1
            before = len(shown(lines)) if work.done % 100 == 0 or work.done < 200 else None
            work.advance(1)
            if before is not None and len(shown(lines)) > before:
                times.append(work.done)
    assert times[:3] == [3, 13, 23]
    count = len(shown(lines))
    assert 86_400 / 600 < count < 86_400 / 600 + 30
    assert all(line.isprintable() for line in shown(lines))


def test_short_work_shows_nothing(lines, clock):
    with listening(lines):
        for _ in tracked(range(28), "running the file", unit="image"):
            clock.now += 0.1
    assert not shown(lines)


def test_parts_of_a_whole_are_estimated_together(lines, clock):
    """Three members of 10 steps: after 3 s of the first, 27 s are left for all."""
    with listening(lines):
        for _ in tracked(range(3), "member", unit="member"):
            for _ in tracked(range(10), "training", unit="step"):
                clock.now += 1
    first, second, third = shown(lines)[:3]
    assert first == (
        "training: 3 of 10 steps, 1.0 steps/s, about 7 s left, member 1 of 3, "
        "about 27 s left for all"
    )
    assert second.startswith("training: 3 of 10 steps")
    assert second.endswith("member 2 of 3, about 17 s left for all")
    assert third.endswith("member 3 of 3, about 7 s left for all")


def test_unequal_parts_count_by_their_weight(lines, clock):
    """Two networks and then ten, a second each: after 6 s of 12 there are 6 left."""
    with listening(lines), working("fig5a", 12, unit="network") as work:
        for networks in (2, 10):
            work.next = networks
            for _ in tracked(range(5), "training", unit="step"):
                clock.now += networks / 5
            work.advance(networks)
    assert shown(lines)[0].endswith("about 6 s left for all")


def test_the_part_is_told_only_of_a_whole_that_is_counted_in_parts(lines, clock):
    """A figure of 12 epochs says nothing of a part, also where that is a single epoch."""
    with listening(lines), working("fig5a", 12, unit="epoch"):
        for _ in tracked(range(10), "training", unit="step"):
            clock.now += 1
    assert shown(lines)[0] == (
        f"training: 3 of 10 steps, 1.0 steps/s, about 7 s left, about {duration(117)} left for all"
    )


def test_a_part_may_be_built_before_it_is_trained(lines, clock):
    """Three networks of 20 s to build, 60 to train and 10 to evaluate: 270 s for all."""
    kinds = {"building": 2, "training": 6, "evaluating": 1}
    with listening(lines), working("network", 3, unit="network") as work:
        for _ in range(3):
            for what, seconds in kinds.items():
                for _ in tracked(range(10), what, unit="step"):
                    clock.now += seconds
            work.advance(1)
    told = [line for line in shown(lines) if line.startswith("training")]
    first = next(line for line in told if "network 1 of 3" in line)
    last = next(line for line in told if "network 3 of 3" in line)
    steps, of_last = (int(line.split()[1]) for line in (first, last))
    assert 1 < steps < 6
    # What comes after the training is not known yet: 3 x 80 s, of which 20 + 6 n have passed.
    assert first.endswith(f", about {duration(240 - 20 - 6 * steps)} left for all")
    assert last.endswith(f", about {duration(60 - 6 * of_last)} left for all")


def test_what_an_earlier_process_did_took_no_time(lines, clock):
    """Of 30 trials 20 are there: 9 of 60 s are left after this one."""
    with listening(lines), working("trial", 30, unit="trial") as work:
        work.done = 20
        for _ in tracked(range(10), "training", unit="step"):
            clock.now += 6
    assert shown(lines)[0] == (
        "training: 2 of 10 steps, 0.2 steps/s, about 48 s left, trial 21 of 30, "
        f"about {duration(48 + 9 * 60)} left for all"
    )


def test_slow_work_is_told_in_time(lines, clock):
    with listening(lines):
        for _ in tracked(range(4), "conversion", unit="member"):
            clock.now += 3600
    assert shown(lines)[0] == "conversion: 2 of 4 members, about 2 h left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1 s"),
        (99, "99 s"),
        (100, "2 min"),
        (7800, "2 h 10 min"),
        (7200, "2 h"),
        (3600 * 53, "2 d 5 h"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_counts():
    assert [counted(1, "epoch"), counted(0, "epoch"), counted(1200, "image")] == [
        "1 epoch",
        "0 epochs",
        "1,200 images",
    ]


PROGRAM = """
import sys, time
from larq_ensemble.console import progress
from larq_ensemble.console.reporting import reporting
from larq_ensemble.progress import tracked
progress.QUIET = progress.FIRST_GAP = 0.05
with reporting(sys.argv[1]) as report:
    for _ in tracked(range(12), "waiting", unit="turn"):
        time.sleep(0.03)
    report.result = {"done": True}
"""


def test_standard_output_stays_clean_and_a_pipe_gets_plain_lines():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "-"], capture_output=True, text=True, check=True
    )
    assert done.stdout == '{\n  "done": true\n}\n'
    assert done.stderr.startswith("waiting: ")
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_on_a_terminal_there_is_a_bar_that_goes_away():
    import pty

    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "-"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        check=True,
        env=environment,
    )
    os.close(terminal)
    drawn = b""
    try:
        while chunk := os.read(controller, 4096):
            drawn += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(controller)
    assert done.stdout == '{\n  "done": true\n}\n'
    assert b"waiting: " in drawn
    # Its last act is to erase its line.
    assert b"\x1b[2K" in drawn.rpartition(b"waiting: ")[2]
