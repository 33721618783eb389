"""The delegate on whole files, on batches, and on what it refuses; its operators' values are tested
with those of `legalization`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, load_delegate
from flatbuffers import Builder as Flatbuffer

from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.ir.schema import schema
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import delegate
from larq_ensemble.tflite.flatbuffer import IDENTIFIER

from ....builder import Builder, normal
from ....built_delegate import library

DATA = Path(__file__).parents[3] / "data"

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler builds the delegate")


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(delegate.VARIABLE, str(library()))


def opened(data: bytes, **options: int | str) -> Interpreter:
    return Interpreter(
        model_content=data, experimental_delegates=[load_delegate(str(library()), options)]
    )


@pytest.mark.parametrize("name", ["branches", "compact", "indexed", "subgraphs", "version_1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_unchanged_files_give_the_recorded_logits(name: str, threads: int) -> None:
    recorded = np.load(DATA / f"{name}.npz")
    ensemble = EnsembleInterpreter(DATA / f"{name}.tflite", kernel="delegate", threads=threads)
    logits = ensemble.predict_logits(recorded["images"])
    np.testing.assert_allclose(logits, recorded["logits"], rtol=1e-4, atol=1e-4)


def residual_block(height: int = 6, width: int = 5) -> Module:
    """Signs, a convolution, and all that an epilogue takes; the sums are read twice."""
    build = Builder()
    x = build.input("x", 1, height, width, 40)
    y = convolved(build, build.op("ADD", x, build.constant(normal(40, seed=1))), seed=2)
    y = build.op("PRELU", y, build.constant(normal(1, 1, 40, seed=3)))
    y = build.op("MUL", y, build.constant(normal(40, seed=4)))
    sums = build.op("ADD", y, x, fusedActivationFunction=1)
    z = convolved(build, sums, seed=5)
    z = build.op("ADD", build.op("RELU6", z), sums)
    pool = {"strideW": 2, "strideH": 2, "filterWidth": 3, "filterHeight": 2}
    return build.module(
        sums=sums,
        product=build.op("MUL", z, sums),
        pooled=build.op(
            "AVERAGE_POOL_2D", z, shape=(1, (height + 1) // 2, (width + 1) // 2, 40), **pool
        ),
    )


def convolved(build: Builder, x: Tensor, seed: int) -> Tensor:
    words = build.op("LceQuantize", x, shape=(*x.shape[:3], 2), dtype="int32", custom=b"")
    filters = np.random.default_rng(seed).integers(-(2**31), 2**31, (40, 3, 3, 2))
    filters[..., 1] &= 255
    scales = (build.constant(normal(40, seed=seed + n) / 20) for n in (10, 20))
    return build.binary_convolution(words, build.constant(filters, "int32"), *scales, 40)


def test_fused_operators_are_those_that_stand_alone_and_batches_are_single_images() -> None:
    """An output behind each operator keeps all maps in memory: nothing is fused."""
    module, images = residual_block(), normal(3, 6, 5, 40, seed=6)
    alone = opened(write(module)).get_signature_runner()
    single = [alone(x=image[np.newaxis]) for image in images]
    apart = residual_block()
    graph = apart.graph
    names = {f"t{n}": op.outputs[0] for n, op in enumerate(graph.operators)}
    assert graph.signature is not None
    graph.outputs = list(names.values())
    graph.signature.outputs = names
    unfused = opened(write(apart)).get_signature_runner()(x=images[:1])
    for name, tensor in module.graph.signature.outputs.items():
        place = [op.outputs[0] for op in module.graph.operators].index(tensor)
        np.testing.assert_array_equal(single[0][name], unfused[f"t{place}"])
    batch = opened(write(module), num_threads=3)
    batch.resize_tensor_input(batch.get_input_details()[0]["index"], images.shape)
    together = batch.get_signature_runner()(x=images)
    for name, values in together.items():
        np.testing.assert_array_equal(values, np.concatenate([one[name] for one in single]))


def test_a_map_of_one_pixel_is_added_to_what_follows_from_it() -> None:
    """It has the shape of a value a channel, but isn't there before the convolution runs."""
    build, scale = Builder(), normal(40, seed=1)
    y = convolved(build, build.input("x", 1, 1, 1, 40), seed=2)
    sums = build.op("ADD", build.op("MUL", y, build.constant(scale)), y)
    module = build.module(y=y, sums=sums, following=convolved(build, sums, seed=3))
    outputs = opened(write(module)).get_signature_runner()(x=normal(1, 1, 1, 40))
    np.testing.assert_array_equal(outputs["sums"], outputs["y"] * scale + outputs["y"])


def test_shapes_that_do_not_fit_are_refused_and_others_run_afterwards() -> None:
    data, image = write(residual_block()), normal(1, 6, 5, 40, seed=6)
    expected = opened(data).get_signature_runner()(x=image)
    interpreter = opened(data)
    place = interpreter.get_input_details()[0]["index"]
    for shape in ([1, 6, 5, 7], [1, 6, 40]):
        interpreter.resize_tensor_input(place, shape)
        with pytest.raises(RuntimeError, match=r"the shapes of node \d+ don't fit: its "):
            interpreter.allocate_tensors()
    interpreter.resize_tensor_input(place, image.shape)
    for name, values in interpreter.get_signature_runner()(x=image).items():
        np.testing.assert_array_equal(values, expected[name])


def test_threads_share_large_maps() -> None:
    data, image = write(residual_block(60, 70)), normal(1, 60, 70, 40, seed=6)
    alone, shared = (opened(data, num_threads=n).get_signature_runner()(x=image) for n in (1, 3))
    for name, values in alone.items():
        np.testing.assert_array_equal(values, shared[name])


def test_options_of_operators_are_read_within_their_bytes() -> None:
    module = residual_block()
    op = module.graph.find("LceBconv2d")[0]
    whole = bytes(op.custom_options)
    for size in range(0, len(whole), 7):
        op.custom_options = whole[:size]
        with pytest.raises(RuntimeError, match=r"\(LceBconv2d\) isn't supported: an option"):
            opened(write(module)).allocate_tensors()


def edited(module: Module, edit: Callable[[Any], None]) -> bytes:
    """The bytes of a model after `edit` has changed its tables, which nobody verifies."""
    model = schema().ModelT.InitFromObj(schema().Model.GetRootAsModel(write(module), 0))
    edit(model)
    builder = Flatbuffer(0)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def test_a_constant_with_fewer_bytes_than_its_shape_is_not_read() -> None:
    """TFLite checks that of all but sparse tensors."""
    build = Builder()
    double = build.op("MUL", build.constant([1]), build.constant([2]))
    bits = build.op("LceQuantize", double, dtype="int32", custom=b"")
    module = build.module(bits=bits, other=build.op("RELU", build.input("x", 1)))

    def grow(model: Any) -> None:
        multiplication, packing, _ = model.subgraphs[0].operators
        length, sparse = 1 << 24, schema().SparsityParametersT()
        sparse.traversalOrder, sparse.dimMetadata = [0], [schema().DimensionMetadataT()]
        sparse.dimMetadata[0].denseSize = length
        tensors = model.subgraphs[0].tensors
        tensors[multiplication.inputs[0]].sparsity = sparse
        tensors[multiplication.inputs[0]].shape = [length]
        tensors[multiplication.outputs[0]].shape = [length]
        tensors[packing.outputs[0]].shape = [length // 32]

    interpreter = opened(edited(module, grow))
    interpreter.allocate_tensors()
    with pytest.raises(RuntimeError, match="has no memory"):
        interpreter.invoke()


def test_a_constant_is_not_written_to() -> None:
    build = Builder()
    words = build.op("LceQuantize", build.input("x", 1), dtype="int32", custom=b"")
    other = build.op("ADD", words, build.constant([7], "int32"))

    def redirect(model: Any) -> None:
        packing, addition = model.subgraphs[0].operators
        packing.outputs, addition.inputs = addition.inputs[1:], addition.inputs[1:] * 2

    with pytest.raises(RuntimeError, match=r"\(LceQuantize\) isn't supported: its output is a con"):
        opened(edited(build.module(other=other), redirect)).allocate_tensors()


@pytest.mark.parametrize("options", [{"num_threads": "many"}, {"num_threads": -1}, {"speed": 1}])
def test_wrong_options_are_told(options: dict[str, int | str]) -> None:
    with pytest.raises(ValueError, match=r"`num_threads`"):
        load_delegate(str(library()), options)
