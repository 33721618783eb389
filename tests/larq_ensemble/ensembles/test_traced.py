"""Traced execution: the same as the plain ensemble, in everything that training changes."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from larq_ensemble.ensembles import Ensemble, build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models.keras_layers import KerasLayers
from larq_ensemble.network.architectures.resnet import resnet

from ..conftest import CLASSES, SHAPE, images, labels, randomize, tiny_backbone


def trained(backbone, members: int, scheme: str, *, execution: str, steps: int = 3, **arguments):
    """An ensemble after some steps, its weights before, their losses, and what it gives then."""
    ensemble = model = build_ensemble(backbone, members, scheme=scheme, **arguments)
    assert model.tracing_obstacle is None
    assert not model.is_traced
    model.compile(keras.optimizers.SGD(0.1), execution=execution)
    assert model.is_traced == (execution == "traced")
    untrained = [layer.get_weights() for layer in model.layers]
    inputs = len(model.inputs)
    x = [images(seed=stream) for stream in range(inputs)] if inputs > 1 else images()
    weights = None
    if scheme == "bagging":
        counts = np.random.default_rng(5).poisson(1, (members, 12)).astype(np.float32)
        weights = {f"member_{member}": counts[member] for member in range(members)}
    logs = [
        model.train_on_batch(x, labels(), sample_weight=weights, return_dict=True)
        for _ in range(steps)
    ]
    # Not `predict`, whose tracing takes longer than what it computes.
    return ensemble, untrained, logs, [output.numpy() for output in model(x)]


@pytest.mark.parametrize(
    ("members", "scheme", "arguments"),
    [
        (3, "fusion", {}),
        (2, "nested_fusion", {"sharing": "c3"}),
        (2, "bagging", {}),
        (2, "voting", {"independent_inputs": True, "sharing": "none"}),
    ],
)
def test_training_is_the_plain_one(members, scheme, arguments, repeatable) -> None:
    """Losses, weights, statistics of batch norm and the state of Dropout, after three steps."""
    results = []
    for execution in ("plain", "traced"):
        keras.utils.set_random_seed(3)
        results.append(
            trained(tiny_backbone(dropout=0.5), members, scheme, execution=execution, **arguments)
        )
    (plain, start, expected, outputs), (other, _, actual, again) = results
    for logs, wanted in zip(actual, expected, strict=True):
        assert logs == pytest.approx(wanted, rel=1e-4)
    for one, two in zip(again, outputs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
    for layer, untrained in zip(plain.layers, start, strict=True):
        actual_layer = other.get_layer(layer.name)
        for weight, wanted in zip(actual_layer.get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_allclose(weight, wanted, rtol=1e-4, atol=1e-5)
        if layer.trainable_weights:
            assert (layer.get_weights()[-1] != untrained[-1]).any()
        if isinstance(layer, keras.layers.Dropout):
            np.testing.assert_array_equal(
                actual_layer._random_generator._generator.state,
                layer._random_generator._generator.state,
            )


def gradients(model: keras.Model) -> tuple[list[np.ndarray], list[np.ndarray]]:
    with tf.GradientTape() as tape:
        outputs = model(images(), training=True)
        loss = keras.losses.SparseCategoricalCrossentropy()(labels(classes=10), outputs[-1])
    taken = tape.gradient(loss, model.trainable_variables)
    return [output.numpy() for output in outputs], [gradient.numpy() for gradient in taken]


@functools.cache
def residual_network(pad_values, rule):
    """A network, and the outputs and gradients of a plain ensemble of two of it.

    Scales of filters are powers of two, so sums are exact in any order and no sign flips.
    """
    image = keras.Input(SHAPE)
    logits = resnet(
        KerasLayers(pad_values=pad_values, prelu_gradient=rule),
        image,
        classes=10,
        dropout=0,
        stages=(4, 8),
        blocks=(1, 1),
    )
    backbone = randomize(keras.Model(image, logits))
    for layer in backbone.layers:
        if isinstance(layer, lq.layers.QuantConv2D):
            layer.set_weights([np.sign(weight) * 0.125 for weight in layer.get_weights()])
    return backbone, *gradients(build_ensemble(backbone, 2))


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("float32", 0, 1e-5), ("bfloat16", 1e-4, 0.05)]
)
@pytest.mark.parametrize(("pad_values", "rule"), [(0.0, "zero"), (1.0, "slope")])
def test_gradients_of_a_residual_network(pad_values, rule, dtype, least, most, request) -> None:
    """Float32 gives the same; bfloat16 the same outputs, and gradients but for their rounding."""
    if dtype == "bfloat16":
        request.getfixturevalue("bfloat16")
    backbone, outputs, expected = residual_network(pad_values, rule)
    traced = build_ensemble(backbone, 2)
    traced.compile("sgd", bfloat16=dtype == "bfloat16")
    assert traced.is_traced
    again, actual = gradients(traced)
    for one, two in zip(again, outputs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    one, two = (np.concatenate([*map(np.ravel, of)]) for of in (actual, expected))
    assert least <= np.linalg.norm(one - two) / np.linalg.norm(two) < most


def test_members_are_one_function(tiny) -> None:
    """The graph of a step holds a call a member, and of the layers what all have in common."""
    sizes = []
    for members in (2, 6):
        model = build_ensemble(tiny, members)
        model.compile("sgd")
        graph = (
            tf.function(lambda x, model=model: model(x, training=True))
            .get_concrete_function(images())
            .graph
        )
        operations = [operation.type for operation in graph.get_operations()]
        calls = [kind for kind in operations if kind.endswith("PartitionedCall")]
        assert len(calls) == members
        assert operations.count("Conv2D") == 1  # the stem
        assert "FusedBatchNormV3" not in operations
        sizes.append(len(operations))
    # What is left of a member is its call, and reading and writing its 10 weights.
    assert sizes[1] - sizes[0] < 4 * 40


def test_saving_and_checkpoints_are_those_of_the_ensemble(tiny, tmp_path) -> None:
    ensemble = model = build_ensemble(tiny, 2)
    model.compile("sgd")
    model.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    assert isinstance(loaded, Ensemble)
    assert loaded.is_traced
    for one, other in zip(loaded(images()), ensemble(images()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    plain = build_ensemble(tiny_backbone(seed=7), 2)
    plain.compile("sgd", execution="plain")
    status = tf.train.Checkpoint(model=plain).read(str(tmp_path / "checkpoint"))
    status.assert_consumed()
    for weight, expected in zip(plain.get_weights(), ensemble.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def classifier(*layers) -> keras.Model:
    image = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3, name="stem")(image)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))


@keras.utils.register_keras_serializable("tests")
class Counting(keras.layers.Layer):
    """Counts its calls, which only it itself can do."""

    def build(self, shape):
        self.calls = self.add_weight(name="calls", initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


@pytest.mark.parametrize(
    ("backbone", "why"),
    [
        (lambda: tiny_backbone(dropout=0.5), r"'member_0_dropout' .* draws"),
        (lambda: classifier(Counting()), r"'member_0_counting.*' \(Counting\) has a state"),
        (lambda: classifier(keras.layers.GaussianNoise(0.1)), r"gaussian_noise.* draws"),
        (lambda: classifier(keras.layers.BatchNormalization(axis=1)), r"fused"),
        (
            lambda: classifier(keras.layers.Dense(2, activity_regularizer="l2")),
            "add losses that depend on the images",
        ),
    ],
)
def test_what_cannot_be_traced_runs_plain(backbone, why) -> None:
    """Users' own layers train as ever, the slow way."""
    results = []
    for execution in ("plain", "auto"):
        keras.utils.set_random_seed(2)
        model = ensemble = build_ensemble(backbone(), 2)
        assert model.tracing_obstacle is not None
        assert re.search(why, model.tracing_obstacle), model.tracing_obstacle
        keras.utils.set_random_seed(2)
        model.compile(keras.optimizers.SGD(0.1), execution=execution)
        assert not model.is_traced
        model.train_on_batch(images(), labels())
        results.append(ensemble.get_weights())
    with pytest.raises(EnsembleError, match=r"Traced execution needs .* these can't: .*" + why):
        model.compile(execution="traced")
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_bfloat16_where_it_would_do_nothing(tiny) -> None:
    with pytest.raises(EnsembleError, match=r"all members share .* this ensemble has none"):
        build_ensemble(tiny, 2, sharing="none").compile(bfloat16=True)
    with pytest.raises(EnsembleError, match=r"can't: The layer 'member_0_dropout' .* draws"):
        build_ensemble(tiny_backbone(dropout=0.5), 2).compile(bfloat16=True)


def test_a_shared_layer_that_trains(tiny) -> None:
    ensemble = model = build_ensemble(tiny, 2)
    model.compile(keras.optimizers.SGD(0.1))
    assert model.is_traced
    ensemble.get_layer("layer1_conv").trainable = True
    model.compile(keras.optimizers.SGD(0.1))
    assert not model.is_traced
    assert "'layer1_conv' (QuantConv2D) is shared" in str(model.tracing_obstacle)
    before = ensemble.get_layer("layer1_conv").get_weights()[0]
    model.train_on_batch(images(), labels())
    assert (ensemble.get_layer("layer1_conv").get_weights()[0] != before).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"execution": "quick"}, "Unknown execution 'quick'. Known: auto, plain, traced"),
        ({"recompute": True, "execution": "traced"}, "leave out `execution`, or `recompute`"),
        ({"recompute": True, "bfloat16": True}, "leave out `bfloat16`, or `recompute`"),
        ({"bfloat16": True, "execution": "plain"}, "`bfloat16` needs traced execution"),
        ({"prefix_weights": (1, 2)}, "`prefix_weights` does not go with the scheme 'fusion'"),
    ],
)
def test_options_that_do_not_go_together(options, message, tiny) -> None:
    with pytest.raises(EnsembleError, match=message):
        build_ensemble(tiny, 2).compile("sgd", **options)
