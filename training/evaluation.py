"""Metrics of the first m members of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.data.datasets import DataOptions, Dataset, Split
from larq_ensemble.ensembles import as_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models.inference import predict_batches
from larq_ensemble.runtime import metrics
from larq_ensemble.runtime.combination import combine
from larq_ensemble.trained import Trained, data_of, is_own
from larq_ensemble.training.pipeline import evaluation_batches
from larq_ensemble.training.renaming import formerly


def member_logits(model: keras.Model, data: Split, dataset: Dataset) -> np.ndarray:
    """Logits, float32 `[members, n, classes]`, of an ensemble with one input.

    # Raises
        EnsembleError: if some are not finite.
    """
    logits_only = keras.Model(model.inputs, model.outputs[: as_ensemble(model).members])
    return _finite(np.stack(_outputs(logits_only, data, dataset)))


def _outputs(model: keras.Model, data: Split, dataset: Dataset) -> list[np.ndarray]:
    batches = evaluation_batches(data, dataset)
    return predict_batches(model, batches, images=len(data), what="evaluating")


@formerly(dataset_name="dataset")
def evaluate(
    run: Trained,
    *,
    members: int | None = None,
    dataset: str | Dataset | None = None,
    split: str = "test",
    data_dir: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Metrics of the first m members of a run, for each m or for one.

    # Arguments
        run: a run or a Keras file; a backbone counts as an ensemble of one.
        members: this m alone; `None`: each m from 1 to all.
        dataset: where the run's data are now, or other data of the same classes and image shape,
            a data set or what `open_dataset` takes; `None`: the run's.
        split: `"test"`, or `"validation"`: the examples that its training held out.
        data_dir: as for `DataOptions`.
        limit: how many examples, the first of the split; `None`: all.

    # Returns
        `{"members", "top1", "top5", "nll", "ece", "brier", "disagreement"}` of the largest m, a
        list `"by_members"` with the same for each m, and `"dataset"`, `"own_data"`, whether
        the run was trained on these, `"split"`, `"samples"`.
        Accuracies are in percent, NLL in nats, the others as in `larq_ensemble.runtime.metrics`.

    # Raises
        EnsembleError: if the data do not fit the run, there are none, or `members` is out of
            range.
    """
    config = run.config
    total = config.ensemble.get("members", 1)
    if members is not None and not 1 <= members <= total:
        raise EnsembleError(
            f"`members` must be from 1 to {total} for the run {str(run.path)!r}, got {members}."
        )
    opened = data_of(run, dataset, data_dir)
    model = run.model
    data = _split_of(run, opened, split, data_dir).first(limit)
    if config.kind == "ensemble":
        logits = member_logits(model, data, opened)
        scheme, weights = model.scheme.name, model.member_weights
    else:
        logits = _finite(np.stack(_outputs(model, data, opened)))
        scheme, weights = "fusion", None
    counts = range(1, total + 1) if members is None else [members]
    by_members = [
        _metrics(combine(logits[:count], scheme, weights), logits[:count], data.labels)
        for count in counts
    ]
    return {
        **by_members[-1],
        "by_members": by_members,
        "dataset": opened.name,
        "own_data": is_own(run, opened),
        "split": split,
        "samples": len(data),
    }


def _metrics(probabilities: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return {
        "members": len(logits),
        "top1": metrics.top_k_accuracy(probabilities, labels, k=1),
        "top5": metrics.top_k_accuracy(probabilities, labels, k=5),
        "nll": metrics.negative_log_likelihood(probabilities, labels),
        "ece": metrics.expected_calibration_error(probabilities, labels),
        "brier": metrics.brier_score(probabilities, labels),
        "disagreement": metrics.disagreement(logits),
    }


def _finite(logits: np.ndarray) -> np.ndarray:
    """The logits; NaN would count as a prediction of class 0."""
    if not np.isfinite(logits).all():
        member = int(np.argmin(np.isfinite(logits).all(axis=(1, 2))))
        raise EnsembleError(
            f"The logits of member {member} are not all finite: its training has diverged. Train "
            "again with a lower `lr`, or go back to an earlier checkpoint."
        )
    return logits


def _split_of(run: Trained, dataset: Dataset, split: str, data_dir: str | None) -> Split:
    held_out = run.config.data
    if split == "validation" and not held_out:
        raise EnsembleError(
            f"What the training of {str(run.path)!r} held out is not known: take the test split."
        )
    options = DataOptions(data_dir, held_out.get("validation", 0.0), held_out.get("limit_train"))
    splits = options.load(dataset, run.config.split_seed)
    data = splits.test if split == "test" else splits.validation
    if not len(data):
        raise EnsembleError(
            f"The data {dataset.name!r} have no test images: give others as `dataset`."
            if split == "test"
            else f"The run {str(run.path)!r} held out no validation data."
        )
    return data
