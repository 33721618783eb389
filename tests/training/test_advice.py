import numpy as np
import pytest

from larq_ensemble.training.advice import advice

#: 50, 30 and 20 images: naming class 0 gets 50 %, with a standard error of 5 points.
LABELS = np.repeat([0, 1, 2], [50, 30, 20])


@pytest.mark.parametrize(
    ("training", "held_out", "said"),
    [
        (55.0, 33.3, "learned next to nothing"),
        (55.0, 60.0, "learned next to nothing"),  # two standard errors above
        (99.0, 60.0, "learned next to nothing"),  # comes first
        (55.0, 60.1, None),
        (85.0, 65.0, None),
        (85.1, 65.0, "gets 85.1 % of its training images right, but 65.0 %"),
        (60.0, 90.0, None),
        (None, 60.0, "learned next to nothing"),
        (None, 60.1, None),
    ],
)
def test_what_is_said(training, held_out, said):
    actual = advice(training, held_out, LABELS)
    assert actual is None if said is None else said in actual


def test_chance_is_the_most_frequent_class():
    assert "would get 50.0 %" in advice(50, 50, LABELS)
    assert "`recipe='small'`" in advice(50, 50, LABELS)


def test_a_gap_is_told_only_if_the_images_can_show_it():
    four = np.array([0, 1, 2, 3] * 2)
    # Eight images: chance is 25 % with a standard error of 15 points.
    assert advice(99, 70, four) is None
    assert advice(99, 60, np.tile(four, 50)) is not None


def test_so_few_images_that_all_right_would_show_nothing():
    # Six images: chance is 83.3 % with a standard error of 15 points.
    assert advice(100, 100, np.array([0, 0, 0, 0, 0, 1])) is None


@pytest.mark.parametrize("images", [1, 2])
def test_a_few_images_of_one_class_show_no_gap(images):
    """Naming the most frequent class gets all of them right, without an error."""
    assert advice(60, 0, np.zeros(images, int)) is None
    assert advice(60, 0, np.zeros(100, int)) is not None
