"""Shows on standard error how far long work is, and about when it ends.

On a terminal it is a bar, which goes away in the end. In a file or a pipe there is a line now and
then, first after some seconds, so that a log of hours stays short. Work of a few seconds shows
nothing.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from larq_ensemble.console.wording import counted, duration
from larq_ensemble.progress import Work, listening

if TYPE_CHECKING:
    from rich.progress import Progress

#: Seconds: before anything is shown; between lines at first, and at most.
QUIET, FIRST_GAP, LAST_GAP = 3.0, 10.0, 600.0
#: Seconds between two pictures of the bar.
_FRAME = 0.2


@contextlib.contextmanager
def showing_progress() -> Iterator[None]:
    """Shows the progress of all work in the body."""
    from rich.console import Console

    console = Console(stderr=True)
    has_bar = console.is_terminal and not console.is_dumb_terminal
    display: Bar | Lines = Bar() if has_bar else Lines(sys.stderr)
    with listening(display), contextlib.closing(display):
        yield


@dataclass
class _Start:
    """When a piece of work began, when it had done its first part, and how much that was.

    The first part is not like the others: it traces graphs, packs filters, fills caches.

    # Arguments
        before: how many units were done when the first work within it began, such as those of an
            earlier process; `None`: no work within it has begun.
    """

    began: float
    time: float = 0.0
    done: int = 0
    before: int | None = None


class Estimates:
    """Rates and remaining times of pieces of work, from when they tell of themselves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._starts: dict[Work, _Start] = {}

    def note(self, work: Work) -> None:
        """Takes down what `work` tells."""
        if work.ended:
            self._starts.pop(work, None)
            return
        start = self._starts.setdefault(work, _Start(self._clock()))
        if work.done and not start.done:
            start.time, start.done = self._clock(), work.done
        whole = None if work.outer is None else self._starts.get(work.outer)
        if work.outer is not None and whole is not None and whole.before is None:
            whole.before = work.outer.done

    def elapsed(self, work: Work) -> float:
        """Seconds since the work began."""
        return self._clock() - self._starts[work].began

    def rate(self, work: Work) -> float | None:
        """Units a second; `None`: not known yet."""
        start = self._starts[work]
        seconds = self._clock() - start.time
        if work.done <= start.done or seconds <= 0:
            return None
        return (work.done - start.done) / seconds

    def left(self, work: Work, *, of: Work) -> float | None:
        """Seconds until `of` ends, which is `work` or has it as a part; `None`: not known yet.

        A part may consist of works of other kinds, one after the other, such as building, training
        and evaluating. So what `of` takes for a unit is told by the time since it began and what
        is left of `work`, not by how much of `work` is done.
        """
        rate = self.rate(work)
        if rate is None:
            return None
        left = (work.total - work.done) / rate
        while work is not of:
            assert work.outer is not None
            work = work.outer
            start = self._starts.get(work)
            if start is None:  # it began before anybody listened
                return None
            through = work.done + work.next
            a_unit = (self.elapsed(work) + left) / (through - (start.before or 0))
            left += max(work.total - through, 0) * a_unit
        return left

    def share(self, work: Work, *, of: Work) -> float | None:
        """How much of the time that `of` takes has passed, 0 to 1; `None`: not known yet."""
        left = self.left(work, of=of)
        return None if left is None else self.elapsed(of) / (self.elapsed(of) + left)


def outermost(work: Work) -> Work:
    """The whole that a piece of work is a part of."""
    while work.outer is not None:
        work = work.outer
    return work


def described(work: Work, estimates: Estimates) -> str:
    """A line such as `training, epoch 2 of 20: 412 images/s, about 2 h 10 min left`."""
    head = f"{work.what}, {work.detail}" if work.detail else work.what
    parts = [f"{work.done:,} of {counted(work.total, work.unit)}"]
    rate = estimates.rate(work)
    if rate is not None and rate >= 0.1:
        parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} {work.unit}s/s")
    left = estimates.left(work, of=work)
    if left is not None and work.done < work.total:
        parts.append(f"about {duration(left)} left")
    whole = outermost(work)
    if whole is not work:
        if whole.what == whole.unit:  # else its units mean nothing to a reader
            parts.append(f"{whole.what} {min(whole.done + 1, whole.total):,} of {whole.total:,}")
        all_left = estimates.left(work, of=whole)
        if all_left is not None:
            parts.append(f"about {duration(all_left)} left for all")
    return f"{head}: {', '.join(parts)}"


class Lines:
    """A line now and then, for files and pipes.

    The gaps grow with the time that has passed, from `FIRST_GAP` to `LAST_GAP` seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._estimates = Estimates(clock)
        self._whole: Work | None = None
        self._began = self._next = 0.0

    def __call__(self, work: Work) -> None:
        self._estimates.note(work)
        if outermost(work) is not self._whole:
            self._whole = outermost(work)
            self._began = self._clock()
            self._next = self._began + QUIET
        now = self._clock()
        if work.ended or now < self._next or self._estimates.rate(work) is None:
            return
        print(described(work, self._estimates), file=self._stream, flush=True)
        self._next = now + min(max(FIRST_GAP, (now - self._began) / 4), LAST_GAP)

    def close(self) -> None:
        """Nothing is left to do."""


class Bar:
    """A bar on the terminal, of the work that runs now. It goes away when the whole is done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._estimates = Estimates(clock)
        self._bar: Progress | None = None
        self._next = 0.0

    def __call__(self, work: Work) -> None:
        self._estimates.note(work)
        if work.ended:
            if work.outer is None:
                self.close()
            return
        now = self._clock()
        if now < self._next or self._estimates.elapsed(outermost(work)) < QUIET / 3:
            return
        self._next = now + _FRAME
        line = described(work, self._estimates)
        if self._bar is None:
            self._bar = _new_bar(line)
        (task,) = self._bar.task_ids
        self._bar.update(
            task,
            completed=self._estimates.share(work, of=outermost(work)),
            description=line,
            refresh=True,
        )

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _new_bar(description: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        # Without a thread, which would disturb what `benchmark` measures.
        auto_refresh=False,
        transient=True,
        # Lines printed meanwhile stand above the bar, if they are on the same terminal.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=True,
    )
    bar.add_task(description, total=1.0)
    bar.start()
    return bar
