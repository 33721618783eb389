"""What is evaluated: a run, a Keras file or a .tflite file, as a function from images to logits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from larq_ensemble.data.datasets import Dataset, Split, Splits
from larq_ensemble.data.opening import check_cut, check_fits
from larq_ensemble.errors import EnsembleError, SettingsError
from larq_ensemble.runtime import metrics
from larq_ensemble.runtime.cascade import calibrated_prediction
from larq_ensemble.runtime.interpreter import EnsembleInterpreter
from larq_ensemble.training.file_data import (
    constants_of,
    data_of_file,
    nothing_held_out,
    split_of_training,
)

if TYPE_CHECKING:
    from larq_ensemble.trained import Trained


@dataclass(frozen=True)
class Subject:
    """A trained network, and data to evaluate it on.

    # Arguments
        name: what messages call it.
        members: M; a single network is an ensemble of one.
        scheme, weights: how the members are combined.
        temperatures: for each number of members, of a file that was calibrated; `None`: it wasn't.
        dataset: the data.
        is_own: whether it was trained on these.
        held_out_is_known: whether it is known which images the training held out.
        read: () -> the splits, as the training cut them. Without `held_out_is_known` the
            validation split is empty.
        logits_of: (data) -> the members' logits, floats `[M, n, classes]`.
    """

    name: str
    members: int
    scheme: str
    weights: Sequence[float] | None
    temperatures: Sequence[float] | None
    dataset: Dataset
    is_own: bool
    held_out_is_known: bool
    read: Callable[[], Splits]
    logits_of: Callable[[Split], np.ndarray]

    def logits(self, data: Split) -> np.ndarray:
        """The members' logits, float32 `[M, n, classes]`.

        # Raises
            EnsembleError: if some are not finite: NaN would count as a prediction of class 0.
        """
        return finite(self.logits_of(data))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The prediction of the first m members, as the network gives it: float32 `[n, classes]`.

        # Arguments
            logits: floats `[m, n, classes]`.
        """
        return calibrated_prediction(logits, self.scheme, self.weights, self.temperatures)

    def split(self, name: str, limit: int | None = None) -> Split:
        """The split `"test"` or `"validation"`.

        # Arguments
            name: of the split.
            limit: how many examples, as for `Dataset.limited`; `None`: all.

        # Raises
            EnsembleError: if there is none.
        """
        if name == "validation" and not self.is_own:
            raise EnsembleError(
                f"What the training of {self.name} held out is among its own data, which "
                f"{self.dataset.name!r} is not: take the test split, or give no `dataset`."
            )
        if name == "validation" and not self.held_out_is_known:
            raise EnsembleError(
                f"What the training of {self.name} held out is not known: take the test split."
            )
        splits = self.read()
        data = splits.test if name == "test" else splits.validation
        if not len(data):
            raise EnsembleError(
                f"The data {self.dataset.name!r} have no test images: give others as `dataset`."
                if name == "test"
                else f"The run {self.name} held out no validation data."
            )
        return self.dataset.limited(data, limit)


def check_members(network: Trained | EnsembleInterpreter, members: int | None) -> None:
    """Checks a number of members, before the network is built.

    # Arguments
        network: as for `subject_of`.
        members: m; `None`: no number.

    # Raises
        EnsembleError: if it has fewer members, or m is below 1.
    """
    there = _members_of(network)
    if members is not None and not 1 <= members <= there:
        raise EnsembleError(
            f"`members` must be from 1 to {there} for {_name_of(network)}, got {members}."
        )


def subject_of(
    network: Trained | EnsembleInterpreter,
    dataset: str | Dataset | None = None,
    data_dir: str | None = None,
) -> Subject:
    """A network with its data, or others of its classes and size of images.

    # Arguments
        network: a run, a Keras file, or a .tflite file, which needs no TensorFlow.
        dataset: the data, or what `open_dataset` takes; `None`: those of its training. Data of
            one's own that are opened here may have some of the classes, by their names.
        data_dir: as for `DataOptions`.

    # Raises
        EnsembleError: if the data can't be opened or don't fit.
    """
    if isinstance(network, EnsembleInterpreter):
        return _of_file(network, dataset, data_dir)
    return _of_trained(network, dataset, data_dir)


def _of_trained(network: Trained, dataset: str | Dataset | None, data_dir: str | None) -> Subject:
    from larq_ensemble.trained import data_of, is_own, splits_as_trained

    config = network.config
    opened = data_of(network, dataset, data_dir, to_evaluate=True)

    @functools.cache
    def predict() -> Callable[[Split], np.ndarray]:
        from larq_ensemble.training.evaluation import logits_function

        return logits_function(network.model, opened)

    is_ensemble = config.kind == "ensemble"
    own = is_own(network, opened)
    known = config.held_out_is_known and own

    def read() -> Splits:
        if not known:
            return nothing_held_out(opened, data_dir)
        return splits_as_trained(network, opened, data_dir)

    return Subject(
        name=_name_of(network),
        members=_members_of(network),
        scheme=network.model.scheme.name if is_ensemble else "fusion",
        weights=network.model.member_weights if is_ensemble else None,
        temperatures=None,
        dataset=opened,
        is_own=own,
        held_out_is_known=known,
        read=functools.cache(read),
        logits_of=lambda data: predict()(data),
    )


def _of_file(
    network: EnsembleInterpreter, dataset: str | Dataset | None, data_dir: str | None
) -> Subject:
    metadata, name = network.metadata, _name_of(network)
    known = split_of_training(metadata)
    if isinstance(dataset, Dataset):
        constants = constants_of(metadata)
        check_fits(dataset, constants, name)
        check_cut(dataset, constants, name)
        opened, own = dataset, dataset.has_data_of(constants)
    else:
        opened, own = data_of_file(metadata, name, dataset, data_dir, some_classes=True)

    def read() -> Splits:
        if known is None or not own:
            return nothing_held_out(opened, data_dir)
        return known.load(opened, data_dir)

    return Subject(
        name=name,
        members=_members_of(network),
        scheme=metadata.scheme,
        weights=metadata.weights,
        temperatures=metadata.temperatures,
        dataset=opened,
        is_own=own,
        held_out_is_known=known is not None and own,
        read=functools.cache(read),
        logits_of=lambda data: network.predict_logits(np.asarray(data.images), network.max_members),
    )


def _name_of(network: Trained | EnsembleInterpreter) -> str:
    """What messages call it."""
    return "the file" if isinstance(network, EnsembleInterpreter) else repr(str(network.path))


def _members_of(network: Trained | EnsembleInterpreter) -> int:
    if isinstance(network, EnsembleInterpreter):
        return network.max_members
    return int(network.config.ensemble.get("members", 1))


def finite(logits: np.ndarray) -> np.ndarray:
    """The logits `[M, n, classes]`, which are checked.

    # Raises
        EnsembleError: if some are not finite.
    """
    if not np.isfinite(logits).all():
        member = int(np.argmin(np.isfinite(logits).all(axis=(1, 2))))
        raise SettingsError(
            f"The logits of member {member} are not all finite: its training has diverged. Train "
            "again with a lower `lr`, or go back to an earlier checkpoint."
        )
    return logits


def metrics_by_members(
    subject: Subject, logits: np.ndarray, labels: np.ndarray, counts: Iterable[int]
) -> list[dict[str, Any]]:
    """Metrics of the first m members, for several m.

    # Arguments
        subject: how its members are combined.
        logits: floats `[M, n, classes]`.
        labels: class indices `[n]`.
        counts: the numbers of members m.
    """
    return [_metrics(subject.probabilities(logits[:m]), logits[:m], labels) for m in counts]


def _metrics(probabilities: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return {
        "members": len(logits),
        "top1": metrics.top_k_accuracy(probabilities, labels, k=1),
        "top5": metrics.top_k_accuracy(probabilities, labels, k=5),
        "nll": metrics.negative_log_likelihood(probabilities, labels),
        "ece": metrics.expected_calibration_error(probabilities, labels),
        "adaptive_ece": metrics.adaptive_calibration_error(probabilities, labels),
        "brier": metrics.brier_score(probabilities, labels),
        "disagreement": metrics.disagreement(logits),
    }
