"""The pipeline makes files smaller, and without a layout's rewrites keeps every bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from larq_ensemble.convert.frontend.member_indexed import MemberIndexedNetwork
from larq_ensemble.convert.passes import (
    dead_code,
    debug_info,
    offset_merging,
    prelu_fusion,
)
from larq_ensemble.convert.pipeline import PIPELINE, run_pipeline
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import as_ensemble
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.schema import schema
from larq_ensemble.runtime.backends.lce import load_extension

from ..builder import run
from .conftest import MEAN, STD, pixels, small_ensemble


@pytest.fixture(scope="module")
def raw() -> bytes:
    """What LCE's converter makes of two members."""
    normalization = Normalization(MEAN, STD)
    network = MemberIndexedNetwork(as_ensemble(small_ensemble(2)), normalization=normalization)
    return write(network.to_module("indexed"))


@pytest.fixture
def module(raw: bytes) -> Module:
    module = read(raw)
    module.members = 2
    return module


def outputs(module: Module) -> bytes:
    """Outputs of both members for some images."""

    def each() -> Iterator[np.ndarray]:
        for image in pixels(3, (16, 16, 3))[:, np.newaxis].astype(np.float32):
            for member in range(2):
                yield run(module, image=image, member=np.array([member], np.int32))["logits"]

    logits = np.concatenate([*each()])
    assert np.unique(logits, axis=0).shape == logits.shape
    return logits.tobytes()


def test_these_passes_save_bytes_and_keep_every_bit(module: Module) -> None:
    expected, size = outputs(module), len(write(module))
    for step in (prelu_fusion, dead_code, debug_info):
        step.run(module)
        written = len(write(module))
        assert written < size, step.__name__
        size = written
        assert outputs(module) == expected, step.__name__


def test_only_the_merging_of_offsets_rounds_otherwise(module: Module) -> None:
    expected = outputs(module)
    for step in PIPELINE:
        before = outputs(module)
        step(module)
        if step.run is not offset_merging.run:
            assert outputs(module) == before, step.run.__module__
    logits, original = (np.frombuffer(data, np.float32) for data in (outputs(module), expected))
    assert np.isclose(logits, original, rtol=1e-3, atol=1e-3).mean() > 0.8


def test_nothing_is_stored_twice(module: Module) -> None:
    run_pipeline(module)
    written = write(module)
    root = schema().Model.GetRootAsModel(written, 0)
    buffers = [root.Buffers(number) for number in range(root.BuffersLength())]
    contents = [buffer.DataAsNumpy().tobytes() for buffer in buffers if not buffer.DataIsNone()]
    assert len(contents) == len(set(contents))
    assert all(written.count(content) == 1 for content in contents if len(content) >= 64)
    graph = read(written).graphs[0]
    options = {op.custom_options for op in graph.operators if op.custom_options}
    assert len(options) > 1
    assert all(written.count(option) == 1 for option in options)
    assert all(tensor.name is None for tensor in graph.tensors)


def test_no_tensor_becomes_dynamic(module: Module, capfd: pytest.CaptureFixture[str]) -> None:
    """XNNPACK, here only to ask, refuses a graph with one tensor whose shape is computed."""
    run_pipeline(module)
    load_extension().LiteInterpreter(write(module), 1, False, True, True)
    said = capfd.readouterr().err
    assert "XNNPACK delegate" in said
    assert "dynamic" not in said


def test_the_signature_still_names_inputs_and_outputs(module: Module) -> None:
    run_pipeline(module)
    signature = read(write(module)).graphs[0].signature
    assert signature is not None
    shapes = {name: t.shape for name, t in (signature.inputs | signature.outputs).items()}
    assert shapes == {"image": (1, 16, 16, 3), "member": (1,), "logits": (1, 7)}
