"""The adversarial training step against NumPy."""

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.ensembles import build_member
from larq_ensemble.ensembles.schemes import SCHEMES, Stage
from larq_ensemble.ensembles.schemes.adversarial import AdversarialNetwork
from larq_ensemble.keras import keras

EPSILON = np.array([0.1, 0.2, 0.4], np.float32)


def entropy_and_gradient(x, labels, kernel):
    """The cross-entropy of softmax(x kernel), and its derivative for the logits."""
    logits = x @ kernel
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -np.log(p[np.arange(len(x)), labels]).mean()
    return entropy, (p - np.eye(p.shape[1])[labels]) / len(x)


@pytest.mark.parametrize("eagerly", [True, False])
def test_a_step_of_a_linear_classifier(eagerly):
    draw = np.random.default_rng(0)
    images = draw.normal(size=(5, 2, 2, 3)).astype(np.float32)
    labels = draw.integers(0, 4, 5)
    kernel = draw.normal(size=(12, 4)).astype(np.float32)
    image = keras.Input((2, 2, 3))
    linear = keras.layers.Dense(4, use_bias=False)
    model = AdversarialNetwork(image, linear(keras.layers.Flatten()(image)))
    model.epsilon = EPSILON
    linear.set_weights([kernel])
    model.compile(
        keras.optimizers.SGD(1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=eagerly,
    )
    logged = model.train_on_batch(images, labels, return_dict=True)

    x = images.reshape(5, 12)
    entropy, of_logits = entropy_and_gradient(x, labels, kernel)
    adversarial = x + np.tile(EPSILON, 4) * np.sign(of_logits @ kernel.T)
    harder, of_adversarial = entropy_and_gradient(adversarial, labels, kernel)
    assert harder > entropy
    assert logged["loss"] == pytest.approx((entropy + harder) / 2, rel=1e-5)
    assert logged["accuracy"] == pytest.approx(np.mean((x @ kernel).argmax(1) == labels))
    expected = kernel - (x.T @ of_logits + adversarial.T @ of_adversarial)
    np.testing.assert_allclose(linear.kernel, expected, rtol=1e-4, atol=1e-5)


def test_members_see_a_hundredth_of_the_range(tiny):
    """Networks see (x / 255 - mean) / std, so a step of 2.55 is one of 0.01 / std to them."""
    cifar = DATASETS["cifar100"]
    stage = Stage(
        1, so_far=lambda: tiny, pixel_range=1 / np.asarray(cifar.normalization.std, np.float32)
    )
    trained, _ = SCHEMES["adversarial"].objective(build_member(tiny, 1), stage)
    np.testing.assert_allclose(
        trained.epsilon, [0.01 / 0.2023, 0.01 / 0.1994, 0.01 / 0.2010], rtol=1e-5
    )
    image = np.full((1, 1, 1, 3), 100)
    change = cifar.normalization(image + 2.55) - cifar.normalization(image)
    np.testing.assert_allclose(trained.epsilon, change.ravel(), rtol=1e-4)
