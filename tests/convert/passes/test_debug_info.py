"""Names go; what the interpreter needs stays."""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.passes import debug_info
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.schema import schema

from ...builder import Builder


def test_names_go_and_quantization_stays() -> None:
    build = Builder()
    x = build.input("image", 1, 3)
    module = build.module(logits=build.op("RELU", x))
    module.description, module.graph.name = "for people", "main"
    x.name, x.shape_signature = "serving_default_image:0", (-1, 3)
    x.quantization = schema().QuantizationParametersT()
    logits = module.graph.outputs[0]
    logits.quantization = schema().QuantizationParametersT()
    logits.quantization.scale = np.array([0.5], np.float32)
    before = write(module)
    debug_info.run(module)
    after = write(module)
    assert len(after) < len(before)
    assert b"for people" in before
    assert not any(text in after for text in (b"for people", b"main", b"serving_default_image"))
    graph = read(after).graph
    assert (graph.inputs[0].quantization, graph.inputs[0].shape_signature) == (None, None)
    assert graph.outputs[0].quantization.scale.tolist() == [0.5]
    assert graph.signature is not None
    assert [*graph.signature.inputs, *graph.signature.outputs] == ["image", "logits"]
