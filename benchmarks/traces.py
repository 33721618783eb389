"""Harvested power over time: models of three harvesters, and CSV files.

A trace has the power that reaches the capacitor, after the converter, in whole nanowatts over whole
milliseconds. So energies are whole picojoules, and a simulation gives the same numbers everywhere.

# References
    - Friis 1946, [A note on a simple transmission formula](https://doi.org/10.1109/JRPROC.1946.234568).
    - Shenck and Paradiso 2001, [Energy scavenging with shoe-mounted
      piezoelectrics](https://doi.org/10.1109/40.928763): 1.3 mW of an insole.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.registry import Registry

HOUR = 3600
DAY = 24 * HOUR
#: The largest power of a trace, so that it fits 32 bits, in watts.
MOST_WATTS = 4.0
COLUMNS = ["time_s", "power_w"]


@dataclass(frozen=True)
class Trace:
    """Power that is constant until the next change.

    # Arguments
        name: of the trace.
        ends_ms: when each power ends, ascending, in milliseconds from 0.
        power_nw: each power, in nanowatts.
    """

    name: str
    ends_ms: Sequence[int]
    power_nw: Sequence[int]

    @property
    def hours(self) -> float:
        """Its length."""
        return self.ends_ms[-1] / (1000 * HOUR)

    def between(self, begin_h: float, end_h: float) -> Trace:
        """What is between two hours; the first is its 0.

        # Raises
            EnsembleError: if the trace has nothing there.
        """
        begin, end = (round(hour * HOUR * 1000) for hour in (begin_h, end_h))
        kept = [
            (min(until, end) - begin, power)
            for since, until, power in zip([0, *self.ends_ms], self.ends_ms, self.power_nw)
            if until > begin and since < end
        ]
        if not kept or begin < 0 or end <= begin:
            raise EnsembleError(
                f"`hours` must be within the {self.hours:g} hours of the trace {self.name!r}, the "
                f"first before the second. Received: {begin_h:g} and {end_h:g}."
            )
        return Trace(self.name, *zip(*kept))


#: Name of a harvester -> (generator) -> power in watts of each second of a day from midnight on.
HARVESTERS: Registry[Callable[[np.random.Generator], np.ndarray]] = Registry("harvester")


def light(draw: np.random.Generator) -> np.ndarray:
    r"""Solar cells of some 10 cm^2 at an office window.

    Daylight is \( 3 \sin(\pi (h - 6) / 12) \) mW from 6 to 18 h. It is clear for 20 minutes and
    cloudy for 15, on average, of exponential lengths; a cloud lets 10 to 50 % through. From 8 to 20
    h lamps give 0.2 mW, times 0.8 to 1.2 on this day.
    """
    hours = np.arange(DAY) / HOUR
    sun = 3e-3 * np.maximum(0, np.sin(np.pi * (hours - 6) / 12))
    lamps = 0.2e-3 * draw.uniform(0.8, 1.2) * ((hours >= 8) & (hours < 20))
    through = spans(draw, DAY, (lambda: draw.uniform(0.1, 0.5), 15 * 60), (lambda: 1.0, 20 * 60))
    return sun * through + lamps


def walking(draw: np.random.Generator) -> np.ndarray:
    """A piezoelectric insole, which gives 1.3 mW while somebody walks.

    From 7 to 23 h walks of 8 minutes and rests of 25, on average, of exponential lengths. The power
    of a walk is 1.3 mW times a log-normal factor (sigma 0.3).
    """
    power = np.zeros(DAY)
    day = power[7 * HOUR : 23 * HOUR]
    walk = (lambda: 1.3e-3 * draw.lognormal(0, 0.3), 8 * 60)
    day[:] = spans(draw, len(day), (lambda: 0.0, 25 * 60), walk)
    return power


def radio(draw: np.random.Generator) -> np.ndarray:
    r"""A rectifier 3 m from a transmitter of 3 W EIRP at 915 MHz.

    \( P = P_t G (\lambda / 4 \pi r)^2 \eta \) with G = 4 and 50 %, 0.45 mW, times the fading of
    Rayleigh, whose correlation falls to 1/e in 20 s. The transmitter is on for 60 minutes and off
    for 20, on average, of exponential lengths.
    """
    wavelength = 299_792_458 / 915e6
    mean = 3 * 4 * (wavelength / (4 * math.pi * 3)) ** 2 * 0.5
    stays = math.exp(-1 / 20)
    changes = draw.normal(size=(DAY, 2)) @ [1, 1j] * math.sqrt((1 - stays**2) / 2)
    field = np.empty(DAY, complex)
    now = complex(*draw.normal(size=2)) / math.sqrt(2)
    for second, change in enumerate(changes.tolist()):
        field[second] = now = stays * now + change
    on = spans(draw, DAY, (lambda: 0.0, 20 * 60), (lambda: 1.0, 60 * 60))
    return mean * np.abs(field) ** 2 * on


for _harvester in (light, walking, radio):
    HARVESTERS.register(_harvester.__name__, _harvester)


def spans(
    draw: np.random.Generator, seconds: int, *states: tuple[Callable[[], float], float]
) -> np.ndarray:
    """Two states in turn, of exponential lengths: the value of each second.

    # Arguments
        draw: also says which state is the first.
        seconds: how many.
        states: of each () -> its value in a span, and its mean length in seconds.
    """
    values = np.empty(seconds)
    begin, state = 0, int(draw.integers(len(states)))
    while begin < seconds:
        value, mean = states[state]
        end = begin + 1 + int(draw.exponential(mean))
        values[begin:end] = value()
        begin, state = end, (state + 1) % len(states)
    return values


def made(name: str, seed: int, efficiency: float) -> Trace:
    """A day of a harvester.

    # Arguments
        name: a name of `HARVESTERS`.
        seed: of the day.
        efficiency: the share that the converter lets through (0..1).
    """
    draw = np.random.default_rng([seed, *name.encode()])  # other numbers for each harvester
    power = HARVESTERS[name](draw)
    return Trace(name, range(1000, 1000 * DAY + 1, 1000), _nanowatts(power * efficiency))


def read_trace(path: str | os.PathLike[str], efficiency: float = 1.0) -> Trace:
    """Reads a CSV file with the columns `time_s` and `power_w`.

    A power lasts until the time of the next row. So the last row ends the trace, and its power is
    not used. Times may start anywhere.

    # Arguments
        path: the file.
        efficiency: the share that the converter lets through (0..1).

    # Raises
        EnsembleError: if it can't be read or isn't such a file, with the line.
    """
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise EnsembleError(f"`trace` {name!r} can't be read ({reason}).") from error
    header, *lines = list(csv.reader(text.splitlines())) or [[]]
    if [column.strip() for column in header] != COLUMNS:
        raise EnsembleError(
            f"`trace` {name!r}: the first line must be {','.join(COLUMNS)}. "
            f"Received: {','.join(header)!r}."
        )
    rows = [_row(name, number, line) for number, line in enumerate(lines, 2) if line]
    if len(rows) < 2:
        raise EnsembleError(
            f"`trace` {name!r} needs two rows or more: a power lasts until the next one."
        )
    times = [round(1000 * (time - rows[0][1])) for _, time, _ in rows]
    for (number, time, _), before, now in zip(rows[1:], times, times[1:]):
        if now <= before:
            raise EnsembleError(
                f"`trace` {name!r}, line {number}: times must ascend by a millisecond or more. "
                f"Received: {time:g}."
            )
    power = [power * efficiency for _, _, power in rows[:-1]]
    return Trace(Path(path).stem, times[1:], _nanowatts(power))


def _row(name: str, number: int, cells: list[str]) -> tuple[int, float, float]:
    """Line, time and power of a row."""
    try:
        time, power = map(float, cells)
    except ValueError:
        time = power = math.nan
    if not math.isfinite(time) or not 0 <= power <= MOST_WATTS:
        raise EnsembleError(
            f"`trace` {name!r}, line {number}: a time in seconds and a power from 0 to "
            f"{MOST_WATTS:g} watts must stand there. Received: {','.join(cells)!r}."
        )
    return number, time, power


def _nanowatts(watts: Iterable[float]) -> list[int]:
    return [round(1e9 * power) for power in watts]
