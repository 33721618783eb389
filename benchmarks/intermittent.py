"""A device that lives on harvested energy, simulated: a capacitor, a sleeping chip, an ensemble.

The device sleeps until an image comes, every `period_ms`. A controller says how many members run on
it. Each step, `begin` or a member, takes its energy at once and then its time, in which the
harvester goes on: what is harvested meanwhile pays for nothing yet. If the capacitor can't pay, the
supply browns out: the image is lost, and with it all that is in RAM, and the device is off until
the capacitor has `turn_on_nj` again. An image is missed if the device is off or busy when it comes,
or if the controller says 0.

`examples/microcontroller/main.c` is the same in C, around the real ensemble. All numbers are whole,
so both give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from traces import Trace

#: Leakage and sleep are drawn at least so often, in milliseconds.
TICK_MS = 1000


class Controller(Protocol):
    """Says how many members run, as `larq_ensemble.runtime.power.PowerPolicy` does."""

    def start(self, stored_nj: int) -> int: ...

    def proceed(self, stored_nj: int) -> bool: ...


@dataclass(frozen=True)
class Fixed:
    """Always the same number of members.

    # Arguments
        members: how many.
        from_nj: with less stored energy it waits for the next image.
    """

    members: int
    from_nj: int = 0

    def start(self, stored_nj: int) -> int:
        """All of them, or 0."""
        return self.members if stored_nj >= self.from_nj else 0

    def proceed(self, stored_nj: int) -> bool:
        """Whatever is stored."""
        return True


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a device takes.

    # Arguments
        capacity_nj: what the full capacitor gives before the supply browns out.
        turn_on_nj: from which on the device starts after that.
        leakage_nw: drawn always.
        sleep_nw: drawn while the device sleeps.
        period_ms: from one image to the next.
        begin_nj, begin_ms: of an image before its first member.
        member_nj, member_ms: of a member.
    """

    capacity_nj: int
    turn_on_nj: int
    leakage_nw: int
    sleep_nw: int
    period_ms: int
    begin_nj: int
    begin_ms: int
    member_nj: int
    member_ms: int


@dataclass
class Capacitor:
    """An energy store, in picojoules.

        harvested = stored + drained + spent + spilled

    # Arguments
        capacity: what it holds.
        stored: what it has.
        harvested, drained, spent: what came in; what leaked or sleep drew; what steps took.
        spilled: what came when it was full.
    """

    capacity: int
    stored: int = 0
    harvested: int = 0
    drained: int = 0
    spent: int = 0
    spilled: int = 0

    def charge(self, ms: int, harvested_nw: int, drawn_nw: int) -> None:
        """A time in which power is harvested and drawn."""
        self.harvested += harvested_nw * ms
        self.stored += harvested_nw * ms
        drained = min(self.stored, drawn_nw * ms)
        self.stored -= drained
        self.drained += drained
        spilled = max(0, self.stored - self.capacity)
        self.stored -= spilled
        self.spilled += spilled

    def spend(self, nj: int) -> bool:
        """Takes an energy, or all that is there: whether it was enough."""
        spent = min(self.stored, 1000 * nj)
        self.stored -= spent
        self.spent += spent
        return spent == 1000 * nj


class Answers(NamedTuple):
    """What the ensemble says about the images that come.

    # Arguments
        right: whether the first m members are, bool `[M, n]`.
        enough: whether the cascade stops after m members, bool `[M, n]`; `None`: no cascade.
        order: indices of the images as they come, `[images]`, over and over.
    """

    right: np.ndarray
    enough: np.ndarray | None
    order: Sequence[int]


@dataclass
class Outcome:
    """What came of a trace.

    # Arguments
        images: that came.
        answers, correct: images with an answer, and with the right one.
        members: that ran for these answers.
        brown_outs: images that were lost while they ran.
        store: the capacitor at the end.
        history: of each image the time in hours, the stored energy in nanojoules, and the members
            that ran for its answer.
    """

    images: int = 0
    answers: int = 0
    correct: int = 0
    members: int = 0
    brown_outs: int = 0
    store: Capacitor = field(default_factory=lambda: Capacitor(0))
    history: list[tuple[float, int, int]] = field(default_factory=list)

    def line(self) -> str:
        """As the firmware prints it."""
        return (
            f"images {self.images}, answers {self.answers}, correct {self.correct}, "
            f"members {self.members}, brown-outs {self.brown_outs}, "
            f"stored {self.store.stored // 1000} nJ"
        )


def simulate(
    device: Device, trace: Trace, controller: Callable[[], Controller], answers: Answers
) -> Outcome:
    """Runs a device on a trace, from an empty capacitor.

    # Arguments
        device: what it takes.
        trace: the harvested power.
        controller: makes one, whenever the device turns on.
        answers: of the ensemble.
    """
    return _Run(device, trace, controller, answers).run()


class _Run:
    def __init__(
        self, device: Device, trace: Trace, controller: Callable[[], Controller], answers: Answers
    ) -> None:
        self._device, self._trace, self._answers = device, trace, answers
        self._make_controller = controller
        self._now = self._segment = 0
        self._controller: Controller | None = None  # of a device that is off
        self._store = Capacitor(1000 * device.capacity_nj)
        self.outcome = Outcome(store=self._store)

    def run(self) -> Outcome:
        """Runs the whole trace."""
        device, answers, end = self._device, self._answers, self._trace.ends_ms[-1]
        for number, at in enumerate(range(0, end, device.period_ms)):
            self._sleep(at)
            self.outcome.images += 1
            ran = 0
            if self._now == at and self._controller is not None:
                ran = self._image(answers.order[number % len(answers.order)], self._controller)
            self.outcome.history.append((at / 3.6e6, self._store.stored // 1000, ran))
        self._sleep(end)
        return self.outcome

    def _image(self, image: int, controller: Controller) -> int:
        """Runs an image; returns the members of its answer, or 0."""
        members, device = controller.start(self._store.stored // 1000), self._device
        if members == 0 or not self._step(device.begin_nj, device.begin_ms):
            return 0
        ran = 0
        while ran < members and (ran == 0 or controller.proceed(self._store.stored // 1000)):
            if not self._step(device.member_nj, device.member_ms):
                return 0
            ran += 1
            if self._answers.enough is not None and self._answers.enough[ran - 1, image]:
                break
        self.outcome.answers += 1
        self.outcome.members += ran
        self.outcome.correct += bool(self._answers.right[ran - 1, image])
        return ran

    def _step(self, nj: int, ms: int) -> bool:
        """`begin` or a member: whether the capacitor paid for it."""
        if not self._store.spend(nj):
            self.outcome.brown_outs += 1
            self._controller = None
            return False
        self._pass(self._now + ms, 0)
        return True

    def _sleep(self, until: int) -> None:
        """Sleeps, or waits for energy."""
        device, store = self._device, self._store
        while self._now < until:
            on = self._controller is not None
            self._pass(min(until, self._now + TICK_MS), device.sleep_nw if on else 0)
            if on and store.stored == 0:
                self._controller = None
            if not on and store.stored >= 1000 * device.turn_on_nj:
                self._controller = self._make_controller()

    def _pass(self, until: int, drawn_nw: int) -> None:
        """Harvests, while power is drawn."""
        ends, power = self._trace.ends_ms, self._trace.power_nw
        while self._now < until:
            while self._segment < len(ends) - 1 and ends[self._segment] <= self._now:
                self._segment += 1
            past = ends[self._segment] <= self._now  # the trace ends while an image runs
            to = until if past else min(until, ends[self._segment])
            harvested = 0 if past else power[self._segment]
            self._store.charge(to - self._now, harvested, drawn_nw + self._device.leakage_nw)
            self._now = to
