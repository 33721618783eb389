"""Recomputation: the same step as the plain one, in every weight, statistic, draw and metric."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ensembles import Ensemble, build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf

from ..conftest import CLASSES, SHAPE, images, labels, tiny_backbone


def weights_for(scheme: str, members: int) -> dict[str, np.ndarray] | None:
    """Sample weights as in bagging, for schemes with a loss for each member."""
    if scheme != "voting":
        return None
    counts = np.random.default_rng(5).poisson(1, (members, 12)).astype(np.float32)
    return {f"member_{member}": counts[member] for member in range(members)}


def trained(members: int, scheme: str, *, recompute: bool, eagerly: bool, **arguments):
    """An ensemble with dropout after two steps, its weights before, and the logs of the second."""
    keras.utils.set_random_seed(3)
    backbone = tiny_backbone(dropout=0.5)
    ensemble = model = build_ensemble(backbone, members, scheme=scheme, **arguments)
    model.compile(
        keras.optimizers.SGD(0.1),
        execution="auto" if recompute else "plain",
        recompute=recompute,
        run_eagerly=eagerly,
    )
    untrained = [layer.get_weights() for layer in model.layers]
    inputs = len(model.inputs)
    x = [images(seed=stream) for stream in range(inputs)] if inputs > 1 else images()
    weights = weights_for(scheme, members)
    for _ in range(2):
        logs = model.train_on_batch(x, labels(), sample_weight=weights, return_dict=True)
    return ensemble, untrained, logs


@pytest.mark.parametrize(
    ("members", "scheme", "eagerly", "arguments"),
    [
        (3, "fusion", True, {}),
        (2, "nested_fusion", False, {}),
        (2, "voting", True, {"independent_inputs": True, "sharing": "none"}),
        (2, "voting", True, {}),
        (3, "soft_boosting", True, {}),
    ],
)
def test_a_step_is_the_plain_one(members, scheme, eagerly, arguments, repeatable) -> None:
    """Dropout is on and batch norm's statistics move, so an extra draw or update would show."""
    plain, start, expected_logs = trained(
        members, scheme, recompute=False, eagerly=eagerly, **arguments
    )
    again, _, logs = trained(members, scheme, recompute=True, eagerly=eagerly, **arguments)
    assert logs == pytest.approx(expected_logs, rel=1e-5)
    for layer, untrained in zip(plain.layers, start, strict=True):
        actual = again.get_layer(layer.name)
        pairs = zip(actual.get_weights(), layer.get_weights(), strict=True)
        for weight, expected in pairs:
            np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
        if layer.trainable_weights or "bn" in layer.name:
            assert (layer.get_weights()[-1] != untrained[-1]).any()
        if isinstance(layer, keras.layers.Dropout):
            np.testing.assert_array_equal(
                actual._random_generator._generator.state, layer._random_generator._generator.state
            )


def regularized() -> keras.Model:
    """A convolution that the members share and a linear layer, both with weight decay."""
    decay = keras.regularizers.L2(0.1)
    image = keras.Input(SHAPE)
    x = lq.layers.QuantConv2D(
        4, 3, input_quantizer="ste_sign", kernel_regularizer=decay, name="conv"
    )(image)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(CLASSES, kernel_regularizer=decay)(x))


def test_regularization_and_a_shared_layer_that_trains() -> None:
    """The members' gradients for a layer that they share add up; weight decay counts once."""
    plain = build_ensemble(regularized(), 2)
    plain.get_layer("conv").trainable = True
    again = keras.models.clone_model(plain)
    again.set_weights(plain.get_weights())
    again.get_layer("conv").trainable = True
    before = plain.get_layer("conv").get_weights()[0]
    assert isinstance(again, Ensemble)
    for model in (plain, again):
        model.compile(
            keras.optimizers.SGD(0.1),
            execution="auto" if model is again else "plain",
            recompute=model is again,
            run_eagerly=True,
        )
        model.train_on_batch(images(), labels())
    assert np.abs(plain.get_layer("conv").get_weights()[0] - before).max() > 1e-3
    for weight, expected in zip(again.weights, plain.weights, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def test_members_never_run_side_by_side(tiny) -> None:
    """In the graph of a step, each member's second run waits for the gradients of the one before.

    The first run of a member waits for the logits before it.
    """
    model = build_ensemble(tiny, 3)
    model.compile(keras.optimizers.SGD(0.1), recompute=True)
    graph = (
        tf.function(lambda x, y: model.train_step((x, y)))
        .get_concrete_function(images(), labels())
        .graph
    )

    def before(operation: tf.Operation) -> set[str]:
        seen: set[str] = set()
        pending = [operation]
        while pending:
            current = pending.pop()
            if current.name not in seen:
                seen.add(current.name)
                pending += [*current.control_inputs, *(x.op for x in current.inputs)]
        return seen

    norms = {
        member: [
            operation
            for operation in graph.get_operations()
            if f"member_{member}_conv1_bn/" in operation.name
            and operation.type in ("FusedBatchNormV3", "FusedBatchNormGradV3")
        ]
        for member in range(3)
    }
    for member, operations in norms.items():
        assert [operation.type for operation in operations] == [
            "FusedBatchNormV3",
            "FusedBatchNormV3",
            "FusedBatchNormGradV3",
        ]
        if member:
            first, second, _ = operations
            assert norms[member - 1][0].name in before(first)
            assert norms[member - 1][2].name in before(second)


def test_saving(tiny, tmp_path) -> None:
    model = build_ensemble(tiny, 2, scheme="nested_fusion")
    model.compile("sgd", recompute=True)
    model.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    assert isinstance(loaded, Ensemble)
    assert loaded.members == 2
    assert loaded._training.recompute
    for one, other in zip(model(images()), loaded(images()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_recomputed(tiny) -> None:
    with pytest.raises(EnsembleError, match=r"'member_0_dropout' draws, .*enable_tf_random"):
        build_ensemble(tiny_backbone(dropout=0.5), 2).compile(recompute=True)
    build_ensemble(tiny_backbone(dropout=0.5), 2, dropout=0).compile(recompute=True)
    image = keras.Input(SHAPE)
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dense(CLASSES, activity_regularizer="l2")(x)
    with pytest.raises(EnsembleError, match="without activity_regularizer and add_loss"):
        build_ensemble(keras.Model(image, x), 2, sharing="none").compile(recompute=True)
