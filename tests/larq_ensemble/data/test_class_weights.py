import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from larq_ensemble.data.class_weights import ClassWeighting, balanced
from larq_ensemble.errors import EnsembleError

NAMES = ("cat", "dog", "owl")


def test_balanced_is_scikit_learn_s():
    labels = np.repeat([0, 1, 2], [30, 5, 10])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced(labels, NAMES), expected)
    weights = ClassWeighting.of("balanced", NAMES).by_class(labels)
    assert weights.dtype == np.float32
    assert weights[labels].mean() == pytest.approx(1)
    # Each class has a third of the loss.
    np.testing.assert_allclose(np.bincount(labels, weights[labels]), 45 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        (None, None),
        ("none", None),
        ("balanced", "balanced"),
        ([1, 0, 2.5], [1.0, 0.0, 2.5]),
        (np.array([1, 2, 3]), [1.0, 2.0, 3.0]),
        ({"owl": 4}, [1.0, 1.0, 4.0]),
        ({0: 2.0, np.int64(2): 3.0}, [2.0, 1.0, 3.0]),
    ],
)
def test_what_a_run_records(given, recorded):
    weighting = ClassWeighting.of(given, NAMES)
    assert weighting.to_json() == ({} if recorded is None else {"class_weights": recorded})
    # What a run records gives the same.
    assert ClassWeighting.of(weighting.to_json().get("class_weights"), NAMES) == weighting
    by_class = weighting.by_class(np.array([0, 1, 2]))
    assert by_class is None if recorded is None else by_class.dtype == np.float32
    if isinstance(recorded, list):
        assert by_class.tolist() == recorded


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("even", "must be 'balanced', 'none', .* got 'even'"),
        ([1, 2], r"must be 3 numbers, one for each class.*Received: \[1, 2\]"),
        ([1, -1, 1], "none below 0"),
        ([0, 0, 0], "not all 0"),
        ([1, float("nan"), 1], "must be 3 numbers"),
        ([1, "2", 1], "must be 3 numbers"),
        ({"bat": 2}, "has the class 'bat', which there is not: the classes are cat, dog, owl"),
        ({3: 2}, "has the class 3, which there is not: .* from 0 to 2"),
    ],
)
def test_wrong_weights(given, message):
    with pytest.raises(EnsembleError, match=message):
        ClassWeighting.of(given, NAMES)


def test_a_class_without_images():
    with pytest.raises(EnsembleError, match=r"there are none of 'dog': add some, raise `limit_tr"):
        ClassWeighting.of("balanced", NAMES).by_class(np.array([0, 2]))
    with pytest.raises(EnsembleError, match="none of 'dog' and 1 more"):
        balanced(np.array([0, 0]), NAMES)
