"""Combinations against textbook formulas, and properties of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.combination import COMBINATIONS, combine, softmax

LOGITS = np.log(
    np.array(
        [
            [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]],
            [[0.1, 0.8, 0.1], [0.1, 0.2, 0.7]],
            [[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]],
        ]
    )
)


def test_fusion_is_the_geometric_mean() -> None:
    """The softmax of the mean of logits is the normalized geometric mean of probabilities."""
    means = np.exp(LOGITS).prod(axis=0) ** (1 / 3)
    expected = means / means.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(combine(LOGITS, "fusion"), expected, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["voting", "bagging", "batch_bagging"])
def test_voting_is_the_arithmetic_mean(scheme: str) -> None:
    expected = [[0.9 / 3, 1.6 / 3, 0.5 / 3], [1.1 / 3, 0.6 / 3, 1.3 / 3]]
    np.testing.assert_allclose(combine(LOGITS, scheme), expected, rtol=1e-5)


def test_hard_voting_counts_votes() -> None:
    expected = [[1 / 3, 2 / 3, 0], [2 / 3, 0, 1 / 3]]
    np.testing.assert_allclose(combine(LOGITS, "hard_voting"), expected, rtol=1e-6)


def test_a_tie_goes_to_the_lowest_class() -> None:
    logits = np.array([[[0.0, 0.0, 9.0]], [[9.0, 0.0, 0.0]]])
    assert combine(logits, "hard_voting").argmax() == 0


@pytest.mark.parametrize("scheme", list(COMBINATIONS))
@given(logits=arrays(np.float32, (3, 4, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_every_scheme_gives_probabilities(scheme: str, logits: np.ndarray) -> None:
    probabilities = combine(logits, scheme)
    assert probabilities.shape == (4, 5)
    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    # The order of the members doesn't matter.
    np.testing.assert_allclose(combine(logits[::-1], scheme), probabilities, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scheme", ["fusion", "voting", "bagging"])
def test_one_member_gives_its_softmax(scheme: str) -> None:
    np.testing.assert_allclose(combine(LOGITS[:1], scheme), np.exp(LOGITS[0]), rtol=1e-5)


def test_softmax_of_huge_logits_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([1e38, 1e38, -1e38])), [0.5, 0.5, 0])


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3), (2, 2, 0)])
def test_bad_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EnsembleError, match=r"`logits`.*Received: shape"):
        combine(np.zeros(shape), "fusion")


def test_an_integer_weight_counts_as_repeated_members() -> None:
    twice = np.concatenate([LOGITS, LOGITS[1:2]])
    for scheme in COMBINATIONS:
        weighted = combine(LOGITS, scheme, (1, 2, 1))
        np.testing.assert_allclose(weighted, combine(twice, scheme), rtol=1e-5, err_msg=scheme)


def test_too_few_weights_are_refused() -> None:
    with pytest.raises(EnsembleError, match=r"`weights` .* each of the 3 members.*Received: 2"):
        combine(LOGITS, "adaboost", (1, 2))


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(EnsembleError, match=r"Unknown scheme 'nonsense'.*hard_voting"):
        combine(LOGITS, "nonsense")


def test_keras_and_numpy_have_the_same_schemes() -> None:
    from larq_ensemble.ensembles.schemes import SCHEMES
    from larq_ensemble.keras import tf

    assert set(COMBINATIONS) == set(SCHEMES)
    for name in SCHEMES:
        members = [tf.constant(member, tf.float32) for member in LOGITS]
        expected = SCHEMES[name].combine(members).numpy()
        np.testing.assert_allclose(combine(LOGITS, name), expected, rtol=1e-5, err_msg=name)
