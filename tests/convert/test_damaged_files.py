"""Random damage to a file: what reads it raises `EnsembleError` or succeeds, and soon.

LCE's interpreter, in C++, would crash on a damaged file. It never sees one: the checksum covers
every byte, and the verifier refuses what has a right checksum, but could not be run.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read as read_module
from larq_ensemble.ir.graph import Graph, Module, Operator, Signature, Tensor
from larq_ensemble.ir.schema import options
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.cascade import Cascade
from larq_ensemble.runtime.file import Subgraph, metadata_of, read_ensemble, seal, with_metadata
from larq_ensemble.runtime.metadata import EnsembleMetadata

METADATA = EnsembleMetadata(
    scheme="adaboost",
    members=3,
    classes=2,
    input_shape=(4, 4, 1),
    class_names=("ant", "bee"),
    weights=(1.0, 2.0, 0.5),
    temperatures=(1.0, 1.5, 2.0),
    cascade=Cascade((0.5, None)),
    validation_split={"seed": 0, "share": 0.1},
    tools={"larq-ensemble": "0.1.0"},
)


def small_file() -> bytes:
    """A file with everything that the readers follow; one operator, so that it is small."""
    image, logits = (Tensor(shape, "float32", name="tensor") for shape in ((1, 4, 4, 1), (1, 2)))
    member = Tensor((1,), "int32")
    table = Tensor.constant(np.arange(6, dtype=np.float32).reshape(3, 2))
    signature = Signature("serving_default", {"member": member, "image": image}, {"logits": logits})
    operator = Operator("GATHER", (table, member), (logits,), options("GatherOptions"))
    tensors = [image, member, logits, table]
    graph = Graph(tensors, [operator], [image, member], [logits], signature)
    return write_ensemble(Module([graph]), METADATA)


FILE = small_file()

# Where and what: a flipped bit, other bytes (offsets and lengths are four), a gap, an early end.
EDITS = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, len(FILE) - 1), st.integers(0, 7)),
    st.tuples(
        st.just("write"),
        st.integers(0, len(FILE) - 4),
        st.sampled_from([b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 4, b"\x04\0\0\0"])
        | st.binary(min_size=1, max_size=4),
    ),
    st.tuples(st.just("insert"), st.integers(0, len(FILE)), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), st.integers(0, len(FILE)), st.integers(1, 64)),
    st.tuples(st.just("end"), st.integers(0, len(FILE) - 1), st.none()),
)
DAMAGE = st.lists(EDITS, min_size=1, max_size=4)
MANY = settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(data: bytes, edits: list[tuple[str, int, Any]]) -> bytes:
    result = bytearray(data)
    for kind, at, what in edits:
        if kind == "flip" and at < len(result):
            result[at] ^= 1 << what
        elif kind == "write":
            result[at : at + len(what)] = what
        elif kind == "insert":
            result[at:at] = what
        elif kind == "cut":
            del result[at : at + what]
        elif kind == "end":
            del result[at:]
    return bytes(result)


def test_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "whole.tflite"
    path.write_bytes(FILE)
    file = read_ensemble(path)
    assert file.graphs == (Subgraph(0, {"member": 1, "image": 0}, {"logits": 0}),)
    assert file.metadata.cascade == METADATA.cascade
    assert len(read_module(FILE).graphs) == 1


@MANY
@given(edits=DAMAGE)
def test_no_damaged_file_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits: list[tuple[str, int, Any]]
) -> None:
    def opened(*_: Any) -> None:
        raise AssertionError("A damaged file was opened.")

    monkeypatch.setattr("larq_ensemble.runtime.interpreter.open_interpreter", opened)
    data = damaged(FILE, edits)
    if data == FILE:
        return
    path = tmp_path / "damaged.tflite"
    path.write_bytes(data)
    with pytest.raises(EnsembleError, match=r"damaged\.tflite"):
        EnsembleInterpreter(path)


@MANY
@given(edits=DAMAGE)
def test_damage_under_a_right_checksum(tmp_path: Path, edits: list[tuple[str, int, Any]]) -> None:
    """Without the checksum's protection the checks of each access must do."""
    data = damaged(FILE, edits)
    path = tmp_path / "sealed.tflite"
    try:
        path.write_bytes(seal(data))
    except Exception:  # not even the metadata's place is found
        path.write_bytes(data)
    for read in (read_ensemble, inspect_file):
        with contextlib.suppress(EnsembleError):
            read(path)


@MANY
@given(edits=DAMAGE)
def test_the_converter_s_reader(edits: list[tuple[str, int, Any]]) -> None:
    data = damaged(FILE, edits)
    start = time.process_time()
    for read in (read_module, metadata_of):
        with contextlib.suppress(EnsembleError):
            read(data)
    assert time.process_time() - start < 5


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@MANY
@given(name=st.sampled_from(sorted(METADATA.to_dict())), value=JSON, items=st.lists(JSON))
def test_any_value_in_the_metadata(name: str, value: Any, items: list[Any]) -> None:
    for other in (value, [value] * 3, {"rule": "log_margin", "thresholds": items[:2]}):
        document = json.dumps({**json.loads(METADATA.to_json()), name: other})
        try:
            found = EnsembleMetadata.from_json(document.encode())
        except EnsembleError:
            continue
        assert EnsembleMetadata.from_json(found.to_json()) == found


def test_metadata_nested_deeply() -> None:
    with pytest.raises(EnsembleError, match="not JSON"):
        EnsembleMetadata.from_json(b"[" * 100_000)


@given(names=st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=2))
def test_metadata_of_any_length_replace_the_old(names: list[str]) -> None:
    import dataclasses

    other = dataclasses.replace(METADATA, class_names=tuple(names))
    data = with_metadata(FILE, other)
    found = metadata_of(data)
    assert dataclasses.replace(found, sha256="0" * 64) == other
    place = FILE.index(b'{"scheme"') - 4
    assert data[:place] == FILE[:place]
    assert with_metadata(data, METADATA) == FILE


def test_metadata_that_do_not_stand_last() -> None:
    with pytest.raises(EnsembleError, match="convert the run again"):
        with_metadata(FILE + b"more", METADATA)
