"""The part of the schema that is written down here is that of the generated code."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import pytest

from larq_ensemble.ir.schema import enum, schema
from larq_ensemble.tflite import schema as ours
from larq_ensemble.tflite.flatbuffer import Flatbuffer, Table
from larq_ensemble.tflite.schema import TABLES

NUMBERS = "?bBiIqQf"


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("BuiltinOperator", ours.OPERATORS),
        ("BuiltinOptions", ours.OPTIONS),
        ("BuiltinOptions2", ours.OPTIONS_2),
        ("TensorType", ours.TYPES),
    ],
)
def test_enumerations(name: str, names: tuple[str, ...]) -> None:
    """Later schemas only add names at the end."""
    assert enum(name).items() >= dict(zip(names, range(len(names)), strict=True)).items()


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_fields_and_defaults(kind: str) -> None:
    generated = vars(getattr(schema(), f"{kind}T")())
    assert set(TABLES[kind]) <= set(generated)
    for name, field in TABLES[kind].items():
        if field.kind in NUMBERS:
            assert field.default == generated[name], name


def packed(table: Any) -> bytes:
    builder = flatbuffers.Builder(64)
    builder.Finish(table.Pack(builder))
    return bytes(builder.Output())


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_what_generated_code_writes_is_read(kind: str) -> None:
    """Another number in each field, so that no two can be mixed up."""
    table = getattr(schema(), f"{kind}T")()
    written: dict[str, Any] = {}
    for number, (name, field) in enumerate(TABLES[kind].items()):
        if field.kind == "?":
            written[name] = not field.default
        elif field.kind in NUMBERS:
            written[name] = number + 3
        elif field.kind == "string":
            written[name] = f"text {number}"
        elif field.kind in ("[i]", "[f]", "[q]"):
            dtype = {"i": np.int32, "f": np.float32, "q": np.int64}[field.kind[1]]
            written[name] = np.arange(number, number + 3).astype(dtype)
    if "detailsType" in written:  # a union without a table
        written["detailsType"] = 0
    for suffix in ("", "2"):
        if f"builtinOptions{suffix}Type" in written:
            written[f"builtinOptions{suffix}Type"] = 0
    vars(table).update(written)
    data = packed(table)
    read = Table(Flatbuffer(data), Flatbuffer(data).offset(0), kind)
    for name, value in written.items():
        found = read[name]
        np.testing.assert_array_equal(
            found.decode() if isinstance(found, bytes) else found, value, err_msg=name
        )
    missing = packed(getattr(schema(), f"{kind}T")())
    empty = Table(Flatbuffer(missing), Flatbuffer(missing).offset(0), kind)
    for name, field in TABLES[kind].items():
        assert empty[name] == ([] if field.item else field.default), name
