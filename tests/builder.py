"""Small graphs built by hand, and LCE's interpreter to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flatbuffers import flexbuffers

from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.graph import Graph, Module, Operator, Signature, Tensor
from larq_ensemble.ir.schema import options
from larq_ensemble.ir.verifier import verify
from larq_ensemble.runtime.backends.lce import load_extension

#: Options without which TFLite doesn't run the operator.
_OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "GATHER": "GatherOptions",
    "SPLIT_V": "SplitVOptions",
    "CONV_2D": "Conv2DOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "SUM": "ReducerOptions",
    "MEAN": "ReducerOptions",
}


class Builder:
    """Builds a graph from its inputs to its outputs.

    ```python
    build = Builder()
    x = build.input("image", 1, 4, 4, 3)
    module = build.module(logits=build.op("RELU", x, shape=x.shape))
    ```
    """

    def __init__(self) -> None:
        self._graph = Graph()
        self._inputs: dict[str, Tensor] = {}
        self._operators: list[Operator] = []

    def input(self, name: str, *shape: int, dtype: str = "float32") -> Tensor:
        self._inputs[name] = self._graph.add(Tensor(shape, dtype))
        return self._inputs[name]

    def member(self) -> Tensor:
        """The input `member`."""
        return self.input("member", 1, dtype="int32")

    def constant(self, values: Any, dtype: str = "float32") -> Tensor:
        return self._graph.add(Tensor.constant(np.array(values, dtype)))

    def op(
        self,
        name: str,
        *inputs: Tensor | None,
        shape: Sequence[int] | None = None,
        dtype: str | None = None,
        custom: bytes | None = None,
        **fields: Any,
    ) -> Tensor:
        """The output of an operator; by default of its first input's shape and type.

        # Arguments
            custom: a custom operator's options.
            **fields: of the operator's table of options.
        """
        first = inputs[0]
        assert first is not None
        output = self._graph.add(
            Tensor(tuple(first.shape if shape is None else shape), dtype or first.dtype)
        )
        self._add(name, inputs, (output,), custom, fields)
        return output

    def lookup(self, table: Any, member: Tensor, dtype: str = "float32") -> Tensor:
        """A member's row of a table, `[*shape]`."""
        rows = self.constant(table, dtype)
        scalar = self.op("RESHAPE", member, self.constant([], "int32"), shape=())
        return self.op("GATHER", rows, scalar, shape=rows.shape[1:])

    def split(self, vector: Tensor, *sizes: int) -> list[Tensor]:
        outputs = [self._graph.add(Tensor((size,), vector.dtype)) for size in sizes]
        inputs = (vector, self.constant(sizes, "int32"), self.constant(0, "int32"))
        self._add("SPLIT_V", inputs, tuple(outputs), None, {"numSplits": len(sizes)})
        return outputs

    def binary_convolution(
        self, bits: Tensor, filters: Tensor, multiplier: Tensor, bias: Tensor, channels_in: int
    ) -> Tensor:
        """A one-padded LceBconv2d with stride 1."""
        custom = {
            "channels_in": channels_in,
            **dict.fromkeys(("dilation_height_factor", "dilation_width_factor"), 1),
            "fused_activation_function": 0,
            "pad_values": 1,
            "padding": 0,
            **dict.fromkeys(("stride_height", "stride_width"), 1),
        }
        return self.op(
            "LceBconv2d",
            *(bits, filters, multiplier, bias, None),
            shape=(*bits.shape[:3], filters.shape[0]),
            dtype="float32",
            custom=bytes(flexbuffers.Dumps(custom)),
        )

    def module(self, members: int = 1, layout: str = "indexed", **outputs: Tensor) -> Module:
        """The module, verified."""
        graph = Graph(
            self._graph.tensors,
            self._operators,
            self._inputs.values(),
            outputs.values(),
            Signature("serving_default", dict(self._inputs), outputs),
        )
        module = Module([graph], members, layout)
        verify(module)
        return module

    def _add(
        self,
        name: str,
        inputs: tuple[Tensor | None, ...],
        outputs: tuple[Tensor, ...],
        custom: bytes | None,
        fields: Mapping[str, Any],
    ) -> None:
        kind = _OPTIONS.get(name, f"{name.title().replace('_', '')}Options")
        table = options(kind, **fields) if fields or name in _OPTIONS else None
        version = 2 if name == "CAST" else 3 if name == "DEQUANTIZE" else 1
        self._operators.append(Operator(name, inputs, outputs, table, custom, version))


def names(graph: Graph) -> list[str]:
    """The operators' names, in order."""
    return [op.name for op in graph.operators]


def run(module: Module, graph: int = 0, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a graph, by LCE's interpreter of the bytes that the target writes."""
    chosen = module.graphs[graph]
    alone = Module([chosen], operator_codes=list(module.operator_codes))
    interpreter = load_extension().LiteInterpreter(write(alone), 1, False, False, False)
    assert chosen.signature is not None
    by_tensor = {tensor: inputs[name] for name, tensor in chosen.signature.inputs.items()}
    values = interpreter.predict([by_tensor[tensor] for tensor in chosen.inputs])
    outputs = dict(zip(chosen.outputs, values, strict=True))
    return {name: outputs[tensor] for name, tensor in chosen.signature.outputs.items()}


def of_member(number: int) -> np.ndarray:
    """What the input `member` takes."""
    return np.array([number], np.int32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
