"""LCE's operators on LiteRT, legalized and by the delegate, on LCE, and in NumPy on the bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, load_delegate
from flatbuffers import flexbuffers
from hypothesis import given, settings
from hypothesis import strategies as st

from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.ir.schema import schema
from larq_ensemble.legalization import FILTERS, legalize, legalized
from larq_ensemble.runtime.backends.lce import load_extension

from ...builder import Builder, names
from ...built_delegate import library

SAME, VALID = 0, 1
#: Of int8 outputs.
SCALE, ZERO = 0.37, -5
#: The schema's numbers of fused activations, and what they do.
ACTIVATIONS = {0: (-np.inf, np.inf), 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}


def quantized(scale: float, zero: int) -> Any:
    table = schema().QuantizationParametersT()
    table.scale, table.zeroPoint = np.array([scale], "f4"), np.array([zero])
    return table


@dataclass(frozen=True)
class Convolution:
    """An LceBconv2d on a map `[1, *size, channels * groups]`."""

    size: tuple[int, int]
    channels: int
    groups: int
    outputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: int = VALID
    pad_value: int = 0
    activation: int = 0
    output: str = "float32"
    seed: int = 0

    def draw(self, kind: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, kind])

    @property
    def input(self) -> np.ndarray:
        return self.draw(0).normal(size=(1, *self.size, self.channels * self.groups)).astype("f4")

    @property
    def filters(self) -> np.ndarray:
        return self.draw(1).choice([-1, 1], (self.outputs, *self.kernel, self.channels))

    @property
    def multiplier(self) -> np.ndarray:
        return self.draw(2).normal(size=self.outputs).astype("f4")

    @property
    def bias(self) -> np.ndarray:
        return self.draw(3).normal(size=self.outputs).astype("f4")

    @property
    def thresholds(self) -> np.ndarray:
        terms = self.filters[0].size
        values = self.draw(4).integers(-1, terms + 2, self.outputs)
        extremes = self.draw(5).choice([0, 0, 0, -(2**31), 2**31 - 1], self.outputs)
        return np.where(extremes, extremes, values).astype("i4")

    def add(self, build: Builder, name: str) -> Tensor:
        """Adds the operator on the input `name`; packed outputs are unpacked."""
        y = self.on(build, pack(build, build.input(name, *self.input.shape)))
        return unpack(build, y, self.outputs) if self.output == "int32" else y

    def on(
        self,
        build: Builder,
        words: Tensor,
        multiplier: Tensor | None = None,
        thresholds: Tensor | None = None,
    ) -> Tensor:
        """Adds the operator on packed words."""
        custom = {
            "channels_in": self.channels * self.groups,
            "dilation_height_factor": self.dilations[0],
            "dilation_width_factor": self.dilations[1],
            "fused_activation_function": self.activation,
            "pad_values": self.pad_value,
            "padding": self.padding,
            "stride_height": self.strides[0],
            "stride_width": self.strides[1],
        }
        rows, columns = self._outputs(0), self._outputs(1)
        is_packed = self.output == "int32"
        channels = -(-self.outputs // 32) if is_packed else self.outputs
        if is_packed:
            thresholds = thresholds or build.constant(self.thresholds, "int32")
        else:
            multiplier = multiplier or build.constant(self.multiplier)
        output = build.op(
            "LceBconv2d",
            words,
            build.constant(bit_packed(self.filters), "int32"),
            multiplier,
            None if is_packed else build.constant(self.bias),
            thresholds,
            shape=(1, rows, columns, channels),
            dtype=self.output,
            custom=bytes(flexbuffers.Dumps(custom)),
        )
        output.quantization = quantized(SCALE, ZERO) if self.output == "int8" else None
        return output

    def sums(self) -> np.ndarray:
        """Sums of products of signs, from the definition of a convolution."""
        signs = np.where(self.input < 0, -1, 1)
        before, after = zip(*(self._padding(axis) for axis in (0, 1)), strict=True)
        padded = np.pad(
            signs,
            [(0, 0), *zip(before, after, strict=True), (0, 0)],
            constant_values=self.pad_value,
        )
        rows, columns = (self._outputs(axis) for axis in (0, 1))
        sums = np.zeros((1, rows, columns, self.outputs), int)
        parts = self.outputs // self.groups
        for y, x in np.ndindex(self.kernel):
            top, left = y * self.dilations[0], x * self.dilations[1]
            tap = padded[:, top :: self.strides[0], left :: self.strides[1]][:, :rows, :columns]
            for group in range(self.groups):
                some = slice(group * parts, (group + 1) * parts)
                inputs = slice(group * self.channels, (group + 1) * self.channels)
                sums[..., some] += tap[..., inputs] @ self.filters[some, y, x].T
        return sums

    def expected(self) -> np.ndarray:
        sums = self.sums()
        if self.output == "int32":
            differing = (self.filters[0].size - sums) // 2
            return np.where(differing > self.thresholds.astype(np.int64), -1, 1)
        reals = np.clip(sums, *ACTIVATIONS[self.activation]) * self.multiplier + self.bias
        if self.output == "int8":
            return np.clip(np.round(reals / SCALE) + ZERO, -128, 127)
        return reals

    def _outputs(self, axis: int) -> int:
        if self.padding == SAME:
            return -(-self.size[axis] // self.strides[axis])
        return (self.size[axis] - self._extent(axis)) // self.strides[axis] + 1

    def _extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def _padding(self, axis: int) -> tuple[int, int]:
        if self.padding == VALID:
            return 0, 0
        needed = (self._outputs(axis) - 1) * self.strides[axis] + self._extent(axis)
        total = max(needed - self.size[axis], 0)
        return total // 2, total - total // 2


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    output = draw(st.sampled_from(["float32", "int32", "int8"]))
    padding = draw(st.sampled_from([SAME, VALID]))
    activation = draw(st.sampled_from([0, 0, 1, 2, 3]))
    only_ones = output != "float32" or activation != 0
    return Convolution(
        # LCE miscomputes zero padding around a map that is smaller than the filter.
        size=(draw(st.integers(extents[0], 8)), draw(st.integers(extents[1], 8))),
        channels=draw(st.sampled_from([32, 64])) if groups > 1 else draw(st.integers(1, 70)),
        groups=groups,
        outputs=groups * draw(st.integers(1, 20)),
        kernel=kernel,
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        dilations=dilations,
        padding=padding,
        pad_value=1 if only_ones else draw(st.sampled_from([0, 1])),
        activation=0 if output == "int32" else activation,
        output=output,
        seed=draw(st.integers(0, 1000)),
    )


def on_lce(module: Module, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    interpreter = load_extension().LiteInterpreter(write(module), 1, False, True, False)
    signature = module.graph.signature
    by_tensor = {tensor: inputs[name] for name, tensor in signature.inputs.items()}
    values = interpreter.predict([by_tensor[tensor] for tensor in module.graph.inputs])
    outputs = dict(zip(module.graph.outputs, values, strict=True))
    return {name: outputs[tensor] for name, tensor in signature.outputs.items()}


def on_litert(
    module: Module, inputs: Mapping[str, np.ndarray], filters: str
) -> dict[str, np.ndarray]:
    data = legalized(write(module), filters=filters)
    interpreter = Interpreter(model_content=data, num_threads=1)
    return interpreter.get_signature_runner()(**inputs)


def on_delegate(
    module: Module, inputs: Mapping[str, np.ndarray], threads: int
) -> dict[str, np.ndarray]:
    delegates = [load_delegate(str(library()), {"num_threads": threads})]
    interpreter = Interpreter(model_content=write(module), experimental_delegates=delegates)
    return interpreter.get_signature_runner()(**inputs)


def results(
    module: Module, inputs: Mapping[str, np.ndarray], *, delegated: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """What LCE computes of a module, and LiteRT of its legalized forms and by the delegate."""
    threads = (1, 3) if delegated and library() is not None else ()
    by_delegate = {f"delegate on {n}": on_delegate(module, inputs, n) for n in threads}
    return {
        "lce": on_lce(module, inputs),
        **{filters: on_litert(module, inputs, filters) for filters in FILTERS},
        **by_delegate,
    }


def check(
    module: Module,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    *,
    delegated: bool = True,
) -> None:
    """Checks what LCE and LiteRT compute against the definition."""
    for runtime, outputs in results(module, inputs, delegated=delegated).items():
        for name, values in expected.items():
            where = f"{name} by {runtime}"
            assert outputs[name].dtype == values.dtype, where
            # A real halfway between two integers may become either.
            least = 1 if values.dtype == np.int8 else 1e-4
            np.testing.assert_allclose(outputs[name], values, 1e-5, least, err_msg=where)


@settings(max_examples=3)
@given(st.lists(convolutions(), min_size=8, max_size=8))
def test_convolutions(drawn: Sequence[Convolution]):
    build = Builder()
    outputs = {repr(one): one.add(build, f"x{n}") for n, one in enumerate(drawn)}
    inputs = {f"x{n}": one.input for n, one in enumerate(drawn)}
    expected = {
        repr(one): one.expected().astype("i1" if one.output == "int8" else "f4") for one in drawn
    }
    check(build.module(**outputs), inputs, expected)


def signs(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, -1, 1)


def pack(build: Builder, x: Tensor) -> Tensor:
    words = -(-x.shape[-1] // 32)
    return build.op("LceQuantize", x, shape=(*x.shape[:-1], words), dtype="int32", custom=b"")


def unpack(build: Builder, words: Tensor, channels: int, dtype: str = "float32") -> Tensor:
    shape = (*words.shape[:-1], channels)
    return build.op("LceDequantize", words, shape=shape, dtype=dtype, custom=b"")


def test_signs_of_all_types_in_all_types():
    """int8 by its zero point; false is -1; 0 and -0 are 1. int8 outputs by their scale."""
    draw = np.random.default_rng(0)
    reals = draw.normal(size=(1, 5, 40)).astype("f4")
    reals[0, 0, :8] = 0, -0.0, 1e-30, -1e-30, 3e38, -3e38, np.inf, -np.inf
    integers = draw.integers(-128, 128, (1, 5, 40)).astype("i1")
    integers[0, 0, :3] = -7, -8, -6
    truths = draw.integers(0, 2, (1, 5, 40)).astype(bool)
    build = Builder()
    sources = {
        "reals": (build.input("reals", 1, 5, 40), signs(reals)),
        "integers": (build.input("integers", 1, 5, 40, dtype="int8"), signs(integers + 7.0)),
        "truths": (build.input("truths", 1, 5, 40, dtype="bool"), np.where(truths, 1, -1)),
    }
    sources["integers"][0].quantization = quantized(0.3, -7)
    outputs, expected = {}, {}
    for name, (source, values) in sources.items():
        words = pack(build, source)
        outputs[f"{name} as reals"] = unpack(build, words, 40)
        expected[f"{name} as reals"] = values.astype("f4")
        outputs[f"{name} as truths"] = unpack(build, words, 40, "bool")
        expected[f"{name} as truths"] = values > 0
        for scale, zero, low, high in ((0.25, 3, -1, 7), (0.4, -127, -128, -124)):
            key = f"{name} as int8 by {scale}"
            outputs[key] = unpack(build, words, 40, "int8")
            outputs[key].quantization = quantized(scale, zero)
            expected[key] = np.where(values > 0, high, low).astype("i1")
    check(
        build.module(**outputs),
        {"reals": reals, "integers": integers, "truths": truths},
        expected,
    )


def pooled(x: np.ndarray, size: int, stride: int, padding: int) -> np.ndarray:
    """The largest number of each window, from the definition."""
    _, height, width, _ = x.shape

    def windows(length: int) -> list[slice]:
        if padding == VALID:
            starts = range(0, length - size + 1, stride)
        else:
            outputs = -(-length // stride)
            before = max((outputs - 1) * stride + size - length, 0) // 2
            starts = range(-before, outputs * stride - before, stride)
        return [slice(max(start, 0), start + size) for start in starts]

    rows = [[x[:, y, x_].max(axis=(1, 2)) for x_ in windows(width)] for y in windows(height)]
    return np.array(rows).transpose(2, 0, 1, 3)


def test_pooling_of_signs_and_of_packed_outputs():
    """A bit is set if it is set in the whole window, so the largest sign counts."""
    first = Convolution((7, 6), 40, 1, 48, (1, 1), output="int32", seed=3)
    build = Builder()
    x = build.input("x", *first.input.shape)
    outputs, expected = {}, {}
    sources = {
        "signs": (pack(build, x), signs(first.input), 40),
        "output": (first.on(build, pack(build, x)), first.expected(), 48),
    }
    for name, (words, values, channels) in sources.items():
        for size, stride, padding in ((2, 2, VALID), (3, 2, SAME)):
            options = {
                **dict.fromkeys(("filter_height", "filter_width"), size),
                "padding": padding,
                **dict.fromkeys(("stride_height", "stride_width"), stride),
            }
            largest = pooled(values, size, stride, padding)
            y = build.op(
                "LceBMaxPool2d",
                words,
                shape=(*largest.shape[:3], words.shape[3]),
                custom=bytes(flexbuffers.Dumps(options)),
            )
            key = f"{name} {size} {stride} {padding}"
            outputs[key], expected[key] = unpack(build, y, channels), largest.astype("f4")
    check(build.module(**outputs), {"x": first.input}, expected)


def test_packed_words_that_other_operators_read():
    """They are packed and unpacked again: words as input and output, TILE, parts of rows."""
    draw = np.random.default_rng(0)
    x, words = draw.normal(size=(1, 4, 40)).astype("f4"), draw.integers(-(2**31), 2**31, (1, 4, 2))
    words[0, 0] = -(2**31), 2**31 - 1
    build = Builder()
    packed = pack(build, build.input("x", 1, 4, 40))
    read = build.input("words", 1, 4, 2, dtype="int32")
    bytes_ = build.op("BITCAST", packed, shape=(1, 4, 2, 4), dtype="uint8")
    tiled = build.op("TILE", packed, build.constant([1, 2, 1], "int32"), shape=(1, 8, 2))
    wide = build.op("CAST", bytes_, dtype="int32")
    wide = build.op("RESHAPE", wide, build.constant([1, 4, 8, 1], "int32"), shape=(1, 4, 8, 1))
    expected = bit_packed(signs(x))
    by_byte = np.concatenate([signs(x), np.ones((1, 4, 24))], axis=-1).reshape(1, 4, 8, 8)
    outputs = {
        "packed": packed,
        "bytes": bytes_,
        "unpacked": unpack(build, read, 40),
        "tiled": unpack(build, tiled, 40),
        "parts": unpack(build, wide, 8),
    }
    check(
        build.module(**outputs),
        {"x": x, "words": words.astype("i4")},
        {
            "packed": expected,
            "bytes": expected.view("u1").reshape(1, 4, 2, 4),
            "unpacked": unpacked(words.astype("i4"))[..., :40],
            "tiled": np.tile(signs(x), (1, 2, 1)).astype("f4"),
            "parts": by_byte.astype("f4"),
        },
    )


def unpacked(words: np.ndarray) -> np.ndarray:
    """Signs of packed words, bit by bit."""
    bits = words[..., np.newaxis] >> np.arange(32) & 1
    return (1 - 2 * bits).reshape(*words.shape[:-1], -1).astype("f4")


def test_narrow_maps_in_long_rows_are_never_packed():
    """As the converter packs maps of 16 channels: BITCAST and CAST give a word for each pixel."""
    one = Convolution((8, 16), 16, 1, 5, (3, 3), padding=SAME, pad_value=1)
    build = Builder()
    x = build.input("x", 1, 1, 8, 256)
    words = pack(build, x)
    halves = build.op("BITCAST", words, shape=(1, 1, 8, 8, 2), dtype="uint16")
    cast = build.op("CAST", halves, dtype="int32")
    shape = build.constant([1, 8, 16, 1], "int32")
    module = build.module(y=one.on(build, build.op("RESHAPE", cast, shape, shape=(1, 8, 16, 1))))
    check(
        module,
        {"x": one.input.reshape(1, 1, 8, 256)},
        {"y": one.expected().astype("f4")},
    )
    legalize(module)
    assert names(module.graph) == ["MUL", "RESHAPE", "CONV_2D"]


@pytest.mark.parametrize("channels", [5, 64])
def test_weights_of_members_are_looked_up(channels: int):
    """Rows of a table of packed words, with more axes than the words."""
    table = np.random.default_rng(0).choice([-1, 1], (3, 4, 2, channels))
    build = Builder()
    words = build.lookup(bit_packed(table), build.member(), "int32")
    shape = build.constant([2, 4, words.shape[-1]], "int32")
    rows = build.op("RESHAPE", words, shape, shape=(2, 4, words.shape[-1]))
    constant = unpack(build, build.constant(bit_packed(table), "int32"), channels)
    scaled = build.op("MUL", constant, build.input("scale", 1))
    module = build.module(3, row=unpack(build, rows, channels), all=scaled)
    for member in range(3):
        inputs = {"member": np.array([member], "i4"), "scale": np.array([0.5], "f4")}
        row = table[member].reshape(2, 4, channels)
        expected = {"row": row.astype("f4"), "all": (table * 0.5).astype("f4")}
        check(module, inputs, expected)


def test_values_that_are_no_constants():
    """Thresholds of members; multipliers and biases, which LCE reads at its first run."""
    packed = Convolution((3, 3), 40, 1, 6, (3, 3), output="int32")
    zeros = Convolution((3, 3), 40, 1, 6, (3, 3), padding=SAME, pad_value=0)
    clamped = Convolution((3, 3), 40, 1, 6, (3, 3), activation=3)
    build = Builder()
    x, member = build.input("x", *packed.input.shape), build.member()
    words = pack(build, x)
    thresholds = build.lookup(np.stack([packed.thresholds, packed.thresholds]), member, "int32")
    multiplier = build.lookup(np.stack([zeros.multiplier, zeros.multiplier]), member)
    module = build.module(
        2,
        packed=unpack(build, packed.on(build, words, thresholds=thresholds), 6),
        zeros=zeros.on(build, words, multiplier=multiplier),
        clamped=clamped.on(build, words, multiplier=multiplier),
    )
    check(
        module,
        {"x": packed.input, "member": np.array([1], "i4")},
        {
            name: one.expected().astype("f4")
            for name, one in (("packed", packed), ("zeros", zeros), ("clamped", clamped))
        },
    )


def test_sums_of_many_products_are_exact():
    """Filters of 131,072 taps, of which 3 decide: 16 bits hold no such sum."""
    one = Convolution((1, 1), 1 << 17, 1, 3, (1, 1), output="int32", seed=2)
    build = Builder()
    x = np.where(one.filters[0] > 0, 1, -1).reshape(one.input.shape).astype("f4")
    x[..., :3] *= -1  # all but 3 of the signs are equal
    words = pack(build, build.input("x", *x.shape))
    y = one.on(build, words, thresholds=build.constant([2, 3, 0], "int32"))
    sums = np.einsum("oyxc,c->o", one.filters, x.reshape(-1))
    differing = ((1 << 17) - sums) // 2
    assert differing[0] == 3
    expected = np.where(differing > [2, 3, 0], -1, 1).reshape(1, 1, 1, 3)
    module = build.module(y=unpack(build, y, 3))
    check(module, {"x": x}, {"y": expected.astype("f4")}, delegated=False)
    if library() is not None:
        with pytest.raises(RuntimeError, match=r"node 1 isn't supported: .*too many weights"):
            on_delegate(module, {"x": x}, 1)


def test_filters_that_are_looked_up_are_refused():
    """LCE packs filters at its first run, so they would be those of the first member for ever."""
    one = Convolution((3, 3), 32, 1, 2, (3, 3))
    build = Builder()
    words = pack(build, build.input("x", *one.input.shape))
    y = one.on(build, words)
    module = build.module(2, y=y)
    (op,) = module.graph.find("LceBconv2d")
    lookup = Builder()
    table = lookup.lookup(np.stack([op.inputs[1].values] * 2), lookup.member(), "int32")
    module.graph.rewrite(op, inputs=(words, table, *op.inputs[2:]))
    with pytest.raises(EnsembleError, match=r"LceBconv2d of \[1, 3, 3, 1\] has filters that are"):
        legalize(module)
