"""Operators, one network each, against LCE's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from flatbuffers import flexbuffers

from larq_ensemble.convert.targets.c.plan import BinaryConvolution, Convolution, Plan, Threshold
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.convert.targets.c.scratch import scratch_bytes
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.legalization.legalizing import legalize
from larq_ensemble.runtime.file import checked_ensemble
from larq_ensemble.runtime.metadata import EnsembleMetadata

from ....builder import Builder, normal, of_member, run
from .execution import Execution
from .programs import Program

HEIGHT, WIDTH, CLASSES = 6, 7, 5
SAME, VALID = 0, 1
PIXELS = np.random.default_rng(6).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
Network = Callable[[Builder, Tensor], Tensor]


def words(*shape: int, channels: int = 32) -> np.ndarray:
    """Random bits for some channels."""
    bits = np.random.default_rng(0).integers(0, 2, (*shape, 32), np.uint8)
    bits[..., channels:] = 0
    return np.packbits(bits, axis=-1, bitorder="little").view(np.int32)[..., 0]


def centered(build: Builder, image: Tensor) -> Tensor:
    offset = build.constant([-127.5] * image.shape[-1])
    return build.op("MUL", build.op("ADD", image, offset), build.constant(0.01))


def convolution(
    build: Builder, x: Tensor, channels: int, shape: Sequence[int], size: int = 3, **fields: int
) -> Tensor:
    filters = build.constant(normal(channels, size, size, x.shape[3], seed=channels))
    bias = build.constant(normal(channels, seed=1))
    fields = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, **fields}
    return build.op("CONV_2D", x, filters, bias, shape=shape, **fields)


def features(build: Builder, image: Tensor, channels: int = 32) -> Tensor:
    """A map of floats."""
    return convolution(build, centered(build, image), channels, (1, HEIGHT, WIDTH, channels))


def signs(build: Builder, x: Tensor) -> Tensor:
    shape = (*x.shape[:-1], -(-x.shape[-1] // 32))
    return build.op("LceQuantize", x, shape=shape, dtype="int32", custom=b"")


def numbers(build: Builder, bits: Tensor, channels: int) -> Tensor:
    shape = (*bits.shape[:-1], channels)
    return build.op("LceDequantize", bits, shape=shape, dtype="float32", custom=b"")


def binary(
    build: Builder, bits: Tensor, shape: Sequence[int], size: int, *, packed: bool = False,
    groups: int = 1, channels_in: int = 32, **options: int,
) -> Tensor:  # fmt: skip
    """An LceBconv2d."""
    channels = shape[3]
    custom = {
        "channels_in": channels_in,
        **dict.fromkeys(("dilation_height_factor", "dilation_width_factor"), 1),
        **dict.fromkeys(("fused_activation_function", "pad_values"), 0),
        "padding": VALID,
        **dict.fromkeys(("stride_height", "stride_width"), 1),
        **options,
    }
    of_filter = channels, size, size, bits.shape[3] // groups
    filters = build.constant(words(*of_filter, channels=channels_in), "int32")
    limits = np.random.default_rng(3).integers(channels_in, 6 * channels_in, channels)
    floats = build.constant(normal(channels, seed=4)), build.constant(normal(channels, seed=5))
    return build.op(
        *("LceBconv2d", bits, filters),
        *((None, None) if packed else floats),
        build.constant(limits, "int32") if packed else None,
        shape=(*shape[:3], -(-channels // 32)) if packed else shape,
        dtype="int32" if packed else "float32",
        custom=bytes(flexbuffers.Dumps(custom)),
    )


def gate(build: Builder, x: Tensor) -> Tensor:
    """The mean of a map as one pixel."""
    axes, shape = build.constant([1, 2], "int32"), (1, 1, 1, x.shape[3])
    return build.op("MEAN", x, axes, shape=shape, keepDims=True)


def head(build: Builder, x: Tensor) -> Tensor:
    """Logits of a map: of the mean and of a corner, so that places count."""
    axes = build.constant([1, 2], "int32")
    mean = build.op("MEAN", x, axes, shape=(1, x.shape[-1]))
    weights = build.constant(normal(CLASSES, x.shape[-1], seed=9))
    return build.op(
        *("FULLY_CONNECTED", mean, weights, None), shape=(1, CLASSES), fusedActivationFunction=0
    )


def row(build: Builder, x: Tensor) -> Tensor:
    """A map as one row of numbers."""
    shape = (1, int(np.prod(x.shape)))
    return build.op("RESHAPE", x, build.constant(shape, "int32"), shape=shape)


def flat(build: Builder, x: Tensor) -> Tensor:
    """Logits of a whole map."""
    numbers = row(build, x)
    weights = build.constant(normal(CLASSES, numbers.shape[1], seed=8))
    return build.op(
        *("FULLY_CONNECTED", numbers, weights, None), shape=(1, CLASSES), fusedActivationFunction=0
    )


def about(classes: int = CLASSES) -> EnsembleMetadata:
    shape = HEIGHT, WIDTH, 3
    return EnsembleMetadata(scheme="fusion", members=2, classes=classes, input_shape=shape)


def ensemble(network: Network) -> tuple[Module, bytes]:
    """Two members, and their file.

    They add numbers of their own to what the network computes, which then is flattened.
    """
    build = Builder()
    member, image = build.member(), build.input("image", 1, HEIGHT, WIDTH, 3)
    x = network(build, image)
    x = build.op("ADD", x, build.lookup(normal(2, x.shape[-1], seed=7), member))
    logits = x if len(x.shape) == 2 else row(build, x)
    module = build.module(members=2, logits=logits)
    return module, write_ensemble(module, about(logits.size))


def planned(network: Network) -> tuple[Plan, np.ndarray, np.ndarray]:
    """The plan of an ensemble, its logits of an image, and LCE's."""
    module, data = ensemble(network)
    plan = plan_ensemble(checked_ensemble(data))
    execution = Execution(plan, scratch_bytes)
    execution.begin(PIXELS)
    got = np.stack([execution.member(member) for member in range(2)])
    if any(isinstance(step, BinaryConvolution) and step.groups > 1 for step in plan.steps):
        legalize(module)  # LCE's fast kernel has no groups
    image_values = PIXELS[np.newaxis].astype(np.float32)
    expected = np.concatenate(
        [run(module, image=image_values, member=of_member(n))["logits"] for n in range(2)]
    )
    return plan, got, expected


def _binary(shape: Sequence[int], size: int = 3, channels: int = 32, **options: int) -> Network:
    return lambda build, image: flat(
        build,
        binary(
            build, signs(build, features(build, image, channels)), shape, size,
            channels_in=channels, **options,
        ),
    )  # fmt: skip


def _packed(build: Builder, image: Tensor) -> Tensor:
    bits = binary(
        build, signs(build, features(build, image)), (1, HEIGHT, WIDTH, 40), 3, packed=True,
        padding=SAME, pad_values=1,
    )  # fmt: skip
    return flat(build, numbers(build, bits, 40))


def _pooled_signs(build: Builder, image: Tensor) -> Tensor:
    options = {
        "filter_height": 2,
        "filter_width": 3,
        "padding": VALID,
        "stride_height": 2,
        "stride_width": 2,
    }
    bits = build.op(
        *("LceBMaxPool2d", signs(build, features(build, image, 40))),
        shape=(1, 3, 3, 2), custom=bytes(flexbuffers.Dumps(options)),
    )  # fmt: skip
    return flat(build, numbers(build, bits, 40))


def _binary_shortcut(build: Builder, image: Tensor) -> Tensor:
    x = numbers(build, signs(build, features(build, image)), 32)
    filters = numbers(build, build.constant(words(16, 1, 1, 1), "int32"), 32)
    y = build.op(
        *("CONV_2D", x, filters, build.constant(np.zeros(16))),
        shape=(1, 3, 4, 16), strideH=2, strideW=2, dilationHFactor=1, dilationWFactor=1,
    )  # fmt: skip
    return flat(build, y)


def _real_shortcut(build: Builder, image: Tensor) -> Tensor:
    x = numbers(build, signs(build, features(build, image)), 32)
    return flat(build, convolution(build, x, 16, (1, HEIGHT, WIDTH, 16), size=1))


def _dense_of_signs(build: Builder, image: Tensor) -> Tensor:
    axes = build.constant([1, 2], "int32")
    mean = build.op("MEAN", features(build, image), axes, shape=(1, 32))
    return flat(build, numbers(build, signs(build, mean), 32))


def _long_rows(build: Builder, image: Tensor) -> Tensor:
    x = features(build, image, 16)
    rows = build.op("RESHAPE", x, build.constant([1, 1, 21, 32], "int32"), shape=(1, 1, 21, 32))
    vector = build.op("TILE", build.constant(normal(16)), build.constant([2], "int32"), shape=(32,))
    bits = signs(build, build.op("ADD", rows, vector))
    halves = build.op("BITCAST", bits, shape=(1, 1, 21, 1, 2), dtype="uint16")
    wide = build.op("CAST", halves, dtype="int32", inDataType=16, outDataType=2)
    pixels = build.op(
        *("RESHAPE", wide, build.constant([1, HEIGHT, WIDTH, 1], "int32")),
        shape=(1, HEIGHT, WIDTH, 1),
    )
    return flat(build, binary(build, pixels, (1, 4, 5, 8), 3, channels_in=16))


def _two_maps(build: Builder, image: Tensor) -> Tensor:
    one, other = features(build, image, 8), features(build, image, 8)
    shifted = build.op("SUB", build.op("RELU", one), build.op("LOGISTIC", other))
    scaled = build.op("MUL", shifted, build.op("TANH", one))
    return flat(build, build.op("MUL", scaled, gate(build, scaled)))


def _squeeze_and_excitation(build: Builder, image: Tensor) -> Tensor:
    """As the converter writes it: in rows of whole pixels, for which the gate is repeated."""
    x = features(build, image, 8)
    pixel = build.op("LOGISTIC", gate(build, x))
    vector = build.op("RESHAPE", pixel, build.constant([8], "int32"), shape=(8,))
    repeated = build.op("TILE", vector, build.constant([2], "int32"), shape=(16,))
    rows = build.op("RESHAPE", x, build.constant([1, 1, 21, 16], "int32"), shape=(1, 1, 21, 16))
    return flat(build, build.op("MUL", rows, repeated))


def _with_itself(build: Builder, image: Tensor) -> Tensor:
    x = features(build, image, 8)
    square = build.op("MUL", x, x)
    return flat(build, build.op("ADD", square, square))


def _pooled(name: str) -> Network:
    def network(build: Builder, image: Tensor) -> Tensor:
        fields = {"filterHeight": 3, "filterWidth": 2, "strideH": 2, "strideW": 2}
        x = features(build, image, 8)
        return flat(build, build.op(name, x, shape=(1, 3, 4, 8), padding=SAME, **fields))

    return network


def _sliced(build: Builder, image: Tensor) -> Tensor:
    bounds = [build.constant(numbers, "int32") for numbers in ([0] * 4, [0] * 4, [1, 2, 2, 1])]
    every_other = build.op(
        *("STRIDED_SLICE", features(build, image, 8), *bounds),
        shape=(1, 3, 4, 8), beginMask=15, endMask=15,
    )  # fmt: skip
    return flat(build, convolution(build, every_other, 4, (1, 3, 4, 4), size=1))


def _padded(build: Builder, image: Tensor) -> Tensor:
    amounts = build.constant([[0, 0], [1, 0], [2, 1], [0, 0]], "int32")
    wider = build.op("PAD", features(build, image, 4), amounts, shape=(1, 7, 10, 4))
    x = convolution(build, wider, 6, (1, 5, 8, 6), padding=VALID)
    channels = build.constant([[0, 0], [0, 0], [0, 0], [1, 9]], "int32")
    return flat(build, build.op("PAD", x, channels, shape=(1, 5, 8, 16)))


def margin(build: Builder, x: Tensor, *amounts: Sequence[int]) -> Tensor:
    """A map with rows above and below it, and columns on its left and right."""
    (top, bottom), (left, right) = amounts
    _, height, width, channels = x.shape
    shape = (1, height + top + bottom, width + left + right, channels)
    return build.op("PAD", x, build.constant([[0, 0], *amounts, [0, 0]], "int32"), shape=shape)


def _cut_and_padded(build: Builder, image: Tensor) -> Tensor:
    bounds = [build.constant(numbers, "int32") for numbers in ([0, 1, 2, 0], [1, 4, 4, 8])]
    middle = build.op("SLICE", features(build, image, 8), *bounds, shape=(1, 4, 4, 8))
    below = margin(build, middle, (0, 1), (0, 0))
    beside = margin(build, middle, (0, 0), (1, 0))
    return build.op(
        "ADD",
        flat(build, convolution(build, below, 4, (1, 5, 4, 4), size=1, padding=VALID)),
        flat(build, convolution(build, beside, 4, (1, 4, 5, 4), size=1, padding=VALID)),
    )


def _padded_pixel(build: Builder, image: Tensor) -> Tensor:
    x = margin(build, gate(build, features(build, image, 8)), (2, 0), (1, 0))
    return flat(build, convolution(build, x, 4, (1, 3, 2, 4), size=1, padding=VALID))


def joined(build: Builder, *maps: Tensor) -> Tensor:
    channels = sum(map.shape[3] for map in maps)
    return build.op("CONCATENATION", *maps, shape=(*maps[0].shape[:3], channels), axis=3)


def _bottleneck(build: Builder, image: Tensor) -> Tensor:
    both = joined(build, features(build, image, 6), features(build, image, 8))
    return flat(build, convolution(build, both, 4, (1, HEIGHT, WIDTH, 4), size=1))


def _joined_with_itself(build: Builder, image: Tensor) -> Tensor:
    x = features(build, image, 16)
    return flat(build, numbers(build, signs(build, joined(build, x, x)), 32))


def _transposed_filters(build: Builder, image: Tensor) -> Tensor:
    """As of a ternary kernel that members own: it is looked up in Keras's order."""
    axes, ternary = build.constant([3, 0, 1, 2], "int32"), np.round(normal(3, 3, 8, 4) / 2)
    filters = build.op("TRANSPOSE", build.constant(ternary), axes, shape=(4, 3, 3, 8))
    strides = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    x, zeros = features(build, image, 8), build.constant(np.zeros(4))
    return flat(build, build.op("CONV_2D", x, filters, zeros, shape=(1, 6, 7, 4), **strides))


def _columns(build: Builder, image: Tensor) -> Tensor:
    order = build.constant([6, 5, 4, 2, 2], "int32")
    x = centered(build, image)
    return flat(build, build.op("GATHER", x, order, shape=(1, HEIGHT, 5, 3), axis=2))


NETWORKS: dict[str, Network] = {
    "zeros": _binary((1, HEIGHT, WIDTH, 8), padding=SAME),
    "ones": _binary((1, HEIGHT, WIDTH, 8), padding=SAME, pad_values=1),
    "strides": _binary((1, 3, 3, 33), stride_height=2, stride_width=2, padding=VALID, size=2),
    "dilation": _binary((1, 2, 3, 8), dilation_height_factor=2, dilation_width_factor=2),
    "few channels": _binary((1, HEIGHT, WIDTH, 8), channels=5, padding=SAME),
    "groups": _binary((1, 4, 5, 8), channels=64, groups=2),
    "clamped sums": _binary((1, 4, 5, 8), fused_activation_function=1),
    "packed": _packed,
    "pooled signs": _pooled_signs,
    "binary shortcut": _binary_shortcut,
    "real shortcut of signs": _real_shortcut,
    "dense layer of signs": _dense_of_signs,
    "long rows": _long_rows,
    "two maps": _two_maps,
    "squeeze and excitation": _squeeze_and_excitation,
    "with itself": _with_itself,
    "largest": _pooled("MAX_POOL_2D"),
    "mean": _pooled("AVERAGE_POOL_2D"),
    "sliced": _sliced,
    "padded": _padded,
    "cut and padded": _cut_and_padded,
    "padded pixel": _padded_pixel,
    "bottleneck": _bottleneck,
    "joined with itself": _joined_with_itself,
    "transposed filters": _transposed_filters,
    "columns": _columns,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_computes_what_lce_computes(name: str) -> None:
    _, got, expected = planned(NETWORKS[name])
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    assert np.abs(expected).min(axis=0).max() > 0


def test_logits_may_be_a_flattened_map(tmp_path: Path) -> None:
    plan, _, expected = planned(lambda build, image: features(build, image, 2))
    program = Program(tmp_path, plan, about(HEIGHT * WIDTH * 2))
    assert program.macros["ENSEMBLE_CLASSES"] == str(HEIGHT * WIDTH * 2)
    for member in range(2):
        np.testing.assert_allclose(program.logits(PIXELS, member), expected[member], rtol=1e-4)


def test_signs_by_signs_are_a_binary_convolution() -> None:
    plan, _, _ = planned(_binary_shortcut)
    (step,) = (step for step in plan.steps if isinstance(step, BinaryConvolution))
    assert not step.pads_with_ones


def test_packed_outputs_compare_integers() -> None:
    plan, _, _ = planned(_packed)
    (step,) = (step for step in plan.steps if isinstance(step, BinaryConvolution))
    (threshold,) = step.epilogue
    assert isinstance(threshold, Threshold)


def test_a_convolution_reads_every_other_pixel_itself() -> None:
    plan, _, _ = planned(_sliced)
    steps = [step for step in plan.steps if isinstance(step, Convolution)]
    assert [step.window.stride_y for step in steps] == [1, 2, 1]


def test_an_operator_without_a_form_in_c_is_named_with_its_place() -> None:
    def network(build: Builder, image: Tensor) -> Tensor:
        return head(build, build.op("COS", features(build, image)))

    with pytest.raises(
        EnsembleError,
        match=r"COS, operator 4 of 9 of a member, from \[1, 6, 7, 32\] to \[1, 6, 7, 32\]: C",
    ):
        planned(network)


@pytest.mark.parametrize("axis", [1, 3])
def test_other_lookups_are_refused(axis: int) -> None:
    def network(build: Builder, image: Tensor) -> Tensor:
        index = build.constant([0], "int32")
        shape = [1, HEIGHT, WIDTH, 3]
        shape[axis] = 1
        x = build.op("GATHER", centered(build, image), index, shape=shape, axis=axis)
        return flat(build, x)

    with pytest.raises(EnsembleError, match=r"GATHER.*C source looks up columns of maps only"):
        planned(network)


def test_repeated_numbers_are_no_further_channels() -> None:
    def network(build: Builder, image: Tensor) -> Tensor:
        times = build.constant([1, 1, 1, 2], "int32")
        x = gate(build, features(build, image, 8))
        return flat(build, build.op("TILE", x, times, shape=(1, 1, 1, 16)))

    with pytest.raises(EnsembleError, match=r"it reads a map of 1 x 1 x 8 in another shape"):
        planned(network)


def test_repeated_numbers_are_no_further_classes() -> None:
    def network(build: Builder, image: Tensor) -> Tensor:
        ones = build.constant(np.ones((1, 2, 1, 8)))
        x = gate(build, features(build, image, 8))
        return build.op("ADD", x, ones, shape=ones.shape)

    with pytest.raises(EnsembleError, match=r"RESHAPE.*its logits repeat a map of 1 x 1 x 8"):
        planned(network)


def test_maps_that_are_repeated_are_refused() -> None:
    def network(build: Builder, image: Tensor) -> Tensor:
        times = build.constant([1, 1, 1, 2], "int32")
        return flat(build, build.op("TILE", image, times, shape=(1, HEIGHT, WIDTH, 6)))

    with pytest.raises(EnsembleError, match=r"TILE.*C source repeats vectors only"):
        planned(network)


def test_values_by_row_are_refused() -> None:
    def network(build: Builder, image: Tensor) -> Tensor:
        rows = build.constant(normal(HEIGHT, 1, 1))
        return head(build, build.op("MUL", features(build, image), rows))

    with pytest.raises(EnsembleError, match=r"MUL.*\[6, 1, 1\] aren't 32 channels"):
        planned(network)
