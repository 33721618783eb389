"""The losses of boosting in NumPy, and members that are boosted together."""

import numpy as np
import pytest

from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.ensembles.schemes.boosting import PseudoResidualLoss
from larq_ensemble.keras import keras, lq, tf

from ...conftest import images, labels

LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_loss_of_boosting():
    draw = np.random.default_rng(0)
    logits, so_far = draw.normal(size=(2, 6, 10)).astype(np.float32)
    residual = np.eye(10)[LABELS] - softmax(so_far)
    stacked = tf.stack([logits, softmax(so_far)], axis=1)
    loss = float(PseudoResidualLoss()(LABELS, stacked))
    assert loss == pytest.approx(np.square(logits - residual).mean(), rel=1e-5)
    # The residual is minus the gradient of the cross-entropy for F.
    with tf.GradientTape() as tape:
        variable = tf.Variable(so_far)
        entropy = keras.losses.sparse_categorical_crossentropy(LABELS, variable, from_logits=True)
    np.testing.assert_allclose(-tape.gradient(entropy, variable), residual, atol=1e-5)


def test_the_loss_of_soft_boosting():
    """Each member its own residual, which is a constant to the members before it."""
    weights = (0.5, 2.0, 1.0)
    logits = np.random.default_rng(0).normal(size=(6, 3, 10)).astype(np.float32)
    first, second, _ = logits.transpose(1, 0, 2)
    before = np.stack([0 * first, 0.5 * first, 0.5 * first + 2 * second], axis=1)
    errors = logits - (np.eye(10)[LABELS][:, np.newaxis] - softmax(before))
    with tf.GradientTape() as tape:
        variable = tf.Variable(logits)
        outputs = [*tf.unstack(variable, axis=1), tf.zeros([6, 10])]
        inputs = SCHEMES["soft_boosting"].loss_inputs(outputs, weights)
        loss = tf.add_n([PseudoResidualLoss()(LABELS, inputs[member]) for member in range(3)])
    assert len(inputs) == 4
    assert float(loss) == pytest.approx(np.square(errors).mean(axis=(0, 2)).sum(), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, variable), 2 * errors / 60, rtol=1e-4, atol=1e-7)


def test_members_start_at_zero_where_the_linear_layer_is_their_own(tiny):
    for scheme in ("boosting", "soft_boosting"):
        logits = build_ensemble(tiny, 2, scheme=scheme)(images())[:2]
        np.testing.assert_array_equal(logits, np.zeros((2, 12, 3)))
        shared = build_ensemble(tiny, 2, scheme=scheme, sharing="all_frozen")(images())
        assert (shared[0].numpy() != 0).any()


@pytest.mark.parametrize(
    ("ends", "starts_at_zero"),
    [
        (lambda: [keras.layers.Dense(3), keras.layers.Softmax()], True),
        (lambda: [keras.layers.Dense(3), keras.layers.BatchNormalization()], True),
        # As in Larq's tutorials: neither a sign nor a batch norm without scale can give zeros.
        (lambda: [keras.layers.Dense(3), keras.layers.BatchNormalization(scale=False)], False),
        (lambda: [lq.layers.QuantDense(3, kernel_quantizer="ste_sign")], False),
    ],
)
def test_members_start_at_zero_where_the_end_of_the_network_can(ends, starts_at_zero) -> None:
    image = x = keras.Input((8, 8, 3))
    for layer in (keras.layers.Flatten(), *ends()):
        x = layer(x)
    member = build_ensemble(keras.Model(image, x), 1, scheme="boosting").member(0)
    assert (member(images()).numpy() == 0).all() == starts_at_zero


@pytest.mark.parametrize("execution", ["plain", "traced"])
def test_soft_boosting_by_fit(tiny, execution):
    """The loss that is logged and the accuracy, recomputed from the logits; and it learns."""
    ensemble = build_ensemble(tiny, 2, scheme="soft_boosting", weights=(0.5, 0.5))
    ensemble.compile(keras.optimizers.Adam(0.05), execution=execution)
    x, y = images(), labels()
    first_loss, *_, last_loss = ensemble.fit(x, y, batch_size=12, epochs=6, verbose=0).history[
        "loss"
    ]
    targets = np.eye(3)[y]
    assert first_loss == pytest.approx(2 * np.square(targets - 1 / 3).mean(), rel=1e-5)  # of zeros
    assert last_loss < 0.9 * first_loss
    logged = ensemble.evaluate(x, y, verbose=0, return_dict=True)
    first, second, probabilities = (output.numpy() for output in ensemble(x))
    errors = [first - (targets - 1 / 3), second - (targets - softmax(0.5 * first))]
    assert logged["loss"] == pytest.approx(np.square(errors).mean((1, 2)).sum(), rel=1e-4)
    np.testing.assert_allclose(probabilities, softmax(0.5 * (first + second)), rtol=1e-4)
    top1 = np.mean((first + second).argmax(1) == y)
    assert logged["ensemble_accuracy"] == pytest.approx(top1)
