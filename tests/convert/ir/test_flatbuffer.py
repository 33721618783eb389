"""What is read is written again, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.frontend.single import convert_single
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Operator
from larq_ensemble.ir.schema import schema
from larq_ensemble.runtime.backends.lce import load_model
from larq_ensemble.tflite.flatbuffer import parsing

from ...builder import Builder, normal, run
from ..conftest import Converted, pixels, small_backbone


def test_a_file_is_written_as_it_was(fusion: Converted) -> None:
    data = fusion.path.read_bytes()
    assert write(read(data)) == data


def test_a_model_of_the_converter_computes_the_same() -> None:
    data = convert_single(small_backbone(size=8))
    written = write(read(data))
    assert len(written) < len(data)
    images = (pixels(1, (8, 8, 3)) / 255).astype(np.float32)
    before, after = (
        load_model(each, 1, "default").predict([images])[0] for each in (data, written)
    )
    assert before.tobytes() == after.tobytes()


def test_everything_survives() -> None:
    build = Builder()
    x, member = build.input("image", 1, 3), build.member()
    module = build.module(logits=build.op("MUL", x, build.lookup(normal(2, 3), member)))
    graph = module.graph
    x.name, x.shape_signature, x.has_rank = "the image", (-1, 3), True
    x.quantization = schema().QuantizationParametersT()
    x.quantization.zeroPoint = np.array([7], np.int64)
    graph.name, module.description = "main", "of a test"
    module.metadata = {"one": b"\x01", "two": b"zwei"}
    extra = graph.add_like(graph.outputs[0])
    graph.insert(Operator("SomeCustomOp", (None, x), (extra,), custom_options=b"\x05", version=3))
    again = read(write(module))
    assert (again.description, again.graph.name) == ("of a test", "main")
    assert again.metadata == module.metadata
    image = again.graph.input("image")
    assert image is again.graph.inputs[0]
    assert (image.name, image.shape, image.shape_signature) == ("the image", (1, 3), (-1, 3))
    assert (image.has_rank, image.is_variable, image.dtype) == (True, False, "float32")
    assert image.quantization.zeroPoint.tolist() == [7]
    custom, _, lookup, product = again.graph.operators
    assert (custom.name, custom.version, custom.custom_options) == ("SomeCustomOp", 3, b"\x05")
    assert custom.inputs == (None, image)
    np.testing.assert_array_equal(lookup.operands[0].values, normal(2, 3))
    assert product.options.fusedActivationFunction == 0
    assert again.operator_codes == module.operator_codes


def test_constants_that_share_a_buffer_share_their_bytes() -> None:
    build = Builder()
    x, one = build.input("image", 1, 3), build.constant([1.0, 2, 3])
    other = build.constant([4.0, 5, 6])
    other.data = one.data
    module = build.module(logits=build.op("ADD", build.op("MUL", x, one), other))
    product, total = read(write(module)).graph.operators
    assert product.operands[1].data is total.operands[1].data
    image = normal(1, 3)
    shared = np.float32([1, 2, 3])
    np.testing.assert_array_equal(run(module, image=image)["logits"], image * shared + shared)


@pytest.mark.parametrize("size", [0, 10, 200])
def test_truncated(fusion: Converted, size: int) -> None:
    with pytest.raises(EnsembleError, match="can't be parsed"):
        read(fusion.path.read_bytes()[:size])


def test_an_error_that_says_what_is_wrong_is_not_called_damage() -> None:
    with pytest.raises(EnsembleError, match=r"^say so$"), parsing():
        raise EnsembleError("say so")
