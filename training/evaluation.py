"""Metrics of the first m members of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.data.datasets import DATASETS, DataOptions, Dataset, Split
from larq_ensemble.ensembles import as_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models.inference import predict_batches
from larq_ensemble.runs import Run
from larq_ensemble.runtime import metrics
from larq_ensemble.runtime.combination import combine
from larq_ensemble.training.pipeline import evaluation_batches


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


def evaluate(
    run: Run,
    *,
    members: int | None = None,
    dataset_name: str | None = None,
    split: str = "test",
    data_dir: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Metrics of the first m members of a run, for each m or for one.

    # Arguments
        run: a backbone counts as an ensemble of one.
        members: this m alone; `None`: each m from 1 to all.
        dataset_name: another data set with the same image shape and classes; `None`: the run's.
        split: `"test"`, or `"validation"`: the examples that its training held out.
        data_dir: as for `DataOptions`.
        limit: how many examples, the first of the split; `None`: all.

    # Returns
        `{"members", "top1", "top5", "nll", "ece", "brier", "disagreement"}` of the largest m, a
        list `"by_members"` with the same for each m, and `"dataset"`, `"split"`, `"samples"`.
        Accuracies are in percent, NLL in nats, the others as in `larq_ensemble.runtime.metrics`.

    # Raises
        EnsembleError: if the data do not fit the run, there are none, or `members` is out of
            range.
    """
    config = run.config
    dataset = DATASETS[dataset_name or config.dataset["name"]]
    _check_fits(dataset, run)
    total = config.ensemble.get("members", 1)
    if members is not None and not 1 <= members <= total:
        raise EnsembleError(
            f"`members` must be from 1 to {total} for the run {str(run.path)!r}, got {members}."
        )
    model = run.model
    options = DataOptions(data_dir, config.data["validation"], config.data["limit_train"])
    splits = options.load(dataset, config.split_seed)
    data = (splits.test if split == "test" else splits.validation).first(limit)
    if not len(data):
        raise EnsembleError(f"The run {str(run.path)!r} held out no validation data.")
    if config.kind == "ensemble":
        logits = member_logits(model, data, dataset)
        scheme, weights = model.scheme.name, model.member_weights
    else:
        logits = _finite(np.stack(_outputs(model, data, dataset)))
        scheme, weights = "fusion", None
    counts = range(1, total + 1) if members is None else [members]
    by_members = [
        _metrics(combine(logits[:count], scheme, weights), logits[:count], data.labels)
        for count in counts
    ]
    return {
        **by_members[-1],
        "by_members": by_members,
        "dataset": dataset.name,
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


def _check_fits(dataset: Dataset, run: Run) -> None:
    trained_on = run.config.dataset
    if dataset.classes != trained_on["classes"]:
        raise EnsembleError(
            f"`dataset_name` {dataset.name!r} has {dataset.classes} classes, but the run "
            f"{str(run.path)!r} was trained for the {trained_on['classes']} of "
            f"{trained_on['name']!r}: choose a data set with as many."
        )
    if list(dataset.input_shape) != list(trained_on["input_shape"]):
        raise EnsembleError(
            f"`dataset_name` {dataset.name!r} has images of {dataset.input_shape}, but the run "
            f"{str(run.path)!r} takes {tuple(trained_on['input_shape'])}."
        )
