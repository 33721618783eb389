"""What readers do with damaged files whose checksum is right.

    python benchmarks/damaged_files.py --count 2000 [--seed 0] [--readers lce,inspect,cut]

The files of `tests/data`, or those given, are damaged in three ways: bytes and offsets in the file,
one field of the flatbuffer's object tree (which is then packed again), and values of the JSON
metadata and of the custom operators' options. The checksum is made right after that, so that only
the checks behind it are tried. Readers run in a process of their own, which may crash or hang.
Prints a table of outcomes:

- answered: the damage makes no difference to the reader, or only to values;
- refused: an `EnsembleError`, as it should be;
- foreign: any other exception;
- crashed: the process ended by a signal, or was out of its 4 GiB of memory;
- hung: no answer after 10 seconds of the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import random
import resource
import signal
import struct
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers

from larq_ensemble.convert.commands.inspect import command as inspect_command
from larq_ensemble.convert.cutting import cut_file
from larq_ensemble.convert.export import export_file
from larq_ensemble.convert.file_conversion import convert_file
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.schema import schema
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import seal
from larq_ensemble.runtime.metadata import ENTRY
from larq_ensemble.tflite.flatbuffer import IDENTIFIER

DATA = Path(__file__).parents[1] / "tests" / "data"
OUTCOMES = ("answered", "refused", "foreign", "crashed", "hung")
SECONDS, MEMORY = 10, 4 << 30
NUMBERS = (0, 1, 2, 3, 7, 127, 255, 256, 65535, 1 << 20, (1 << 31) - 1, -1, -2, -(1 << 31))


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to three changes of bytes, most of them outside the constants."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        # Constants stand at the start and the end of a file; a table's numbers have many zeros.
        for _attempt in range(20):
            at = chance.randrange(0, len(data) - 8) & ~1
            if result[at : at + 8].count(0) >= 3:
                break
        kind = chance.randrange(4)
        if kind == 0:
            result[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            struct.pack_into("<H", result, at, chance.choice(NUMBERS) & 0xFFFF)
        elif kind == 2:
            struct.pack_into("<I", result, at & ~3, chance.choice(NUMBERS) & 0xFFFFFFFF)
        else:
            (value,) = struct.unpack_from("<I", result, at & ~3)
            value += chance.choice((-4, -2, -1, 1, 2, 4))
            struct.pack_into("<I", result, at & ~3, value & 0xFFFFFFFF)
    return bytes(result)


def damaged_field(data: bytes, chance: random.Random) -> bytes:
    """Another value in one field of one table, in a well-formed flatbuffer."""
    model = schema().ModelT.InitFromObj(schema().Model.GetRootAsModel(data, 0))
    tables = list(_tables(model))
    by_kind: dict[str, list[Any]] = {}
    for table in tables:
        by_kind.setdefault(type(table).__name__, []).append(table)
    table = chance.choice(by_kind[chance.choice(sorted(by_kind))])
    name = chance.choice(sorted(vars(table)))
    setattr(table, name, _other_value(getattr(table, name), chance))
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _tables(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _tables(item)
    elif hasattr(value, "Pack"):
        yield value
        for item in vars(value).values():
            yield from _tables(item)


def _other_value(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, np.integer)):
        return chance.choice((*NUMBERS[:7], int(value) + 1, max(int(value) - 1, 0)))
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, float("nan"), float("inf")))
    if isinstance(value, np.ndarray) and value.size and value.dtype == np.int32:
        other = value.copy()
        kind = chance.randrange(4)
        if kind == 0:
            return other[:-1]
        if kind == 1:
            return np.append(other, other[-1:])
        at = chance.randrange(other.size)
        other[at] = chance.choice((*NUMBERS, int(other[at]) + 1, int(other[at]) - 1))
        return other
    if isinstance(value, np.ndarray) and value.size:
        other = value.copy()
        if chance.randrange(2):
            return other[: chance.randrange(other.size)]
        other[chance.randrange(other.size)] = chance.randrange(256)
        return other
    if isinstance(value, list) and value:
        kind, at = chance.randrange(3), chance.randrange(len(value))
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value, value[at]]
        return value[::-1]
    return None


def damaged_values(data: bytes, chance: random.Random) -> bytes:
    """Another value in the metadata or in the options of one custom operator."""
    model = schema().ModelT.InitFromObj(schema().Model.GetRootAsModel(data, 0))
    custom = [
        op for graph in model.subgraphs for op in graph.operators if op.customOptions is not None
    ]
    custom = [op for op in custom if len(op.customOptions)]
    if custom and chance.randrange(2):
        op = chance.choice(custom)
        options = flexbuffers.Loads(op.customOptions.tobytes())
        name = chance.choice(sorted(options))
        options[name] = chance.choice((*NUMBERS, "text", None, 1.5, [1], options[name] + 1))
        if chance.randrange(8) == 0:
            del options[name]
        op.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)
        if chance.randrange(4) == 0:
            op.customOptions = _other_value(op.customOptions, chance)
    else:
        name = ENTRY.encode()
        entry = next(entry for entry in model.metadata if entry.name == name)
        values = json.loads(model.buffers[entry.buffer].data.tobytes())
        key = chance.choice(sorted(set(values) - {"sha256"}))
        odd: tuple[Any, ...] = (
            *NUMBERS,
            None,
            "text",
            [],
            {},
            [1, 2, 3],
            1e400,
            10**40,
            values[key],
        )
        values[key] = chance.choice(odd)
        if isinstance(values[key], list) and values[key] and chance.randrange(2):
            values[key][chance.randrange(len(values[key]))] = chance.choice(odd)
        values["sha256"] = values.pop("sha256")
        content = json.dumps(values, separators=(",", ":")).encode()
        model.buffers[entry.buffer].data = np.frombuffer(content, np.uint8)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    damaged_bytes,
    damaged_field,
    damaged_field,
    damaged_values,
)


def damaged(files: list[bytes], number: int, seed: int) -> bytes:
    """A damaged file with a right checksum; the same for the same arguments."""
    for attempt in range(100):
        chance = random.Random(f"{seed}-{number}-{attempt}")
        try:
            return seal(chance.choice(DAMAGES)(chance.choice(files), chance))
        except Exception:  # can't be packed, or the place of the checksum isn't found any more
            continue
    raise RuntimeError("no damage can be written")


def open_and_run(kernel: str, path: Path) -> None:
    """Opens a file and runs all its members with a kernel, and so with its back end."""
    ensemble = EnsembleInterpreter(path, kernel=kernel)
    ensemble.predict(np.zeros((1, *ensemble.input_shape), np.uint8))


def cut(path: Path) -> None:
    """Cuts a file to its first member."""
    cut_file(path, path.with_suffix(".cut"), 1)


def inspect(path: Path) -> None:
    """Runs the command `inspect`, and again with `--strict`."""
    with contextlib.redirect_stdout(io.StringIO()):
        inspect_command.main([str(path)], standalone_mode=False)
        inspect_command.main([str(path), "--strict"], standalone_mode=False)


def convert(path: Path) -> None:
    """Writes a file for stock runtimes, which compares it with the damaged one."""
    convert_file(path, path.with_suffix(".stock"))


def export(path: Path) -> None:
    """Writes C for microcontrollers."""
    export_file(path, path.with_suffix(".exported"))


READERS: dict[str, Callable[[Path], Any]] = {
    "lce": partial(open_and_run, "default"),
    "litert": partial(open_and_run, "builtin"),
    "delegate": partial(open_and_run, "delegate"),
    "inspect": inspect,
    "cut": cut,
    "convert": convert,
    "export": export,
}


def work(files: list[bytes], seed: int, pipe: Connection) -> None:
    """Answers a damage's number and the names of readers with what each reader did."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged.tflite")
        while True:
            number, readers = pipe.recv()
            path.write_bytes(damaged(files, number, seed))
            for reader in readers:
                # SIGPROF ends the process, in C++ code, too. A busy machine doesn't look like it.
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                outcome = outcome_of(reader, path)
                signal.setitimer(signal.ITIMER_PROF, 0)
                pipe.send(outcome)


def outcome_of(reader: str, path: Path) -> tuple[str, str]:
    """What a reader does with a file, and its error."""
    try:
        READERS[reader](path)
    except EnsembleError as error:
        return "refused", str(error)
    except Exception:
        return "foreign", traceback.format_exc(limit=-2)
    return "answered", ""


class Worker:
    """A process that reads damaged files; a new one replaces one that crashed or hangs."""

    def __init__(self, files: list[bytes], seed: int) -> None:
        self._arguments = files, seed
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(*self._arguments, other), daemon=True)
        self._process.start()
        other.close()

    def outcomes(self, number: int, readers: list[str]) -> Iterator[tuple[str, str]]:
        """What each reader does with one damaged file, and its error."""
        self._pipe.send((number, readers))
        for place in range(len(readers)):
            outcome = "hung", "without using the processor"
            if self._pipe.poll(30 * SECONDS):
                try:
                    outcome = self._pipe.recv()
                except EOFError:
                    self._process.join()
                    code = self._process.exitcode
                    outcome = "hung" if code == -signal.SIGPROF else "crashed", f"exit code {code}"
            yield outcome
            if outcome[0] in ("hung", "crashed"):
                self.stop()
                self._start()
                self._pipe.send((number, readers[place + 1 :]))

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


def main() -> None:
    """Prints the table, and every outcome that should not be with `--verbose`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(DATA.glob("*.tflite")))
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", default="lce,litert,inspect,cut,convert,export")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    files = [path.read_bytes() for path in arguments.files]
    readers = arguments.readers.split(",")
    worker, counts = Worker(files, arguments.seed), Counter[tuple[str, str]]()
    for number in range(arguments.first, arguments.first + arguments.count):
        for reader, (outcome, reason) in zip(
            readers, worker.outcomes(number, readers), strict=True
        ):
            counts[reader, outcome] += 1
            if arguments.verbose and outcome not in ("answered", "refused"):
                print(f"{reader} {number}: {outcome} {reason}", flush=True)
    worker.stop()
    print(f"{'reader':>10}", *(f"{name:>9}" for name in OUTCOMES))
    for reader in readers:
        print(f"{reader:>10}", *(f"{counts[reader, name]:>9}" for name in OUTCOMES))


if __name__ == "__main__":
    main()
