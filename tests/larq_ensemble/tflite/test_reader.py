"""The reader finds in a file what LCE's generated code finds, and refuses what points nowhere."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.schema import enum, schema
from larq_ensemble.tflite.flatbuffer import IDENTIFIER, DamagedError, Flatbuffer, parsing
from larq_ensemble.tflite.reader import read_model
from larq_ensemble.tflite.verifier import problems

DATA = Path(__file__).parents[2] / "data"


def tree(data: bytes) -> Any:
    """The object tree, by LCE's generated code."""
    return schema().ModelT.InitFromObj(schema().Model.GetRootAsModel(data, 0))


def packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


@pytest.mark.parametrize("name", ["indexed", "subgraphs", "compact"])
def test_tensors_and_operators(name: str) -> None:
    data = (DATA / f"{name}.tflite").read_bytes()
    model, expected = read_model(data), tree(data)
    assert len(model.graphs) == len(expected.subgraphs)
    for graph, other in zip(model.graphs, expected.subgraphs, strict=True):
        assert [tensor.shape for tensor in graph.tensors] == [
            tuple(tensor.shape) for tensor in other.tensors
        ]
        for tensor, table in zip(graph.tensors, other.tensors, strict=True):
            assert enum("TensorType")[tensor.dtype.upper()] == table.type
            np.testing.assert_array_equal(
                np.ravel(tensor.data), np.ravel(expected.buffers[table.buffer].data)
            )
        numbers = {tensor: number for number, tensor in enumerate(graph.tensors)}
        numbers[None] = -1
        for op, table in zip(graph.operators, other.operators, strict=True):
            assert [numbers[tensor] for tensor in op.inputs] == table.inputs.tolist()
            assert [numbers[tensor] for tensor in op.outputs] == table.outputs.tolist()
            for field, value in vars(op.options or object).items() if op.options else ():
                np.testing.assert_array_equal(value, getattr(table.builtinOptions, field))
        assert [numbers[tensor] for tensor in graph.inputs] == other.inputs.tolist()
    for signature, graph in zip(expected.signatureDefs, model.graphs, strict=True):
        assert graph.signature is not None
        assert graph.signature.key == signature.signatureKey.decode()


def changed(**fields: Any) -> Any:
    """A small model with other fields of its parts, by name (`tensor`, `operator`...)."""
    model = tree((DATA / "version_1.tflite").read_bytes())
    graph = model.subgraphs[0]
    parts = {
        "model": model,
        "graph": graph,
        "tensor": graph.tensors[0],
        "operator": graph.operators[0],
        "code": model.operatorCodes[0],
        "signature": model.signatureDefs[0],
        "named": model.signatureDefs[0].inputs[0],
        "entry": model.metadata[0],
        "buffer": model.buffers[-1],
    }
    for name, value in fields.items():
        part, _, field = name.partition("_")
        setattr(parts[part], field, value)
    return packed(model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tensor_buffer": 9999}, "no buffer 9999"),
        ({"tensor_type": 90}, "no type 90"),
        ({"operator_opcodeIndex": 77}, "no operator code 77"),
        ({"operator_inputs": np.array([0, 9999], np.int32)}, "no tensor 9999"),
        ({"operator_inputs": np.array([-2], np.int32)}, "no tensor -2"),
        ({"operator_outputs": np.array([-1], np.int32)}, "no tensor -1"),
        ({"graph_inputs": np.array([-1], np.int32)}, "no tensor -1"),
        ({"graph_outputs": np.array([1 << 30], np.int32)}, "no tensor 1073741824"),
        ({"signature_subgraphIndex": 5}, "no graph 5"),
        ({"named_tensorIndex": 9999}, "no tensor 9999"),
        ({"named_name": b"\xff"}, "can't decode"),
        ({"entry_buffer": 9999}, "no buffer 9999"),
        ({"code_builtinCode": 5}, "the codes 5 and"),
        ({"code_builtinCode": 32, "code_deprecatedBuiltinCode": 32}, "has no name"),
    ],
)
def test_indices(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(EnsembleError, match=rf"'F' is damaged: .*{message}"):
        read_model(changed(**fields), "'F'")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tensor_sparsity": schema().SparsityParametersT()}, "it has Tensor.sparsity"),
        ({"operator_intermediates": np.array([1], np.int32)}, "it has Operator.intermediates"),
        ({"operator_largeCustomOptionsSize": 8}, "it has Operator.largeCustomOptionsSize"),
        ({"buffer_offset": 4096}, "it has Buffer.offset"),
        # LiteRT's interpreter follows these.
        ({"tensor_externalBuffer": 1}, "it has a field of a later Tensor"),
        ({"model_externalBuffers": [schema().ExternalBufferT()]}, "a field of a later Model"),
        ({"operator_debugMetadataIndex": 1}, "a field of a later Operator"),
        ({"graph_debugMetadataIndex": 1}, "a field of a later SubGraph"),
        ({"model_version": 4}, "its schema has version 4, not 3"),
        ({"model_subgraphs": [], "model_signatureDefs": []}, "it has no graph"),
        ({"tensor_isVariable": True}, "it keeps its value between runs"),
        ({"tensor_type": 5}, "no ensemble has this type"),
    ],
)
def test_what_no_ensemble_has(fields: dict[str, Any], message: str) -> None:
    found = list(map(str, problems(read_model(changed(**fields)), 3)))
    assert any(message in problem for problem in found), found


def test_options_of_a_later_schema() -> None:
    model = tree((DATA / "indexed.tflite").read_bytes())
    (table, *_) = (
        op.builtinOptions
        for op in model.subgraphs[0].operators
        if type(op.builtinOptions).__name__ == "FullyConnectedOptionsT"
    )
    table.quantSpec = np.ones(1, np.uint8)
    (problem, *_) = problems(read_model(packed(model)), 3)
    assert "a field of a later FullyConnectedOptions" in str(problem)


def test_two_signatures_of_a_graph() -> None:
    model = tree((DATA / "version_1.tflite").read_bytes())
    model.signatureDefs *= 2
    (problem,) = problems(read_model(packed(model)), 3)
    assert "a second signature" in str(problem)


@pytest.mark.parametrize("size", [0, 3, 8, 100, -100, -64])
def test_short_files(size: int) -> None:
    with pytest.raises(EnsembleError, match="can't be parsed"):
        read_model((DATA / "indexed.tflite").read_bytes()[:size])


@pytest.mark.parametrize("offset", [0, 2, 7, 1 << 20, (1 << 32) - 1])
def test_a_root_that_is_elsewhere(offset: int) -> None:
    data = struct.pack("<I", offset) + b"TFL3" + bytes(56)
    with pytest.raises(DamagedError):
        Flatbuffer(data).root("Model")["buffers"]


@pytest.mark.parametrize("error", [RecursionError, MemoryError, OverflowError, UnicodeError])
def test_foreign_errors_have_the_file_s_name(error: type[Exception]) -> None:
    with pytest.raises(EnsembleError, match=f"'F' is damaged: .*{error.__name__}"), parsing("'F'"):
        raise error
