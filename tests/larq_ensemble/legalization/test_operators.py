"""Each of LCE's operators: legalized on LiteRT, LCE's own kernels, and NumPy on the bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers
from hypothesis import given, settings
from hypothesis import strategies as st

from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.legalization import FILTERS, legalized
from larq_ensemble.runtime.backends.lce import load_extension

from ...builder import Builder

SAME, VALID = 0, 1
#: The schema's numbers of fused activations, and what they do.
ACTIVATIONS = {0: (-np.inf, np.inf), 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}


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
        x = build.input(name, *self.input.shape)
        packed = build.op(
            "LceQuantize", x, shape=(*x.shape[:3], -(-x.shape[3] // 32)), dtype="int32", custom=b""
        )
        custom = {
            "channels_in": x.shape[3],
            "dilation_height_factor": self.dilations[0],
            "dilation_width_factor": self.dilations[1],
            "fused_activation_function": self.activation,
            "pad_values": self.pad_value,
            "padding": self.padding,
            "stride_height": self.strides[0],
            "stride_width": self.strides[1],
        }
        is_packed = self.output == "int32"
        shape = self.sums().shape
        words = (*shape[:3], -(-self.outputs // 32))
        y = build.op(
            "LceBconv2d",
            packed,
            build.constant(bit_packed(self.filters), "int32"),
            None if is_packed else build.constant(self.multiplier),
            None if is_packed else build.constant(self.bias),
            build.constant(self.thresholds, "int32") if is_packed else None,
            shape=words if is_packed else shape,
            dtype=self.output,
            custom=bytes(flexbuffers.Dumps(custom)),
        )
        if is_packed:
            return build.op("LceDequantize", y, shape=shape, dtype="float32", custom=b"")
        return y

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
        return np.clip(sums, *ACTIVATIONS[self.activation]) * self.multiplier + self.bias

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
    output = draw(st.sampled_from(["float32", "int32"]))
    padding = draw(st.sampled_from([SAME, VALID]))
    activation = draw(st.sampled_from([0, 0, 1, 2, 3]))
    only_ones = output == "int32" or activation != 0
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


@settings(max_examples=4)
@given(st.lists(convolutions(), min_size=8, max_size=8))
def test_convolutions(drawn: Sequence[Convolution]):
    build = Builder()
    outputs = {f"y{n}": one.add(build, f"x{n}") for n, one in enumerate(drawn)}
    inputs = {f"x{n}": one.input for n, one in enumerate(drawn)}
    module = build.module(**outputs)
    results = {"lce": on_lce(module, inputs)}
    results |= {filters: on_litert(module, inputs, filters) for filters in FILTERS}
    for n, one in enumerate(drawn):
        for name, result in results.items():
            np.testing.assert_allclose(
                result[f"y{n}"], one.expected(), rtol=1e-5, atol=1e-4, err_msg=f"{name}: {one}"
            )
