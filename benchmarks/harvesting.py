"""Correct answers an hour on harvested energy: the power policy against fixed numbers of members.

    python benchmarks/harvesting.py cifar100-deploynet8-nested8 --logits logits --data-dir DATA
    python benchmarks/harvesting.py ensemble.tflite --trace my.csv --capacitance-mf 47

simulates a device (`benchmarks/intermittent.py`) on a day of each harvester
(`benchmarks/traces.py`), or on CSV files with the columns time_s and power_w. Images come at a
fixed rate, drawn by the seed from the test images; each way gets the same ones and the same
harvest. The ways are

- m members, always: starts m members on each image, whatever is stored;
- m members, if paid: waits if the capacitor can't pay for m;
- the policy: `larq_ensemble.runtime.power.PowerPolicy`, which lets the number rise with a surplus
  of one member, and saves for first members all but what an image by all members takes (chosen
  among shares of the capacitor on the seeds 100 to 103);
- the policy with the cascade: also stops where the file's calibrated thresholds say that the answer
  is sure (files of `larq-ensemble calibrate`).

Energy is what instructions take: their number on an emulated Cortex-M4, or `--instructions`, times
`--nj-per-instruction`. The default is 0.3 nJ: 100 uA/MHz at 3 V, as the data sheet of the STM32L476
(a Cortex-M4F at up to 80 MHz) says of running from its regulator, with a cycle an instruction, the
least that a Cortex-M4 takes. What a board really takes a power meter says.

`--firmware FILE` writes the device, the first trace, the policy and images as a C header, and
prints what `examples/microcontroller` has to print with it.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contextlib
import dataclasses
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from cascade import Logits
from intermittent import Answers, Controller, Device, Fixed, Outcome, simulate
from page import made_by, write_between, write_option
from traces import DAY, HARVESTERS, Trace, made, read_trace

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import (
    INPUT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    TFLITE,
    CommaSeparated,
    FiniteFloat,
    OutputFile,
    OutputFolder,
    data_dir_option,
    member_counts,
)
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_text
from larq_ensemble.pretrained.samples import read_samples, sample_names
from larq_ensemble.progress import tracked
from larq_ensemble.runtime.cascade import calibrated_prediction, log_margin
from larq_ensemble.runtime.commands.options import backend_option
from larq_ensemble.runtime.metadata import EnsembleMetadata
from larq_ensemble.runtime.power import PowerPolicy, stored_energy_nj

#: The generated part of a page is between these two lines.
BEGIN, END = "<!-- harvesting: by benchmarks/harvesting.py -->", "<!-- end of harvesting -->"
POLICY, WITH_CASCADE = "the policy", "the policy with the cascade"
COLUMNS = (
    "harvester",
    "way",
    "correct an hour",
    "less than the policy",
    "images answered",
    "of these right",
    "members an answer",
    "brown-outs a day",
    "harvest turned away",
)
DAYS_OF_FIRMWARE = 49  # milliseconds in 32 bits
_CPU = "cortex-m4"


class Way(NamedTuple):
    """How many members run on an image.

    # Arguments
        name: in the tables.
        controller: makes a controller.
        with_cascade: whether the cascade stops early.
    """

    name: str
    controller: Callable[[], Controller]
    with_cascade: bool = False


def policy_of(device: Device, members: int) -> PowerPolicy:
    """The policy of the ensemble's `members` for a device.

    It saves all but what an image by all members takes: they run when the capacitor is full.
    """
    reserve_nj = leaked_nj(device, members)
    # The last of all members needs `hysteresis` more.
    all_nj = reserve_nj + device.begin_nj + (members + 1) * device.member_nj
    return PowerPolicy(
        members=members,
        begin_nj=device.begin_nj,
        member_nj=device.member_nj,
        reserve_nj=reserve_nj,
        savings_nj=max(0, device.capacity_nj - all_nj),
        hysteresis_nj=device.member_nj,
    )


def leaked_nj(device: Device, members: int) -> int:
    """What leaks while an image runs, rounded up."""
    return -(-device.leakage_nw * (device.begin_ms + members * device.member_ms) // 1000)


def ways(device: Device, fixed: Sequence[int], members: int, with_cascade: bool) -> list[Way]:
    """All ways that are compared.

    # Arguments
        device: the device.
        fixed: numbers of members.
        members: M.
        with_cascade: whether the file has one.
    """

    def policy() -> PowerPolicy:
        return policy_of(device, members)

    found = []
    for count in fixed:
        paid_nj = leaked_nj(device, count) + device.begin_nj + count * device.member_nj
        found.append(Way(f"{count}, always", partial(Fixed, count)))
        found.append(Way(f"{count}, if paid", partial(Fixed, count, paid_nj)))
    found.append(Way(POLICY, policy))
    if with_cascade:
        found.append(Way(WITH_CASCADE, policy, with_cascade=True))
    return found


def judged(
    logits: np.ndarray, labels: np.ndarray, metadata: EnsembleMetadata
) -> tuple[np.ndarray, np.ndarray | None]:
    """`right` and `enough` of `Answers`.

    # Arguments
        logits: of the images, `[M, n, classes]`.
        labels: `[n]`.
        metadata: of the file: the scheme, temperatures and the cascade.
    """
    right = np.empty(logits.shape[:2], bool)
    enough = None if metadata.cascade is None else np.zeros(logits.shape[:2], bool)
    for m in range(1, len(logits) + 1):
        prediction = calibrated_prediction(
            logits[:m], metadata.scheme, metadata.weights, metadata.temperatures
        )
        right[m - 1] = prediction.argmax(axis=-1) == labels
        if enough is not None and metadata.cascade is not None and m < len(logits):
            enough[m - 1] = metadata.cascade.finished(log_margin(prediction), m)
    return right, enough


class Row(NamedTuple):
    """A way on a trace: the outcomes of all seeds, and the hours of each."""

    trace: str
    way: str
    outcomes: list[Outcome]
    hours: float

    def correct_an_hour(self) -> np.ndarray:
        """Of each seed."""
        return np.array([outcome.correct for outcome in self.outcomes]) / self.hours

    def numbers(self, policy: Row) -> dict[str, Any]:
        """All figures, for JSON."""
        less = policy.correct_an_hour() - self.correct_an_hour()

        def mean(value: Callable[[Outcome], float]) -> float:
            return float(np.mean([value(outcome) for outcome in self.outcomes]))

        answers = sum(outcome.answers for outcome in self.outcomes)
        return {
            "trace": self.trace,
            "way": self.way,
            "correct_per_hour": self.correct_an_hour().tolist(),
            "less_than_policy": float(less.mean()),
            "less_than_policy_95": half_width(less),
            "images": mean(lambda outcome: outcome.images),
            "answered": mean(lambda outcome: outcome.answers / outcome.images),
            "right": sum(o.correct for o in self.outcomes) / answers if answers else None,
            "members": sum(o.members for o in self.outcomes) / answers if answers else None,
            "brown_outs_per_day": mean(lambda outcome: outcome.brown_outs) * 24 / self.hours,
            "turned_away": mean(lambda o: o.store.spilled / max(1, o.store.harvested)),
        }


def half_width(values: np.ndarray) -> float | None:
    """Of the 95 % interval of the mean, by Student's t; `None` for one value."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def cells(numbers: dict[str, Any]) -> list[str]:
    """A row of the table."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    correct = numbers["correct_per_hour"]
    spread = f" ± {np.std(correct, ddof=1):.1f}" if len(correct) > 1 else ""
    half = numbers["less_than_policy_95"]
    less = f"{numbers['less_than_policy']:.2f}" + ("" if half is None else f" ± {half:.2f}")
    members = numbers["members"]
    return [
        numbers["trace"],
        numbers["way"],
        f"{np.mean(correct):.1f}{spread}",
        "" if numbers["way"] == POLICY else less,
        share(numbers["answered"]),
        share(numbers["right"]),
        "-" if members is None else f"{members:.2f}",
        f"{numbers['brown_outs_per_day']:.1f}",
        share(numbers["turned_away"]),
    ]


def compared(
    device: Device,
    traces: Sequence[Sequence[Trace]],
    fixed: Sequence[int],
    right: np.ndarray,
    enough: np.ndarray | None,
) -> list[Row]:
    """Every way on every trace.

    # Arguments
        device: the device.
        traces: of each harvester one for each seed.
        fixed: numbers of members.
        right, enough: as in `Answers`.
    """
    rows = []
    todo = [
        (days, way)
        for days in traces
        for way in ways(device, fixed, len(right), enough is not None)
    ]
    for days, way in tracked(todo, "simulating", unit="way"):
        outcomes = [
            simulate(
                device,
                day,
                way.controller,
                Answers(right, enough if way.with_cascade else None, drawn(seed, right.shape[1])),
            )
            for seed, day in enumerate(days)
        ]
        rows.append(Row(days[0].name, way.name, outcomes, days[0].hours))
    return rows


def drawn(seed: int, images: int) -> list[int]:
    """Indices of the images in the order in which they come."""
    return np.random.default_rng(seed).permutation(images).tolist()


def draw(rows: Sequence[Row], traces: Sequence[Sequence[Trace]], title: str, stem: str) -> None:
    """Of each harvester a day of the policy, and the correct answers of all ways."""
    from larq_ensemble.training import plots

    figure, panels = plots.new_figure(len(traces), rows=3, sharey=False)
    for column, days in enumerate(traces):
        power, level, bars = panels[column :: len(traces)]
        own = [row for row in rows if row.trace == days[0].name]
        hours, stored, members = zip(
            *next(row for row in own if row.way == POLICY).outcomes[0].history
        )
        ends = np.array(days[0].ends_ms) / 3.6e6
        power.stairs(np.array(days[0].power_nw) / 1e6, [0, *ends], color=plots.ORANGE)
        power.set(title=days[0].name, ylabel="harvested (mW)")
        level.plot(hours, np.array(stored) / 1e6, color=plots.BLUE)
        level.set(xlabel="hour", ylabel="stored (mJ)")
        level.yaxis.label.set_color(plots.BLUE)
        right = level.twinx()
        right.plot(hours, members, ".", color=plots.VERMILION, markersize=1)
        right.set_ylabel("members", color=plots.VERMILION)
        right.grid(visible=False)
        means = [float(row.correct_an_hour().mean()) for row in own]
        spread = [float(row.correct_an_hour().std()) for row in own]
        bars.barh([row.way for row in own], means, xerr=spread, color=plots.SKY)
        bars.invert_yaxis()
        bars.set_xlabel("correct answers an hour")
    figure.suptitle(
        f"{title}: a day of the policy, and all ways on {len(traces[0])} days", fontsize=9
    )
    plots.save(figure, stem)


def write_scenario(path: str, device: Device, trace: Trace, logits: Logits, count: int) -> str:
    """Writes the C header of the policy on a trace; returns what the firmware has to print.

    Its images are test images: those that come with the package, if it has some of the file's data,
    or else the first ones.
    """
    if trace.ends_ms[-1] > DAYS_OF_FIRMWARE * DAY * 1000:
        raise EnsembleError(
            f"`firmware` counts milliseconds in 32 bits, and trace {trace.name!r} takes more than "
            f"{DAYS_OF_FIRMWARE} days: cut it by `hours`, or give a shorter one."
        )
    metadata = logits.ensemble.metadata
    if metadata.dataset in sample_names():
        samples = read_samples(metadata.dataset)
        images, labels = samples.images[:count], samples.labels[:count]
    else:
        images, labels = logits.images("test")[:count], logits.labels("test")[:count]
    right, enough = judged(logits.ensemble.predict_logits(images), labels, metadata)
    policy = policy_of(device, len(right))
    answers = Answers(right, enough, range(len(labels)))
    write_text(path, scenario(device, trace, policy, metadata, images, labels))
    return simulate(device, trace, lambda: dataclasses.replace(policy), answers).line()


def scenario(
    device: Device,
    trace: Trace,
    policy: PowerPolicy,
    metadata: EnsembleMetadata,
    images: np.ndarray,
    labels: np.ndarray,
) -> str:
    """A simulation as the C header that `examples/microcontroller/main.c` includes.

    # Arguments
        device, trace, policy: of the simulation.
        metadata: of the file: the thresholds of its cascade, if it has some.
        images, labels: as they come, over and over: uint8 `[n, height, width, channels]`, `[n]`.
    """
    numbers = dataclasses.asdict(policy)
    cascade = metadata.cascade
    thresholds = () if cascade is None else cascade.thresholds[: policy.members - 1]
    never = "NAN"
    limits = [never if each is None else f"{each!r}f" for each in map(_float32, thresholds)]
    limits += [never] * (policy.members - len(limits))
    changes = [f"{{{end}u,{power}u}}" for end, power in zip(trace.ends_ms, trace.power_nw)]
    pixels = [f"{{{', '.join(map(str, image))}}}" for image in images.reshape(len(images), -1)]
    lines = [
        "/* Written by benchmarks/harvesting.py: a device, what it harvests and what it sees. */",
        "#ifndef SCENARIO_H",
        "#define SCENARIO_H",
        "",
        '#include "device.h"',
        "",
        "static const device_costs costs = {",
        *(f"    .{name} = {value}ull," for name, value in dataclasses.asdict(device).items()),
        "};",
        "",
        "static const power_policy policy_at_power_up = {",
        *(f"    .{name} = {value}ull," for name, value in numbers.items()),
        "};",
        "",
        "/* The log margins with which 1, 2, ... members are enough; NAN: with none. */",
        f"static const float enough[{policy.members}] = {_initializer(limits)};",
        "",
        "/* The harvested power, in nanowatts, until a time in milliseconds. */",
        f"static const harvest trace[{len(changes)}] = {_initializer(changes)};",
        "",
        f"enum {{ IMAGES = {len(images)} }};",
        f"static const uint8_t images[IMAGES][{images[0].size}] = {_initializer(pixels)};",
        f"static const unsigned labels[IMAGES] = {_initializer(map(str, labels))};",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _float32(value: float | None) -> float | None:
    return None if value is None else float(np.float32(value))


def _initializer(values: Iterable[str]) -> str:
    lines = textwrap.fill(", ".join(values), 96)
    return f"{{\n{textwrap.indent(lines, '    ')}\n}}"


@click.command()
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.option("--logits", "folder", type=OutputFolder(), metavar="DIR", help="Keeps the logits.")
@click.option(
    "--members", "fixed", type=member_counts, help="Fixed numbers to compare  [default: 1,4,M]"
)
@click.option(
    "--instructions",
    type=CommaSeparated("BEGIN,MEMBER", FiniteFloat(1), "two numbers of instructions"),
    help="Of `begin` and of a member  [default: counted on an emulated Cortex-M4]",
)
@click.option("--nj-per-instruction", type=POSITIVE, default=0.3, show_default=True, help="Energy.")
@click.option(
    "--mhz", type=POSITIVE, default=80.0, show_default=True, help="Million instructions a second."
)
@click.option(
    "--image-uj", type=NOT_NEGATIVE, default=100.0, show_default=True, help="Camera and sending."
)
@click.option(
    "--period", type=POSITIVE, default=30.0, show_default=True, help="Seconds between images."
)
@click.option("--capacitance-mf", type=POSITIVE, default=100.0, show_default=True, help="Size.")
@click.option(
    "--volts",
    type=CommaSeparated("OFF,ON,FULL", POSITIVE, "three voltages"),
    default="1.8,2,3.3",
    show_default=True,
    help="Where the supply browns out, turns on again, and is full.",
)
@click.option("--leakage-uw", type=NOT_NEGATIVE, default=15.0, show_default=True, help="Always.")
@click.option("--sleep-uw", type=NOT_NEGATIVE, default=5.0, show_default=True, help="Asleep.")
@click.option(
    "--efficiency", type=SHARE, default=0.8, show_default=True, help="Of the harvester's converter."
)
@click.option(
    "--trace", "files", type=INPUT, multiple=True, metavar="CSV", help="Also these; repeatable."
)
@click.option("--harvester", "names", multiple=True, help="Only these; repeatable  [default: all]")
@click.option(
    "--hours",
    type=CommaSeparated("FROM,TO", NOT_NEGATIVE, "two hours"),
    help="Only this part of each trace.",
)
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=10, show_default=True, help="0 to N - 1."
)
@click.option("--firmware", type=OutputFile(), metavar="FILE", help="Write the C header.")
@click.option(
    "--images",
    "count",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Of the firmware, over and over.",
)
@click.option("--out", type=OutputFile(".png", ".svg"), metavar="STEM", help="The figure.")
@write_option
@data_dir_option
@backend_option
@json_option
def main(
    tflite: str,
    folder: str | None,
    fixed: tuple[int, ...] | None,
    files: tuple[str, ...],
    names: tuple[str, ...],
    hours: tuple[float, float] | None,
    efficiency: float,
    seeds: int,
    firmware: str | None,
    count: int,
    out: str | None,
    page: Path | None,
    data_dir: str | None,
    backend: str | None,
    json_target: str | None,
    instructions: tuple[float, ...] | None,
    **costs: Any,
) -> None:
    """Compare the power policy with fixed numbers of members on harvested energy."""
    device = device_of(instructions or counted(tflite), **costs)
    traces = [[read_trace(file, efficiency)] * seeds for file in files]
    if names or not files:
        traces += [
            [made(name, seed, efficiency) for seed in range(seeds)] for name in names or HARVESTERS
        ]
    if hours is not None:
        traces = [[day.between(*hours) for day in days] for days in traces]
    with reporting(json_target) as report, contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        logits = Logits(tflite, folder, backend, data_dir, 0)
        metadata = logits.ensemble.metadata
        if firmware is not None:
            line = write_scenario(firmware, device, traces[0][0], logits, count)
            report.line(line)
            report.result = {"firmware": line}
            return
        labels = logits.labels("test")
        right, enough = judged(logits.of("test"), labels, metadata)
        counts = fixed or tuple(sorted({1, min(4, len(right)), len(right)}))
        if max(counts) > len(right):
            raise EnsembleError(
                f"`members` must be numbers from 1 to {len(right)}. Received: {max(counts)}."
            )
        rows = compared(device, traces, counts, right, enough)
        policies = {row.trace: row for row in rows if row.way == POLICY}
        numbers = [row.numbers(policies[row.trace]) for row in rows]
        title = described(Path(tflite).stem, device, labels, seeds)
        table = [cells(each) for each in numbers]
        report.table(title, COLUMNS, table)
        report.result = {"device": dataclasses.asdict(device), "rows": numbers}
        if out is not None:
            draw(rows, traces, Path(tflite).stem, out)
        if page is not None:
            text = [title, markdown_table(COLUMNS, table), made_by("benchmarks/harvesting.py")]
            write_between(page, BEGIN, END, "\n\n".join(text))


def counted(tflite: str) -> tuple[int, int]:
    """Instructions of `begin` and of a member on a Cortex-M4.

    # Raises
        EmulationError: if the compiler or the emulator is missing.
    """
    from larq_ensemble.convert.export import export_file

    with tempfile.TemporaryDirectory() as folder:
        cost = export_file(tflite, folder, cpus=[_CPU]).costs[_CPU]
    return cost.image, cost.member


def device_of(
    instructions: Sequence[float],
    *,
    nj_per_instruction: float,
    mhz: float,
    image_uj: float,
    period: float,
    capacitance_mf: float,
    volts: Sequence[float],
    leakage_uw: float,
    sleep_uw: float,
) -> Device:
    """A device in whole numbers; the other arguments are the options of the command.

    # Raises
        EnsembleError: if there are not two `instructions` or three ascending `volts`, if the chip
            has no time for an image, or if the full capacitor doesn't pay for one member.
    """
    if len(instructions) != 2:
        raise EnsembleError(f"`instructions` must be two numbers. Received: {len(instructions)}.")
    if len(volts) != 3 or sorted(set(volts)) != list(volts):
        raise EnsembleError(
            f"`volts` must be three that ascend. Received: {', '.join(map('{:g}'.format, volts))}."
        )
    begin_nj, member_nj = (max(1, round(nj_per_instruction * each)) for each in instructions)
    begin_ms, member_ms = (max(1, round(each / mhz / 1000)) for each in instructions)
    off, on, full = (round(1000 * volt) for volt in volts)
    capacitance_uf = max(1, round(1000 * capacitance_mf))
    device = Device(
        capacity_nj=stored_energy_nj(capacitance_uf, full, off),
        turn_on_nj=stored_energy_nj(capacitance_uf, on, off),
        leakage_nw=round(1000 * leakage_uw),
        sleep_nw=round(1000 * sleep_uw),
        period_ms=max(1, round(1000 * period)),
        begin_nj=begin_nj + round(1000 * image_uj),
        begin_ms=begin_ms,
        member_nj=member_nj,
        member_ms=member_ms,
    )
    if device.begin_nj + device.member_nj > device.capacity_nj:
        raise EnsembleError(
            f"An image with one member takes {(begin_nj + member_nj) / 1e6:g} mJ, more than the "
            f"{device.capacity_nj / 1e6:g} mJ of the capacitor: take a larger `capacitance_mf`."
        )
    return device


def described(name: str, device: Device, labels: np.ndarray, seeds: int) -> str:
    """The assumptions, in words."""
    return (
        f"{name}: an image takes {device.begin_nj / 1e6:.3g} mJ and a member "
        f"{device.member_nj / 1e6:.3g} mJ ({device.begin_ms} and {device.member_ms} ms); one image "
        f"in {device.period_ms / 1000:g} s; a full capacitor gives {device.capacity_nj / 1e6:.3g} "
        f"mJ; {len(labels):,} test images; means ± standard deviations of {seeds} seeds, and "
        "differences with their 95 % intervals."
    )


if __name__ == "__main__":
    run_command(main)
