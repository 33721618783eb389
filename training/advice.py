"""What the accuracies of a training say about it, and what to try next."""

from __future__ import annotations

import math

import numpy as np

#: A network is better than guessing if chance explains its accuracy in one of some 40 trainings.
_STANDARD_ERRORS = 2.0
#: Points of accuracy that training images may be ahead of others without a word.
_GAP = 20.0


def advice(training_top1: float | None, held_out_top1: float, labels: np.ndarray) -> str | None:
    r"""What to try if a training ended near chance, or learned its training images only.

    Chance is the accuracy p of always naming the most frequent class. An accuracy on n images is
    near it if it is at most two standard errors above:

    \\( p + 2 \sqrt{p (1 - p) / n} \\).

    # Arguments
        training_top1: accuracy in the last epoch, in percent; `None`: not known.
        held_out_top1: of images that the network was not trained on, in percent.
        labels: theirs, int [n].

    # Returns
        One sentence or two, with Python arguments in backticks; `None` if there is nothing to say.
    """
    chance = np.bincount(labels).max() / len(labels)
    error = math.sqrt(chance * (1 - chance) / len(labels))
    by_chance = 100 * (chance + _STANDARD_ERRORS * error)
    # So few images that even all of them right would show nothing.
    can_tell = by_chance < 100
    if can_tell and held_out_top1 <= by_chance:
        return (
            f"{held_out_top1:.1f} % of the held-out images are right, and naming the most frequent "
            f"class would get {100 * chance:.1f} %: the network has learned next to nothing. Give "
            "it more steps (`epochs`, or `recipe='small'` if it was another), start from a "
            "backbone of many images (`from_backbone`), or train its real-valued twin to see "
            "whether the data can be learned."
        )
    gap = 0.0 if training_top1 is None else training_top1 - held_out_top1
    # Of any accuracy, at 50 %: `error` is 0 if all images are of one class.
    largest_error = 0.5 / math.sqrt(len(labels))
    if gap > max(_GAP, 100 * _STANDARD_ERRORS * largest_error):
        return (
            f"The network gets {training_top1:.1f} % of its training images right, but "
            f"{held_out_top1:.1f} % of the held-out ones: more images would help most, then more "
            "augmentation (`augment`) or a backbone of many images (`from_backbone`)."
        )
    return None
