"""An int8 network as a C program that calls CMSIS-NN: what runs on a microcontroller instead.

`program` reads a file of `larq-ensemble convert RUN --quantize int8` and writes what an engineer
would write by hand: each operator is a call of the kernel of CMSIS-NN that TensorFlow Lite Micro
calls for it, with the same quantization parameters, but without an interpreter. The normalization
of the image and its quantization become a table of 256 numbers a channel, additions take the place
of an input that nobody else reads, and maps share memory by their lifetimes.

CMSIS-NN comes from a clone of https://github.com/ARM-software/CMSIS-NN.

# References
    - Lai, Suda, Chandra 2018, [CMSIS-NN: Efficient neural network kernels for Arm Cortex-M
      CPUs](https://arxiv.org/abs/1801.06601).
    - [TFLite's specification](https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec)
      of the arithmetic.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.convert import emulation
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Graph, Operator, Tensor
from larq_ensemble.ir.schema import enum
from larq_ensemble.ir.windows import Axis
from larq_ensemble.tflite.arena import Life, end_of, offsets

#: Kernels of these folders of CMSIS-NN, of int8 only.
_FOLDERS = ("BasicMath", "Convolution", "FullyConnected", "NNSupport", "Pooling")
#: The optimization of CMSIS-NN's CMakeLists.txt, and the two options that save instructions on
#: cores with DSP instructions.
FLAGS = (
    "-Ofast",
    "-DCMSIS_NN_USE_REQUANTIZE_INLINE_ASSEMBLY",
    "-DOPTIONAL_RESTRICT_KEYWORD=__restrict",
)
_MAIN = Path(__file__).with_name("int8_network_main.c")
#: Bits by which ADD shifts its inputs before it scales them.
_ADD_SHIFT = 20
_ALIGNMENT = 16

_HEADER = """\
/* By benchmarks/cmsis_nn.py */
#include <stdint.h>

enum {{ INT8_PIXELS = {pixels}, INT8_CLASSES = {classes}, INT8_ARENA_BYTES = {arena} }};

/* Bytes of scratch memory that the kernels want on this core. */
int32_t int8_scratch_bytes(void);

/* The logits of an image, [y, x, channel]; returns 0, or another number if a kernel refuses. */
int int8_network(int8_t *arena, void *scratch, int32_t scratch_bytes, const uint8_t *image,
                 float *logits);
"""

_SOURCE = """\
/* By benchmarks/cmsis_nn.py */
#include "int8_network.h"

#include <stddef.h>

#include "arm_nnfunctions.h"
#include "arm_nnsupportfunctions.h"

{constants}

int32_t int8_scratch_bytes(void) {{
  int32_t most = 0, bytes = 0;
{scratch}
  return most;
}}

int int8_network(int8_t *arena, void *scratch, int32_t scratch_bytes, const uint8_t *image,
                 float *logits) {{
  int status = 0;
  const cmsis_nn_context context = {{scratch, scratch_bytes}};
{steps}
  return status;
}}
"""


class NoKernelError(EnsembleError):
    """A network with something that CMSIS-NN doesn't compute, or that isn't written for it."""


def kernel_sources(clone: Path) -> list[Path]:
    """The sources of CMSIS-NN's int8 kernels.

    # Arguments
        clone: the repository's folder.

    # Raises
        EnsembleError: if they aren't there.
    """
    folders = [clone / "Source" / f"{name}Functions" for name in _FOLDERS]
    found = [path for folder in folders for path in sorted(folder.glob("*_s8*.c"))]
    if not found:
        raise EnsembleError(
            f"`cmsis_nn` is {str(clone)!r}, which holds no CMSIS-NN: "
            "git clone https://github.com/ARM-software/CMSIS-NN"
        )
    return [*found, clone / "Source" / "NNSupportFunctions" / "arm_nntables.c"]


def commit(clone: Path) -> str:
    """The commit of a clone, or "unknown" where it is no clone."""
    command = ["git", "-C", str(clone), "log", "-1", "--format=%h of %cs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


@dataclass(frozen=True)
class Program:
    """A network as C.

    # Arguments
        files: text by file name.
        constant_bytes: filters, biases, multipliers and tables.
        map_bytes: the arena, without the scratch memory of kernels.
        step: from one logit to the next larger one.
    """

    files: dict[str, str]
    constant_bytes: int
    map_bytes: int
    step: float


def program(data: bytes) -> Program:
    """A quantized network as C99.

    # Arguments
        data: of a `.tflite` file.

    # Raises
        NoKernelError: if CMSIS-NN has no kernel for an operator.
        EnsembleError: if the file isn't int8.
    """
    network = _Network.of(read(data).graphs[0])
    writer = _Writer(network)
    steps = [writer.pixels(), *map(writer.step, network.operators), writer.logits()]
    sizes = {
        "pixels": network.image.size,
        "classes": network.logits.size,
        "arena": network.map_bytes,
    }
    files = {
        "int8_network.h": _HEADER.format(**sizes),
        "int8_network.c": _SOURCE.format(
            constants="\n".join(writer.constants),
            scratch="\n".join(writer.scratch),
            steps="\n".join(steps),
        ),
    }
    return Program(files, writer.constant_bytes, network.map_bytes, _scale(network.logits))


@dataclass(frozen=True)
class Int8Cost:
    """What a network takes on a processor.

    # Arguments
        instructions: of an image.
        code_bytes: of flash: the kernels and their calls, without what they take from libc.
        ram_bytes: maps and the kernels' scratch memory.
        stack_bytes: the most that was used.
        logits: of the images that were run, float32 `[n, classes]`.
    """

    instructions: int
    code_bytes: int
    ram_bytes: int
    stack_bytes: int
    logits: np.ndarray


class Kernels:
    """CMSIS-NN, compiled once for each processor.

    # Arguments
        clone: the repository's folder.
        folder: for objects.
    """

    def __init__(self, clone: Path, folder: Path) -> None:
        self.clone, self.folder = clone, folder
        self._objects: dict[str, list[Path]] = {}

    def objects(self, cpu: str) -> list[Path]:
        """The kernels for a processor."""
        if cpu not in self._objects:
            folder = self.folder / cpu
            folder.mkdir()
            self._objects[cpu] = [
                emulation.compiled(source, folder / f"{source.stem}.o", cpu, flags=self._flags())
                for source in kernel_sources(self.clone)
            ]
        return self._objects[cpu]

    def count(self, network: Program, images: np.ndarray, cpu: str) -> Int8Cost:
        """Runs a network on an emulated board, and counts what the first image takes.

        # Arguments
            network: of `program`.
            images: uint8 `[n, height, width, channels]`.
            cpu: a key of `larq_ensemble.convert.emulation.BOARDS`.

        # Raises
            EmulationError: if a tool is missing or the program fails.
        """
        objects = self.objects(cpu)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name, text in network.files.items():
                (folder / name).write_text(text, encoding="utf-8")
            (folder / "images").write_bytes(np.ascontiguousarray(images).tobytes())
            flags = [*self._flags(), f"-I{folder}"]
            sources = [*objects, folder / "int8_network.c", _MAIN]
            elf = emulation.build(sources, folder / "network.elf", cpu, flags=flags)
            output, (instructions,) = emulation.count(elf, cpu, ["images"], folder=folder)
            sizes, *logits = output.splitlines()
            scratch, stack = map(int, sizes.split())
            return Int8Cost(
                instructions=instructions,
                code_bytes=_kernel_code(elf),
                ram_bytes=network.map_bytes + scratch,
                stack_bytes=stack,
                logits=np.array([line.split() for line in logits], np.float32),
            )

    def _flags(self) -> list[str]:
        return ["-std=c11", *FLAGS, f"-I{self.clone / 'Include'}"]


def _kernel_code(elf: Path) -> int:
    """Bytes of code of CMSIS-NN's functions and of the network in a program."""
    command = ["arm-none-eabi-nm", "--print-size", "--radix=d", os.fspath(elf)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = (line.split() for line in lines)
    return sum(
        int(symbol[1])
        for symbol in symbols
        if len(symbol) == 4 and symbol[2] in "tT" and re.match(r"arm_|int8_", symbol[3])
    )


@dataclass(frozen=True)
class _Network:
    """What is between the first QUANTIZE and the last DEQUANTIZE.

    # Arguments
        operators: of int8 tensors, in order.
        pixel_table: what becomes of a byte of the image, int8 `[channels, 256]`.
        image, logits: the first and the last int8 tensor.
        offsets: where each map lies in the arena.
        map_bytes: the arena.
    """

    operators: tuple[Operator, ...]
    pixel_table: np.ndarray
    image: Tensor
    logits: Tensor
    offsets: dict[Tensor, int]
    map_bytes: int

    @classmethod
    def of(cls, graph: Graph) -> _Network:
        """The network of a graph.

        # Raises
            EnsembleError: if it isn't quantized as `convert` does it.
        """
        first, last = graph.find("QUANTIZE"), graph.find("DEQUANTIZE")
        if len(first) != 1 or len(last) != 1:
            raise EnsembleError("The file is no network of `convert --quantize int8`.")
        (image,), (logits,) = first[0].outputs, last[0].operands
        computed = graph.computed_from([image])
        operators = tuple(
            op for op in graph.operators if op not in last and not computed.isdisjoint(op.operands)
        )
        places, size = _places(image, operators)
        return cls(operators, _pixel_table(graph, first[0]), image, logits, places, size)


def _pixel_table(graph: Graph, quantize: Operator) -> np.ndarray:
    """What the operators before the first int8 tensor make of each byte, int8 `[channels, 256]`."""
    (image,) = quantize.outputs
    values = np.tile(np.arange(256, dtype=np.float32)[:, np.newaxis], image.shape[-1])
    for op in graph.operators[: graph.operators.index(quantize)]:
        if op.name not in ("MUL", "ADD"):
            raise NoKernelError(f"{op.name} can't stand before the network is quantized.")
        (constant,) = (tensor.values for tensor in op.operands if tensor.data is not None)
        values = values * constant if op.name == "MUL" else values + constant
    scaled = values / np.float32(_scale(image))
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)) + _zero(image)
    return np.clip(rounded, -128, 127).astype(np.int8).T


def _places(image: Tensor, operators: Sequence[Operator]) -> tuple[dict[Tensor, int], int]:
    """Where each map lies in the arena, and the bytes of the arena."""
    #: The maps that follow each other in one place, and the first and the last step that need it.
    first, last = {image: 0}, {image: 0}
    place = {image: image}
    for number, op in enumerate(operators, start=1):
        maps = [place[tensor] for tensor in op.operands if tensor.data is None]
        last.update(dict.fromkeys(maps, number))
        later = {tensor for other in operators[number:] for tensor in other.operands}
        free = [tensor for tensor in op.operands if tensor in place and tensor not in later]
        (y,) = op.outputs
        # An addition goes number by number, so the sum may take the place of one of the two.
        place[y] = place[free[0]] if op.name == "ADD" and free else y
        first.setdefault(place[y], number)
        last[place[y]] = number
    lives = [[Life(tensor.size, first[tensor], last[tensor])] for tensor in first]
    starts = offsets(lives, _ALIGNMENT)
    where = dict(zip(first, starts, strict=True))
    return {tensor: where[place[tensor]] for tensor in place}, end_of(lives, starts)


def quantized_multiplier(factor: float) -> tuple[int, int]:
    """A factor as a whole number of 31 bits and a power of 2: `multiplier / 2**31 * 2**shift`."""
    fraction, shift = math.frexp(factor)
    multiplier = round(fraction * 2**31)
    return (multiplier // 2, shift + 1) if multiplier == 2**31 else (multiplier, shift)


class _Writer:
    """Writes the steps, and the constants that they need.

    # Arguments
        network: what to write.
    """

    def __init__(self, network: _Network) -> None:
        self.network = network
        self.constants: list[str] = []
        self.constant_bytes = 0
        #: C statements that find out how much scratch memory the kernels want.
        self.scratch: list[str] = []
        self._numbers = itertools.count()

    def step(self, op: Operator) -> str:
        """The C statements of an operator."""
        write = {
            "CONV_2D": self._convolution,
            "ADD": self._addition,
            "AVERAGE_POOL_2D": self._pooling,
            "MAX_POOL_2D": self._pooling,
            "MEAN": self._mean,
            "FULLY_CONNECTED": self._linear,
        }.get(op.name)
        (y,) = op.outputs
        if write is None or y.dtype != "int8":
            raise NoKernelError(f"{op.name} of {y.dtype} can't be written for CMSIS-NN.")
        return write(op)

    def pixels(self) -> str:
        """The image as int8."""
        image = self.network.image
        table = self._constant("pixel_table", self.network.pixel_table, "int8_t")
        channels = image.shape[-1]
        return (
            f"  for (int i = 0; i < {image.size}; i += {channels})\n"
            f"    for (int c = 0; c < {channels}; c++)\n"
            f"      ({self._at(image)})[i + c] = {table}[256 * c + image[i + c]];"
        )

    def logits(self) -> str:
        """The last int8 numbers as floats."""
        logits = self.network.logits
        return (
            f"  for (int i = 0; i < {logits.size}; i++)\n    logits[i] = "
            f"{_scale(logits):.9g}f * (float)(({self._at(logits)})[i] - {_zero(logits)});"
        )

    def _convolution(self, op: Operator) -> str:
        x, filters, bias = op.inputs
        (y,) = op.outputs
        assert x is not None
        assert filters is not None
        options = op.options
        name = f"convolution_{next(self._numbers)}"
        tile = (options.dilationWFactor, options.dilationHFactor)
        self.constants.append(
            f"static const cmsis_nn_conv_params {name} = {{{-_zero(x)}, {_zero(y)}, "
            f"{_window(x, filters.shape[1:3], options, tile)}, {_tile(*tile)}, {_range(op)}}};"
        )
        dims = [_dims(tensor.shape) for tensor in (x, filters, y)]
        self._ask(f"arm_convolve_wrapper_s8_get_buffer_size(&{name}, {', '.join(dims)})")
        multipliers = self._multipliers(_scales(filters) * _scale(x) / _scale(y), y.shape[-1])
        return _call(
            "arm_convolve_wrapper_s8",
            "&context",
            f"&{name}",
            f"&(cmsis_nn_per_channel_quant_params){{{multipliers}}}",
            dims[0],
            self._at(x),
            dims[1],
            self._constant("filters", filters.values, "int8_t"),
            _dims((1, 1, 1, y.shape[-1])),
            self._bias(bias),
            dims[2],
            self._at(y),
        )

    def _linear(self, op: Operator) -> str:
        x, filters, bias = op.inputs
        (y,) = op.outputs
        assert x is not None
        assert filters is not None
        classes, depth = filters.shape
        multipliers = self._multipliers(_scales(filters) * _scale(x) / _scale(y), classes)
        # On a core with Helium the kernel wants the sums of the filters, which are constants.
        sums = filters.values.astype(np.int64).sum(axis=1) * -_zero(x)
        sums = sums if bias is None else sums + bias.values
        name = self._constant("filter_sums", sums, "int32_t")
        return _call(
            "arm_fully_connected_wrapper_s8",
            f"&(cmsis_nn_context){{(void *){name}, {4 * classes}}}",
            f"&(cmsis_nn_fc_params){{{-_zero(x)}, 0, {_zero(y)}, {_range(op)}}}",
            f"&(cmsis_nn_quant_params){{{multipliers}, 1}}",
            _dims((1, 1, 1, depth)),
            self._at(x),
            _dims((depth, 1, 1, classes)),
            self._constant("filters", filters.values, "int8_t"),
            _dims((1, 1, 1, classes)),
            self._bias(bias),
            _dims((1, 1, 1, classes)),
            self._at(y),
        )

    def _addition(self, op: Operator) -> str:
        (y,) = op.outputs
        # TFLite's: both to twice the larger scale, with some more bits.
        common = 2 * max(_scale(x) for x in op.operands)
        inputs = [(-_zero(x), *quantized_multiplier(_scale(x) / common)) for x in op.operands]
        output = (_zero(y), *quantized_multiplier(common / (2**_ADD_SHIFT * _scale(y))))
        return _call(
            "arm_elementwise_add_s8",
            *(self._at(x) for x in op.operands),
            *(str(number) for numbers in inputs for number in numbers),
            str(_ADD_SHIFT),
            self._at(y),
            *map(str, output),
            _range(op).strip("{}"),
            str(y.size),
        )

    def _pooling(self, op: Operator) -> str:
        (x,), (y,), options = op.operands, op.outputs, op.options
        size = (options.filterHeight, options.filterWidth)
        kind = {"AVERAGE_POOL_2D": "avgpool", "MAX_POOL_2D": "max_pool"}[op.name]
        if kind == "avgpool":
            self._ask(f"arm_avgpool_s8_get_buffer_size({y.shape[2]}, {y.shape[3]})")
        return _call(
            f"arm_{kind}_s8",
            "&context",
            f"&(cmsis_nn_pool_params){{{_window(x, size, options, (1, 1))}, {_range(op)}}}",
            _dims(x.shape),
            self._at(x),
            _dims((1, *size, 1)),
            _dims(y.shape),
            self._at(y),
        )

    def _mean(self, op: Operator) -> str:
        """CMSIS-NN has no mean with a scale of its own; TensorFlow Lite Micro's is plain C, too."""
        x, axes = op.operands
        (y,) = op.outputs
        if [*axes.values] != [1, 2]:
            raise NoKernelError(f"MEAN over the axes {[*axes.values]} can't be written.")
        pixels, channels = x.shape[1] * x.shape[2], x.shape[3]
        multiplier, shift = quantized_multiplier(_scale(x) / _scale(y) / pixels)
        return (
            f"  for (int c = 0; c < {channels}; c++) {{\n"
            f"    int32_t sum = {-_zero(x) * pixels};\n"
            f"    for (int i = c; i < {x.size}; i += {channels}) sum += ({self._at(x)})[i];\n"
            f"    sum = arm_nn_requantize(sum, {multiplier}, {shift}) + {_zero(y)};\n"
            f"    ({self._at(y)})[c] = (int8_t)(sum < -128 ? -128 : sum > 127 ? 127 : sum);\n"
            "  }"
        )

    def _at(self, tensor: Tensor) -> str:
        return f"arena + {self.network.offsets[tensor]}"

    def _ask(self, call: str) -> None:
        self.scratch += [f"  bytes = {call};", "  if (bytes > most) most = bytes;"]

    def _bias(self, bias: Tensor | None) -> str:
        return "NULL" if bias is None else self._constant("bias", bias.values, "int32_t")

    def _multipliers(self, factors: np.ndarray, channels: int) -> str:
        """Two fields: multipliers and shifts, which stay in flash."""
        pairs = [quantized_multiplier(f) for f in np.broadcast_to(factors, channels).tolist()]
        multipliers, shifts = (np.array(numbers) for numbers in zip(*pairs, strict=True))
        names = (
            self._constant("multipliers", multipliers, "int32_t"),
            self._constant("shifts", shifts, "int32_t"),
        )
        return ", ".join(f"(int32_t *){name}" for name in names)

    def _constant(self, kind: str, values: np.ndarray, dtype: str) -> str:
        name = f"{kind}_{next(self._numbers)}"
        numbers = ", ".join(map(str, values.reshape(-1).tolist()))
        self.constants.append(f"static const {dtype} {name}[{values.size}] = {{{numbers}}};")
        self.constant_bytes += values.size * {"int8_t": 1, "int32_t": 4}[dtype]
        return name


def _call(function: str, *arguments: str) -> str:
    return f"  status |= {function}({', '.join(arguments)});"


def _dims(shape: Sequence[int]) -> str:
    return f"&(cmsis_nn_dims){{{', '.join(map(str, shape))}}}"


def _tile(width: int, height: int) -> str:
    return f"{{{width}, {height}}}"


def _window(x: Tensor, size: Sequence[int], options: Any, dilations: tuple[int, int]) -> str:
    """Two fields: strides and padding."""
    strides = _tile(options.strideW, options.strideH)
    if options.padding == enum("Padding")["VALID"]:
        return f"{strides}, {_tile(0, 0)}"
    axes = Axis.both(
        x.shape, (0, *size), (options.strideH, options.strideW), (dilations[1], dilations[0])
    )
    top, left = (axis.padding[0] for axis in axes)
    return f"{strides}, {_tile(left, top)}"


def _range(op: Operator) -> str:
    """The field of the fused activation: the smallest and the largest number that may come out."""
    (y,) = op.outputs
    bounds = {"NONE": (-math.inf, math.inf), "RELU": (0, math.inf), "RELU6": (0, 6)}
    known = {enum("ActivationFunctionType")[name]: pair for name, pair in bounds.items()}
    if op.activation not in known:
        raise NoKernelError(f"The activation of {op.name} can't be written for CMSIS-NN.")
    low, high = (bound / _scale(y) + _zero(y) for bound in known[op.activation])
    return f"{{{round(max(low, -128))}, {round(min(high, 127))}}}"


def _scales(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.quantization.scale, np.float64)


def _scale(tensor: Tensor) -> float:
    (scale,) = _scales(tensor)
    return float(scale)


def _zero(tensor: Tensor) -> int:
    (zero,) = tensor.quantization.zeroPoint
    return int(zero)
