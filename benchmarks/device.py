"""Latency of an ensemble file on an Android phone (adb) or an aarch64 Linux board (ssh).

Pushes the file and TFLite's benchmark tool to the device, runs it for each member and number of
threads, and prints milliseconds by number of members. The tool is one of two builds:

- LCE's, for LCE's kernels: `lce_benchmark_model_android_arm64` and `lce_benchmark_model_aarch64`
  among the assets of LCE's releases (https://github.com/larq/compute-engine/releases);
- TFLite's own, `android_aarch64_benchmark_model` and `linux_aarch64_benchmark_model`
  (https://ai.google.dev/edge/litert/models/measurement): for files with builtin operators, and
  with `--delegate`, which names this project's library for the device, for those for LCE.

    python benchmarks/device.py ensemble.tflite --tool lce_benchmark_model_android_arm64
    python benchmarks/device.py ensemble.tflite --tool lce_benchmark_model_aarch64 \\
        --ssh pi@raspberrypi.local --threads 1,4 --run runs/fusion
    python benchmarks/device.py ensemble.tflite --tool android_aarch64_benchmark_model \\
        --delegate liblarq_ensemble_delegate.so
    python benchmarks/device.py stock.tflite --tool android_aarch64_benchmark_model

By default the tool fills integer inputs with random numbers up to 99, which would look up members
that are not there. So the script gives it the names and shapes of all inputs, in the order of the
interpreter, and a range of one value for `member`:

    --input_layer=member,image --input_layer_shape=1:1,32,32,3 --input_layer_value_range=member,2,2

The file has no names of tensors, so the tool warns that they differ, which is harmless. The tool
runs the first graph of a file, so each graph is pushed as the only one in a copy of the file. A
file of the layout `branches` needs none of this: run the tool on it as it is.

The latency of m members is the sum of the tool's averages for members 0 to m - 1 and, if the file
has one, for the shared trunk. The few additions that combine logits are not counted.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import math
import re
import shlex
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import member_counts
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.legalization import FILTERS, legalized
from larq_ensemble.runtime.file import EnsembleFile, Subgraph, read_ensemble, with_one_subgraph
from larq_ensemble.tflite.reader import read_model

#: On Android a folder of the shell user's in which programs may run.
ANDROID_FOLDER = "/data/local/tmp/larq_ensemble"
LINUX_FOLDER = "/tmp/larq_ensemble"
TIMEOUT_SECONDS = 600


class Device(ABC):
    """A device that files can be pushed to and programs run on."""

    folder: str

    @abstractmethod
    def push(self, path: Path) -> str:
        """Copies a file to the device; returns its path there."""

    @abstractmethod
    def shell(self, *command: str) -> str:
        """Runs a command there; returns what it printed, errors included.

        # Raises
            EnsembleError: if the device can't be reached or the command fails.
        """


@dataclass(frozen=True)
class Android(Device):
    """An Android device behind adb; `serial` chooses one of several."""

    serial: str | None = None
    folder: str = ANDROID_FOLDER

    def push(self, path: Path) -> str:
        _run(*self._adb, "push", str(path), f"{self.folder}/{path.name}")
        return f"{self.folder}/{path.name}"

    def shell(self, *command: str) -> str:
        return _run(*self._adb, "shell", shlex.join(command))

    @property
    def _adb(self) -> list[str]:
        return ["adb", *(["-s", self.serial] if self.serial else [])]


@dataclass(frozen=True)
class Linux(Device):
    """A Linux board behind ssh; `host` as ssh takes it."""

    host: str
    folder: str = LINUX_FOLDER

    def push(self, path: Path) -> str:
        _run("scp", "-q", str(path), f"{self.host}:{self.folder}/{path.name}")
        return f"{self.folder}/{path.name}"

    def shell(self, *command: str) -> str:
        return _run("ssh", self.host, shlex.join(command))


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # the tool logs to stderr
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except FileNotFoundError as error:
        raise EnsembleError(f"There is no {command[0]!r} on the PATH: install it.") from error
    except subprocess.TimeoutExpired as error:
        raise EnsembleError(
            f"`{shlex.join(command)}` took longer than {TIMEOUT_SECONDS} s: is the device there?"
        ) from error
    if done.returncode:
        raise EnsembleError(f"`{shlex.join(command)}` failed: {_last_words(done.stdout)}")
    return done.stdout


def _last_words(output: str) -> str:
    """The line that says best what went wrong: the first error, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "ERROR" in line), lines[-1] if lines else "no output")


@dataclass(frozen=True)
class Timing:
    """What the tool reports of one graph, in microseconds.

    # Arguments
        init: loading the file and allocating tensors.
        first: the first inference, which packs the filters.
        average, deviation: of the `runs` inferences after the warm-up.
    """

    runs: int
    init: float
    first: float
    average: float
    deviation: float


_NUMBER = r"([-+.\de]+)"
_SUMMARY = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_UNKNOWN_FLAGS = re.compile(r"Unconsumed cmdline flags: *(.*)")
_STATISTICS = re.compile(rf"count=(\d+) first=.* std={_NUMBER}")


def parse_output(output: str) -> Timing:
    """Reads the output of TFLite's benchmark tool, of any version since 2020.

    # Raises
        EnsembleError: if it has no timings; with the tool's own error.
    """
    summary = _SUMMARY.search(output)
    if summary is None:
        raise EnsembleError(f"The benchmark tool reported no timings: {_last_words(output)}")
    init, first, _, average = map(float, summary.groups())
    # The last statistics are those of the timed runs; a single run has none.
    runs, deviation = (_STATISTICS.findall(output) or [("1", "0")])[-1]
    return Timing(int(runs), init, first, average, float(deviation))


@dataclass(frozen=True)
class Tool:
    """A benchmark tool on a device.

    # Arguments
        device: where it is.
        program: its path there.
        flags: those of every run.
        cores: a mask of cores that `taskset` pins it to, or `None`.
    """

    device: Device
    program: str
    flags: tuple[str, ...]
    cores: str | None = None

    def timing(self, graph: str, threads: int, inputs: Iterable[str] = ()) -> Timing:
        """Times a `.tflite` file of the device.

        # Raises
            EnsembleError: if the tool fails, or is too old to know a flag.
        """
        arguments = (f"--graph={graph}", f"--num_threads={threads}", *self.flags, *inputs)
        prefix = ("taskset", self.cores) if self.cores else ()
        output = self.device.shell(*prefix, self.program, *arguments)
        if unknown := _UNKNOWN_FLAGS.search(output):  # it would measure something else
            raise EnsembleError(
                f"The benchmark tool doesn't know {unknown[1]}: take that of LCE 0.16 or later for "
                "LCE's kernels, and TFLite's with --delegate and for files with builtin operators."
            )
        return parse_output(output)


@dataclass(frozen=True)
class Pushed:
    """A graph on the device: the path of the model that has no other, and flags for its inputs."""

    path: str
    flags: tuple[str, ...]


def pushed_graphs(
    device: Device, file: EnsembleFile, count: int
) -> tuple[Pushed | None, list[Pushed]]:
    """Pushes what the first members need to the device.

    # Returns
        What runs once per image, if there is such a graph, and what runs for each member.

    # Raises
        EnsembleError: if the file runs all members at once.
    """
    if file.metadata.layout == "branches":
        raise EnsembleError(
            "A file of the layout 'branches' has one graph without further inputs: run the tool "
            "on it as it is."
        )
    paths: dict[int, str] = {}

    def pushed(graph: Subgraph, member: int) -> Pushed:
        data = with_one_subgraph(file.data, graph.index)
        if graph.index not in paths:
            paths[graph.index] = _push_bytes(device, data, f"{graph.index}.tflite")
        return Pushed(paths[graph.index], input_flags(data, graph, member))

    once = None if file.trunk is None else pushed(file.trunk, 0)
    graphs = file.member_graphs
    return once, [pushed(graphs[member % len(graphs)], member) for member in range(count)]


def input_flags(data: bytes, graph: Subgraph, member: int) -> tuple[str, ...]:
    """The tool's flags for the inputs of a model with this one graph; none where floats do."""
    if "member" not in graph.inputs:
        return ()
    names = sorted(graph.inputs, key=graph.inputs.__getitem__)
    shapes = [",".join(map(str, tensor.shape)) for tensor in read_model(data).graphs[0].inputs]
    return (
        f"--input_layer={','.join(names)}",
        f"--input_layer_shape={':'.join(shapes)}",
        f"--input_layer_value_range=member,{member},{member}",
    )


def kernel_flags(file: EnsembleFile, kernel: str | None, delegate: str | None) -> tuple[str, ...]:
    """The tool's flags that choose what runs the binary convolutions.

    # Arguments
        file: what is measured.
        kernel: LCE's, `"indirect"` or `"default"`; `None`: `"indirect"` where LCE's tool runs.
        delegate: the path of the delegate on the device; `None`: none.

    # Raises
        EnsembleError: for a kernel of LCE's where LCE doesn't run.
    """
    is_stock = file.metadata.target == "litert"
    if delegate is None and not is_stock:
        return (
            f"--use_indirect_bgemm={str(kernel != 'default').lower()}",
            # TFLite would hand what it can to XNNPACK; the Python runtime doesn't with LCE either.
            "--use_xnnpack=false",
        )
    if is_stock and delegate is not None:
        raise EnsembleError(
            "--delegate runs operators of LCE, and the file has none: leave it out, or measure the "
            "file that this one was converted from."
        )
    if kernel is not None:
        raise EnsembleError(
            f"--kernel {kernel} is one of LCE's, which doesn't run "
            f"{'with --delegate' if delegate else 'this file'}: leave it out."
        )
    return () if delegate is None else (f"--external_delegate_path={delegate}",)


def table_row(
    threads: int, once: Sequence[Timing], timings: Sequence[Timing], single_us: float
) -> dict[str, Any]:
    """What m members take.

    # Arguments
        threads: of the tool.
        once: of what runs once per image, if anything.
        timings: of each of the m members.
        single_us: of one of the m models that they are compared with.
    """
    total = sum(timing.average for timing in (*once, *timings))
    return {
        "threads": threads,
        "members": len(timings),
        "latency_ms": total / 1000,
        "deviation_ms": math.hypot(*(timing.deviation for timing in (*once, *timings))) / 1000,
        "relative": total / (len(timings) * single_us),
        "start_ms": sum(timing.init + timing.first for timing in (*once, timings[0])) / 1000,
    }


@click.command()
@click.argument("tflite", metavar="F.tflite")
@click.option("--tool", required=True, metavar="PATH", help="The benchmark tool for the device.")
@click.option(
    "--delegate",
    metavar="PATH",
    help="liblarq_ensemble_delegate.so for the device, with TFLite's tool.",
)
@click.option("--ssh", metavar="HOST", help="An aarch64 Linux board  [default: Android, by adb]")
@click.option("--serial", metavar="SERIAL", help="One of several Android devices.")
@click.option("--members", type=member_counts, help="Numbers of members  [default: 1 to all]")
@click.option("--threads", type=member_counts, default="1", show_default=True)
@click.option(
    "--kernel",
    type=click.Choice(["indirect", "default"]),
    help="LCE's, of the binary convolutions; which is faster depends on the network  "
    "[default: indirect]",
)
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="At least.")
@click.option("--cores", metavar="MASK", help="taskset's mask of cores, such as f0: the big ones.")
@click.option("--run", metavar="RUN", help="Compare with a member of this run converted by itself.")
@json_option
def main(
    tflite: str,
    tool: str,
    delegate: str | None,
    ssh: str | None,
    serial: str | None,
    members: tuple[int, ...] | None,
    threads: tuple[int, ...],
    kernel: str | None,
    runs: int,
    cores: str | None,
    run: str | None,
    json_target: str | None,
) -> None:
    """Measure the latency of an ensemble file on a device, by members and threads."""
    with reporting(json_target) as report:
        file = read_ensemble(tflite)
        counts = members or tuple(range(1, file.metadata.members + 1))
        if max(counts) > file.metadata.members:
            raise EnsembleError(f"--members must be from 1 to {file.metadata.members}.")
        for option, path in (("--tool", tool), ("--delegate", delegate)):
            if path is not None and not Path(path).is_file():
                raise EnsembleError(f"{option} {path!r} is no file: see the top of this script.")
        kernel_flags(file, kernel, delegate)  # before anything is pushed
        device: Device = Linux(ssh) if ssh else Android(serial)
        name = device.shell("uname", "-srm").strip()
        device.shell("mkdir", "-p", device.folder)
        program = device.push(Path(tool))
        device.shell("chmod", "+x", program)
        library = None if delegate is None else device.push(Path(delegate))
        flags = (f"--num_runs={runs}", *kernel_flags(file, kernel, library))
        benchmark = Tool(device, program, flags, cores)
        common, graphs = pushed_graphs(device, file, max(counts))
        alone = None
        if run is not None:
            single = _single(run)
            if file.metadata.target == "litert":
                single = legalized(single, filters=file.metadata.filters or FILTERS[0])
            alone = _push_bytes(device, single, "single.tflite")
        rows, timings = [], []
        for count in threads:
            once = []
            if common is not None:
                once = [benchmark.timing(common.path, count, common.flags)]
                report.line(f"threads {count}, once per image: {once[0].average / 1000:.3f} ms")
                timings.append({"threads": count, "member": None, **asdict(once[0])})
            each = []
            for member, graph in enumerate(graphs):
                each.append(benchmark.timing(graph.path, count, graph.flags))
                report.line(f"threads {count}, member {member}: {each[-1].average / 1000:.3f} ms")
                timings.append({"threads": count, "member": member, **asdict(each[-1])})
            reference = [*once, each[0]] if alone is None else [benchmark.timing(alone, count)]
            single_us = sum(timing.average for timing in reference)
            rows += [table_row(count, once, each[:m], single_us) for m in counts]
        relative_to = "m times one member" if run is None else "separate models"
        if delegate is not None:
            used = "delegate"
        else:
            used = "builtin" if file.metadata.target == "litert" else kernel or "indirect"
        report.result = {
            "device": name,
            "kernel": used,
            "relative_to": relative_to,
            "rows": rows,
            "timings_us": timings,
        }
        report.table(
            f"{tflite} on {name}, {used} kernel, one image; ratios to {relative_to}",
            ["threads", "m", "ms", "deviation ms", "ratio", "start and first image ms"],
            [[*row.values()] for row in rows],
        )


def _single(run: str) -> bytes:
    """A member of a run, converted by itself."""
    from larq_ensemble.runs import load_run

    loaded = load_run(run)
    from larq_ensemble.convert.conversion import trained_ensemble
    from larq_ensemble.convert.frontend.single import convert_single

    return convert_single(trained_ensemble(loaded).member(0))


def _push_bytes(device: Device, data: bytes, name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        return device.push(path)


if __name__ == "__main__":
    run_command(main)
