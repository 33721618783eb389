"""Schemes: their combination, losses and sample weights, recomputed in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ensembles.combine import Combine
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.ensembles.schemes.adaboost import AdaBoost
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.keras import keras, tf
from larq_ensemble.runtime import combination as combine

JOINT = [
    "fusion",
    "nested_fusion",
    "sampled_nested_fusion",
    "voting",
    "hard_voting",
    "bagging",
    "batch_bagging",
]
NAMES = [
    *JOINT,
    "boosting",
    "soft_boosting",
    "snapshot",
    "fast_geometric",
    "adversarial",
    "adaboost",
    "stochastic_rounding",
]
LOGITS = np.random.default_rng(0).normal(0, 3, (4, 50, 6)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 6, 50)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def mean(values, weights) -> np.ndarray:
    return sum(weight * value for weight, value in zip(weights, values)) / sum(weights)


def expected(name: str, logits: np.ndarray, weights=(1, 1, 1, 1)) -> np.ndarray:
    """The combination of [members, n, classes], written out anew."""
    weights = weights[: len(logits)]
    if "fusion" in name:
        return softmax(mean(logits, weights))
    if "boosting" in name:
        return softmax(sum(weight * member for weight, member in zip(weights, logits)))
    if name == "hard_voting":
        return mean([np.eye(6)[member.argmax(axis=1)] for member in logits], weights)
    return mean([softmax(member) for member in logits], weights)


def test_the_schemes_are_those() -> None:
    assert list(SCHEMES) == NAMES
    assert set(combine.COMBINATIONS) == set(NAMES)
    assert all(SCHEMES[name].name == name for name in NAMES)
    with pytest.raises(UnknownNameError, match=r"Unknown scheme 'stacking'\. Known: adaboost"):
        Combine("stacking")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("members", [1, 2, 4])
def test_combination(name: str, members: int) -> None:
    logits = LOGITS[:members]
    layer = Combine(name)(list(logits)).numpy()
    np.testing.assert_allclose(layer, expected(name, logits), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer, combine.combine(logits, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("members", [1, 3])
def test_weighted_combination(name: str, members: int) -> None:
    """The first m members count with the first m weights."""
    logits, weights = LOGITS[:members], (0.5, 2.0, 0.001, 7.0)
    layer = Combine(name, weights[:members])
    layer = Combine.from_config(layer.get_config())(list(logits)).numpy()
    np.testing.assert_allclose(layer, expected(name, logits, weights), rtol=1e-4, atol=1e-6)
    numpy = combine.combine(logits, name, weights)
    np.testing.assert_allclose(numpy, expected(name, logits, weights), rtol=1e-5, atol=1e-6)


def test_ties_of_votes_go_to_the_lower_class() -> None:
    tied = np.array([[[0, 5, 5]], [[1, 0, 0]]], np.float32)
    np.testing.assert_array_equal(Combine("hard_voting")(list(tied)), [[0.5, 0.5, 0]])
    np.testing.assert_array_equal(combine.combine(tied, "hard_voting"), [[0.5, 0.5, 0]])


@pytest.mark.parametrize("eagerly", [True, False])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_fusion_loss_is_as_stable_as_on_logits(eagerly: bool, scale: float) -> None:
    """Through `Model.train_on_batch`, where Keras must find the logits behind the softmax.

    Members' outputs are scaled one-hot codes, so mean logits of +-100 and probabilities of
    0 in float32; the gradient for the scales is checked against softmax cross-entropy in NumPy.
    """
    codes = np.where(np.eye(6)[LABELS - 1], scale, -scale).astype(np.float32)
    inputs = keras.Input((6,))
    heads = [
        keras.layers.Dense(6, use_bias=False, kernel_initializer="identity", name=f"member_{m}")
        for m in range(2)
    ]
    outputs = [head(inputs) for head in heads]
    model = keras.Model(inputs, [*outputs, Combine("fusion", name="ensemble")(outputs)])
    model.compile(keras.optimizers.SGD(1.0), loss=SCHEMES["fusion"].losses(2), run_eagerly=eagerly)
    loss = model.train_on_batch(codes, LABELS)[0]

    logits = codes.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(50), LABELS].mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    if scale == 100:
        assert expected == pytest.approx(200, rel=0.1)
    gradient = codes.T @ (np.exp(log_p) - np.eye(6)[LABELS]) / 50 / 2
    for head in heads:
        np.testing.assert_allclose(head.kernel, np.eye(6) - gradient, rtol=1e-4, atol=1e-4)


def test_fusion_trains_the_mean_and_the_others_each_member() -> None:
    assert list(SCHEMES["fusion"].losses(3)) == ["ensemble"]
    for name in ["voting", "hard_voting", "bagging", "batch_bagging"]:
        losses = SCHEMES[name].losses(3)
        assert list(losses) == ["member_0", "member_1", "member_2"]
        for member, loss in enumerate(losses.values()):
            expected = -np.log(softmax(LOGITS[member])[np.arange(50), LABELS]).mean()
            assert float(loss(LABELS, LOGITS[member])) == pytest.approx(expected, rel=1e-5)


def test_nested_fusion_leans_towards_all_members() -> None:
    scheme = SCHEMES["nested_fusion"]
    assert scheme.loss_weights(3) == pytest.approx(
        {"first_1": 1 / 14, "first_2": 4 / 14, "ensemble": 9 / 14}
    )
    assert scheme.with_prefix_weights([1, 0, 3]).loss_weights(3) == {
        "first_1": 0.25,
        "first_2": 0,
        "ensemble": 0.75,
    }
    assert scheme.loss_weights(1) == {"ensemble": 1}
    assert SCHEMES["fusion"].loss_weights(3) is None


@pytest.mark.parametrize(
    "weights", [(), (1, 2), (1, 2, 3, 4), (1, -1, 3), (0, 0, 0), (1, 1, np.nan), (1, 1, np.inf)]
)
@pytest.mark.parametrize("name", ["nested_fusion", "sampled_nested_fusion"])
def test_unusable_prefix_weights(name: str, weights: tuple[float, ...]) -> None:
    scheme = SCHEMES[name].with_prefix_weights(weights)
    message = r"`prefix_weights` must be 3 numbers.*from 1 to 3.* Received: \("
    with pytest.raises(EnsembleError, match=message):
        scheme.loss_weights(3)


def test_prefix_weights_are_for_nested_fusion() -> None:
    with pytest.raises(EnsembleError, match=r"`prefix_weights` does not go with .* 'voting'"):
        SCHEMES["voting"].with_prefix_weights((1, 2))


@pytest.mark.parametrize("weights", [(1, 2, 5), (0, 1, 3)])
def test_sampled_nested_fusion_draws_one_prefix_a_step(weights: tuple[float, ...]) -> None:
    """The loss of a step is that of one m, and over the steps m has its probability."""
    probabilities = np.array(weights) / sum(weights)
    scheme = SCHEMES["sampled_nested_fusion"].with_prefix_weights(weights)
    function = scheme.sample_weights(3, 100, 0)
    steps = 1000
    seeds = tf.data.Dataset.range(steps).map(
        lambda step: tf.stack([tf.constant(7, tf.int64), step])
    )
    draws = np.array([*seeds.map(lambda seed: function(tf.range(5), seed)).as_numpy_iterator()])
    assert draws.shape == (steps, 3, 5)
    # Times the weight in the sum that is 1 for one prefix: the step's loss is this prefix's.
    np.testing.assert_array_equal(draws, np.repeat(draws[:, :, :1], 5, axis=2))
    of_step = draws[:, :, 0] * probabilities
    np.testing.assert_allclose(np.sort(of_step), np.eye(3)[[2] * steps], rtol=1e-6)
    # Within four standard deviations.
    allowed = 4 * np.sqrt(probabilities * (1 - probabilities) / steps)
    assert (np.abs(of_step.mean(axis=0) - probabilities) <= allowed).all()
    # The seed and the step decide, the images do not.
    again = function(tf.range(60, 65), tf.constant([7, 9], tf.int64)).numpy()
    np.testing.assert_array_equal(again, draws[9])


@pytest.mark.parametrize("name", ["fusion", "nested_fusion", "voting", "hard_voting"])
def test_schemes_that_weight_nothing(name: str) -> None:
    assert SCHEMES[name].sample_weights(3, 100, 0) is None


def test_bagging_draws_a_bootstrap_sample_for_each_member() -> None:
    examples = 2000
    weights = SCHEMES["bagging"].sample_weights(3, examples, 7)
    counts = weights(tf.range(examples), tf.constant([0, 0], tf.int64)).numpy()
    assert counts.shape == (3, examples)
    assert counts.dtype == np.float32
    np.testing.assert_array_equal(counts.sum(axis=1), examples)
    np.testing.assert_array_equal(counts, counts.round())
    # Of a bootstrap sample e^-1 is left out: 0.368, here within five standard deviations.
    assert np.abs((counts == 0).mean(axis=1) - np.exp(-1)).max() < 0.04
    assert np.abs(np.corrcoef(counts) - np.eye(3)).max() < 0.12


def test_bagging_stays_with_its_sample() -> None:
    """The count is the example's, whatever the batch, the epoch and the order; seeds differ."""
    weights = SCHEMES["bagging"].sample_weights(2, 50, 7)
    whole = weights(tf.range(50), tf.constant([0, 0], tf.int64)).numpy()
    some = np.array([31, 4, 4, 17], np.int32)
    later = weights(tf.constant(some), tf.constant([3, 9], tf.int64)).numpy()
    np.testing.assert_array_equal(later, whole[:, some])
    again = SCHEMES["bagging"].sample_weights(2, 50, 7)(tf.range(50), None).numpy()
    np.testing.assert_array_equal(again, whole)
    other = SCHEMES["bagging"].sample_weights(2, 50, 8)(tf.range(50), None).numpy()
    assert (other != whole).any()


def test_batch_bagging_takes_a_part_of_each_batch() -> None:
    weights = SCHEMES["batch_bagging"].sample_weights(3, 1000, 7)
    indices = tf.range(100, 140)
    first = weights(indices, tf.constant([7, 0], tf.int64)).numpy()
    assert first.shape == (3, 40)
    assert first.dtype == np.float32
    for row in first:  # one number, so that the mean over the batch is that over the part
        assert row[row > 0] == pytest.approx(40 / np.sum(row > 0))
    assert len({row.tobytes() for row in first}) == 3
    np.testing.assert_array_equal(first, weights(indices, tf.constant([7, 0], tf.int64)))
    assert (first != weights(indices, tf.constant([7, 1], tf.int64)).numpy()).any()


def test_the_part_is_what_as_many_draws_with_replacement_hit() -> None:
    """Of a batch of B, 1 - (1 - 1/B)^B; its variance is that of distinct values among B draws."""
    batch, draws = 256, 400
    weigh = SCHEMES["batch_bagging"].sample_weights(1, 1000, 0)
    parts = [
        weigh(tf.range(batch), tf.constant([0, step], tf.int64)).numpy()[0] > 0
        for step in range(draws)
    ]
    sizes = np.sum(parts, axis=1)
    missed, both_missed = (1 - 1 / batch) ** batch, (1 - 2 / batch) ** batch
    variance = batch * missed + batch * (batch - 1) * both_missed - (batch * missed) ** 2
    assert 1 - missed == pytest.approx(1 - np.exp(-1), abs=1e-3)
    assert np.mean(sizes) == pytest.approx(batch * (1 - missed), abs=4 * np.sqrt(variance / draws))
    assert np.var(sizes) == pytest.approx(variance, rel=0.3)
    # No example is hit more often than others.
    assert np.mean(parts, axis=0) == pytest.approx(
        np.full(batch, 1 - missed), abs=4.5 * np.sqrt(missed * (1 - missed) / draws)
    )


@pytest.mark.parametrize("name", ["bagging", "batch_bagging"])
def test_weights_stand_for_repeated_examples(name: str) -> None:
    """The weighted loss of the batch is the plain loss of the sample, duplicates or the part."""
    scheme = SCHEMES[name]
    counts = scheme.sample_weights(4, 50, 3)(tf.range(50), tf.constant([1, 2], tf.int64)).numpy()
    for member, loss in enumerate(scheme.losses(4).values()):
        often = counts[member] > 0 if name == "batch_bagging" else counts[member].astype(int)
        drawn = np.repeat(np.arange(50), often)
        expected = -np.log(softmax(LOGITS[member])[drawn, LABELS[drawn]]).mean()
        weighted = loss(LABELS, LOGITS[member], sample_weight=counts[member])
        assert float(weighted) == pytest.approx(expected, rel=1e-5)


def test_adaboost_reweights_as_samme() -> None:
    """Zhu et al. 2009, algorithm 2, by hand: error 0.2 of 4 classes, alpha = log 4 + log 3."""
    weights = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    wrong = np.array([False, True, False, False, False])
    alpha, following = AdaBoost().reweighted(weights, wrong, classes=4)
    assert alpha == pytest.approx(np.log(4) + np.log(3))
    # 4 examples of weight 1 and one of 12, of a mean of 1.
    np.testing.assert_allclose(following, np.array([1, 12, 1, 1, 1]) * 5 / 16)
    # The next error counts with these weights.
    alpha, _ = AdaBoost().reweighted(following, ~wrong & (np.arange(5) < 3), classes=4)
    assert alpha == pytest.approx(np.log(14 / 2) + np.log(3))


def test_adaboost_of_perfect_and_of_hopeless_members() -> None:
    weights, none = np.ones(10), np.zeros(10, bool)
    alpha, following = AdaBoost().reweighted(weights, none, classes=3)
    assert alpha == pytest.approx(np.log(0.95 / 0.05) + np.log(2))  # half an example of ten
    np.testing.assert_array_equal(following, weights)
    for errors in (7, 10):  # chance is an error of 2/3
        alpha, following = AdaBoost().reweighted(weights, np.arange(10) < errors, classes=3)
        assert alpha == AdaBoost.MIN_WEIGHT
        np.testing.assert_allclose(following, weights, rtol=2e-3)
