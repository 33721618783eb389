"""NumPy computes the constants of a graph as LCE's interpreter does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from larq_ensemble.convert.frontend.member_indexed import MemberIndexedNetwork
from larq_ensemble.convert.passes import sign_packing
from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.convert.pipeline import PIPELINE
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import as_ensemble
from larq_ensemble.ir.evaluation import KERNELS, UnknownOperatorError, evaluate
from larq_ensemble.ir.graph import Signature, Tensor
from larq_ensemble.ir.schema import options

from ...builder import Builder, normal, of_member, run
from ..conftest import MEAN, STD, small_ensemble

TABLE = normal(2, 3, 40)
SIGNS = np.random.default_rng(0).choice([-1, 1], (2, 3, 40))

#: Something of each kernel, of the row of a member.
CASES: dict[str, Callable[[Builder, Tensor], Tensor]] = {
    "ADD": lambda b, row: b.op("ADD", row, b.constant(normal(40, seed=1))),
    "SUB": lambda b, row: b.op("SUB", row, b.constant(normal(3, 1, seed=1))),
    "MUL": lambda b, row: b.op("MUL", row, b.constant(2.5), fusedActivationFunction=3),
    "MINIMUM": lambda b, row: b.op("MINIMUM", row, b.constant(0.1)),
    "NEG": lambda b, row: b.op("NEG", row),
    "RESHAPE": lambda b, row: b.op(
        "RESHAPE", row, b.constant([4, 30], "int32"), shape=(4, 30)
    ),
    "SUM": lambda b, row: b.op("SUM", row, b.constant([0], "int32"), shape=(40,)),
    "SPLIT_V": lambda b, row: b.split(
        b.op("RESHAPE", row, b.constant([120], "int32"), shape=(120,)), 50, 70
    )[1],
    "TRANSPOSE": lambda b, row: b.op(
        "TRANSPOSE", row, b.constant([1, 0], "int32"), shape=(40, 3)
    ),
    "TILE": lambda b, row: b.op("TILE", row, b.constant([2, 1], "int32"), shape=(6, 40)),
    "DEQUANTIZE": lambda b, row: b.op(
        "MUL", row, b.op("DEQUANTIZE", b.constant(normal(40), "float16"), dtype="float32")
    ),
    "CAST": lambda b, row: b.op(
        "MUL", row, b.op("CAST", b.constant([[3], [-4], [5]], "int8"), dtype="float32")
    ),
    "LceDequantize": lambda b, row: b.op(
        "MUL",
        row,
        b.op(
            "LceDequantize", b.constant(bit_packed(SIGNS[0]), "int32"),
            shape=(3, 40), dtype="float32", custom=b"",
        ),
    ),
}  # fmt: skip


def test_there_is_a_case_for_each_kernel() -> None:
    assert {*CASES, "GATHER"} == KERNELS.keys()


@pytest.mark.parametrize("name", CASES)
def test_kernels(name: str) -> None:
    build = Builder()
    member = build.member()
    module = build.module(members=2, logits=CASES[name](build, build.lookup(TABLE, member)))
    assert module.graph.find(name)
    (output,) = module.graph.outputs
    for number in (1, 0):
        expected = run(module, member=of_member(number))["logits"]
        ours = evaluate(module.graph, output, {member: of_member(number)})
        assert (ours.dtype, ours.shape) == (np.float32, output.shape)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_what_is_not_known() -> None:
    build = Builder()
    x, member = build.input("image", 1, 3), build.member()
    exponential = build.op("EXP", build.constant([1.0, 2]))
    y = build.op("ADD", x, build.lookup(normal(2, 3), member))
    integers = build.constant([1, 2], "int8")
    integers.quantization = options(
        "QuantizationParameters", scale=np.array([0.5], np.float32), zeroPoint=np.array([0])
    )
    halves = build.op("DEQUANTIZE", integers, dtype="float32")
    graph = build.module(logits=y).graph
    for tensor, what in ((y, "an input"), (exponential, "EXP"), (halves, "DEQUANTIZE of integers")):
        with pytest.raises(UnknownOperatorError, match=what):
            evaluate(graph, tensor, {member: of_member(0)})


@pytest.mark.parametrize("precision", ["float32", "compact"])
def test_all_rows_of_an_ensemble(precision: str) -> None:
    """What SPLIT_V hands out: from floats, or bits, a step and a middle per column."""
    network = MemberIndexedNetwork(
        as_ensemble(small_ensemble(2)), normalization=Normalization(MEAN, STD), precision=precision
    )
    module = network.to_module("subgraphs")
    for step in PIPELINE:
        if step.run is sign_packing.run or "float16" in step.run.__module__:
            step.run(module)
    graph = module.graph
    (split,) = graph.find("SPLIT_V")
    number = graph.input("member")
    graph.inputs, graph.outputs = [number], list(split.outputs)
    rows = {f"row_{place}": tensor for place, tensor in enumerate(split.outputs)}
    graph.signature = Signature("rows", {"member": number}, rows)
    graph.eliminate_dead_code()
    assert (len(graph.find("LceDequantize")) > 0) == (precision == "compact")
    for member in range(2):
        known = {number: of_member(member)}
        expected = run(module, member=of_member(member))
        for name, tensor in rows.items():
            np.testing.assert_array_equal(evaluate(graph, tensor, known), expected[name])
