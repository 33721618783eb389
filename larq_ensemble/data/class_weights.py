"""Weights of the classes in the loss, for data in which some classes are rare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError

#: `"none"`, `"balanced"`, a number for each class, or numbers by class name or number.
ClassWeights = str | Sequence[float] | Mapping[Any, float]


@dataclass(frozen=True)
class ClassWeighting:
    """How much the examples of each class count in a loss; `ClassWeighting.of` makes one.

    # Arguments
        class_names: of the K classes.
        weights: `"balanced"`, K numbers, or `None` (all 1).
    """

    class_names: Sequence[str]
    weights: str | tuple[float, ...] | None = None

    @classmethod
    def of(cls, class_weights: ClassWeights | None, class_names: Sequence[str]) -> ClassWeighting:
        """The weighting that a user asks for.

        # Arguments
            class_weights: `"balanced"`, see `balanced`; K numbers; or a dictionary of them by class
                number or name, in which classes that are left out have 1. `None`, `"none"`: all 1.
            class_names: of the K classes.

        # Raises
            EnsembleError: for anything else, numbers below 0, or a class that there is not.
        """
        if class_weights is None:
            return cls(class_names)
        if isinstance(class_weights, str):
            if class_weights not in ("none", "balanced"):
                raise EnsembleError(
                    "`class_weights` must be 'balanced', 'none', or in Python a number for each "
                    f"class, got {class_weights!r}."
                )
            return cls(class_names, None if class_weights == "none" else class_weights)
        if isinstance(class_weights, Mapping):
            weights = [1.0] * len(class_names)
            for key, weight in class_weights.items():
                weights[_number(key, class_names)] = weight
        else:
            weights = [*class_weights]
        if (
            len(weights) != len(class_names)
            or not all(map(_is_weight, weights))
            or not any(weights)
        ):
            raise EnsembleError(
                f"`class_weights` must be {len(class_names)} numbers, one for each class, none "
                f"below 0 and not all 0. Received: {class_weights!r}."
            )
        return cls(class_names, tuple(map(float, weights)))

    def to_json(self) -> dict[str, Any]:
        """`{"class_weights"}` for a run's configuration; empty if all are 1, as before."""
        if self.weights is None:
            return {}
        return {"class_weights": self.weights if isinstance(self.weights, str) else [*self.weights]}

    def by_class(self, labels: np.ndarray) -> np.ndarray | None:
        """The weight of each class, float32 [K]; `None`: all 1.

        # Arguments
            labels: int [n], of the training images.

        # Raises
            EnsembleError: as `balanced`.
        """
        if self.weights is None:
            return None
        balance = isinstance(self.weights, str)
        weights = balanced(labels, self.class_names) if balance else self.weights
        return np.asarray(weights, np.float32)


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and bool(0 <= value < math.inf)


def _number(key: Any, class_names: Sequence[str]) -> int:
    numbers: dict[Any, int] = {name: number for number, name in enumerate(class_names)}
    numbers |= {number: number for number in range(len(class_names))}
    if key not in numbers:
        raise EnsembleError(
            f"`class_weights` has the class {key!r}, which there is not: the classes are "
            f"{', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}, or their "
            f"numbers from 0 to {len(class_names) - 1}."
        )
    return numbers[key]


def balanced(labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    r"""Weights with which all classes count alike, however many images they have.

    \\[ w_c = \frac{n}{K n_c} \\]

    for \\( n_c \\) of the n images, as `sklearn.utils.class_weight.compute_class_weight`. The mean
    over the images is 1, so the loss keeps its size.

    # Arguments
        labels: int [n], from 0 to K - 1.
        class_names: of the K classes.

    # Returns
        float64 [K].

    # Raises
        EnsembleError: if a class has no images.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    without = [class_names[number] for number in np.flatnonzero(counts == 0)]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise EnsembleError(
            "`class_weights` 'balanced' needs training images of every class, and there are none "
            f"of {without[0]!r}{more}: add some, raise `limit_train`, or leave it out."
        )
    return len(labels) / (len(class_names) * counts)
