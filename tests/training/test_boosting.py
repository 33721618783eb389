"""The losses of boosting in NumPy, and members that are boosted together."""

import dataclasses

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.training.boosting import PseudoResidualLoss, SoftBoostingLoss
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.evaluation import member_logits

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
        loss = SoftBoostingLoss(weights)(LABELS, variable)
    assert float(loss) == pytest.approx(np.square(errors).mean(axis=(0, 2)).sum(), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, variable), 2 * errors / 60, rtol=1e-4, atol=1e-7)


def test_members_boosted_together_and_interrupted(
    backbone, recipe, few, read_log, tmp_path, epochs_begun, interrupt_at_step
):
    arguments = {
        "members": 2,
        "scheme": "soft_boosting",
        "shrinkage": 0.5,
        "recipe": dataclasses.replace(recipe, epochs=2, dropout=0.3),
        "data": few,
        "verbose": 0,
    }
    interrupt_at_step(5)
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(backbone, tmp_path / "run", **arguments)
    interrupt_at_step(None)
    run, result = train_ensemble(backbone, tmp_path / "run", resume=True, **arguments)
    assert epochs_begun == [0, 1, 1]

    view = run.model
    assert view.member_weights == (0.5, 0.5)
    for layer in view.shared_layers():
        original = backbone.model.get_layer(layer.name)
        np.testing.assert_array_equal(layer.get_weights()[0], original.get_weights()[0])
    heads = [run.model.get_layer(f"member_{member}_linear").kernel.numpy() for member in (0, 1)]
    assert np.abs(heads[0] - heads[1]).max() > 0
    assert np.abs(heads).max() < 0.1  # from zeros, by six steps of at most 0.01

    dataset = DATASETS["digits"]
    held_out = few.load(dataset, backbone.config.seed).validation
    first, second = member_logits(run.model, held_out, dataset)
    targets = np.eye(10)[held_out.labels]
    row = read_log(run)[-1]
    errors = [first - (targets - 0.1), second - (targets - softmax(0.5 * first))]
    assert row["step"] == 6
    assert row["val_loss"] == pytest.approx(np.square(errors).mean((1, 2)).sum(), rel=1e-4)
    top1 = np.mean((first + second).argmax(1) == held_out.labels)
    assert row["val_accuracy"] == pytest.approx(top1)
    assert result["validation_top1"] == pytest.approx(100 * top1)
    probabilities = run.model.predict(dataset.normalize(held_out.images), verbose=0)[-1]
    np.testing.assert_allclose(probabilities, softmax(0.5 * (first + second)), rtol=1e-4)


def test_plain_fit_is_refused(backbone):
    ensemble = build_ensemble(backbone.model, 2, scheme="soft_boosting")
    with pytest.raises(EnsembleError, match="'soft_boosting' has one loss over the logits of all"):
        compile_arguments(ensemble)
