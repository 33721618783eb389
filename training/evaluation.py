"""Metrics of the first m members of a network, and whether its probabilities can be trusted."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from larq_ensemble.data.corruptions import SEVERITIES, kinds_named
from larq_ensemble.data.datasets import Dataset, Split
from larq_ensemble.data.opening import identity, images_as_input, reads_tfds
from larq_ensemble.data.splits import ImageArray, rows
from larq_ensemble.errors import EnsembleError, check_whole
from larq_ensemble.runtime.interpreter import EnsembleInterpreter
from larq_ensemble.training import trust as trusting
from larq_ensemble.training.file_data import constants_of, halves
from larq_ensemble.training.renaming import formerly
from larq_ensemble.training.subject import (
    Subject,
    check_members,
    finite,
    metrics_by_members,
    subject_of,
)

if TYPE_CHECKING:
    from larq_ensemble.keras import keras
    from larq_ensemble.trained import Trained


def member_logits(model: keras.Model, data: Split, dataset: Dataset) -> np.ndarray:
    """Logits, float32 `[members, n, classes]`, of an ensemble with one input.

    # Raises
        EnsembleError: if some are not finite.
    """
    return finite(logits_function(model, dataset)(data))


def logits_function(model: keras.Model, dataset: Dataset) -> Callable[[Split], np.ndarray]:
    """A function from images to the members' logits, float32 `[members, n, classes]`.

    # Arguments
        model: an ensemble, or a classifier, which counts as an ensemble of one.
        dataset: whose normalization the images get.
    """
    from larq_ensemble.ensembles import as_ensemble
    from larq_ensemble.keras import keras
    from larq_ensemble.models.inference import BatchPredictor
    from larq_ensemble.training.pipeline import evaluation_batches

    if len(model.outputs) > 1:
        model = keras.Model(model.inputs, model.outputs[: as_ensemble(model).members])
    predict = BatchPredictor(model)

    def logits(data: Split) -> np.ndarray:
        batches = evaluation_batches(data, dataset, inputs=len(model.inputs))
        return np.stack(predict(batches, images=len(data), what="evaluating"))

    return logits


@formerly(dataset_name="dataset")
def evaluate(
    run: Trained | EnsembleInterpreter,
    *,
    members: int | None = None,
    dataset: str | Dataset | None = None,
    split: str = "test",
    data_dir: str | None = None,
    limit: int | None = None,
    trust: bool = False,
    ood: Sequence[str] = (),
    shift: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of the first m members of a network, for each m or for one.

    # Arguments
        run: a run, a Keras file or a .tflite file, which needs no TensorFlow; a backbone counts as
            an ensemble of one. The predictions of a .tflite file are those of
            `EnsembleInterpreter.predict`: with temperatures, if it was calibrated.
        members: this m alone; `None`: each m from 1 to all.
        dataset: where the run's data are now, or other data of the same classes and image shape,
            a data set or what `open_dataset` takes; `None`: the run's. Data in files may have some
            of the classes, by their names: a class that has no images counts nowhere but among the
            predictions.
        split: `"test"`, or `"validation"`: the examples that its training held out.
        data_dir: as for `DataOptions`, for the data and for those of `ood`.
        limit: how many examples, the first of the split, or of data of one's own a random sample
            that is always the same; `None`: all.
        trust: also calibration, conformal sets and risk-coverage. They are fitted on the images
            that the training held out, and measured on those of `split`. Where it is not known
            which these were, or if they are the split, the split is cut in two, one half to fit on
            and one to measure on.
        ood: also out-of-distribution detection, whether the uncertainty shows that images are of
            another kind: data sets that `open_dataset` takes, whatever their classes, or `"noise"`.
            With a limit as many of their images, drawn by the seed.
        shift: also on corrupted images: names for `larq_ensemble.data.corruptions.kinds_named`.
        severities: of the corruptions.
        seed: of all that is drawn.

    # Returns
        `{"members", "top1", "top5", "nll", "ece", "adaptive_ece", "brier", "disagreement"}` of the
        largest m, a list `"by_members"` with the same for each m, and `"dataset"`, `"own_data"`,
        whether the run was trained on these, `"split"`, `"samples"`.
        Accuracies are in percent, NLL in nats, the others as in `larq_ensemble.runtime.metrics`.
        If asked for, `"trust"`, `"ood"` and `"shift"`, as `larq_ensemble.training.trust` returns
        them.

    # Raises
        EnsembleError: if the data do not fit the run, there are none, `members` is out of range, or
            an argument is unknown.
    """
    kinds = kinds_named(shift)
    for package, is_needed in (("scipy.stats", trust or kinds), ("sklearn.metrics", ood)):
        if is_needed:
            importlib.import_module(package)  # fails before the work
    if kinds and not severities:
        raise EnsembleError("`severities` is empty: give some of 1 to 5.")
    for severity in severities:
        check_whole("severities", severity, SEVERITIES[0], SEVERITIES[-1])
    check_members(run, members)
    subject = subject_of(run, dataset, dir_of_own(_spec(run, dataset), data_dir, ood))
    others = {
        spec: _other_images(subject, spec, data_dir, limit, seed) for spec in ood if spec != "noise"
    }  # read first: what isn't there is told before the work
    counts = range(1, subject.members + 1) if members is None else [members]
    data = subject.split(split, limit)
    logits = subject.logits(data)
    by_members = metrics_by_members(subject, logits, data.labels, counts)
    result: dict[str, Any] = {
        **by_members[-1],
        "by_members": by_members,
        "dataset": subject.dataset.name,
        "own_data": subject.is_own,
        "split": split,
        "samples": len(data),
    }
    temperatures = None
    if trust:
        result["trust"] = _trust(subject, split, data, logits, counts, seed)
        fitted = result["trust"]["calibration"]
        temperatures = {row["members"]: row["temperature"] for row in fitted}
    if ood:
        if "noise" in ood:
            others["noise"] = "noise", trusting.noise(data.images.shape, seed)
        result["ood"] = [_ood(subject, *others[spec], logits, counts) for spec in ood]
    if kinds:
        result["shift"] = trusting.shift(
            subject,
            data,
            counts,
            kinds=kinds,
            severities=severities,
            seed=seed,
            temperatures=temperatures,
        )
    return result


def _trust(
    subject: Subject,
    split: str,
    data: Split,
    logits: np.ndarray,
    counts: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    held_out = subject.read().validation
    if split == "test" and len(held_out):
        fitted_on, test = (subject.logits(held_out), held_out.labels), (logits, data.labels)
    else:
        fitted_on, test = (
            (logits[:, half], data.labels[half])
            for half in halves(len(data), seed, subject.dataset.name)
        )
    return {
        "fitted_on": "validation" if test[0] is logits else f"half of the {split} split",
        "fitted_images": len(fitted_on[1]),
        "samples": len(test[1]),
        "calibration": trusting.calibration(subject, fitted_on, test, counts),
        "conformal": trusting.conformal(subject, fitted_on, test, counts),
        "selective": trusting.selective(subject, test, counts),
    }


def dir_of_own(spec: str | None, data_dir: str | None, ood: Sequence[str]) -> str | None:
    """`data_dir` for the data to evaluate on; `None` if it is for those of `ood` only.

    # Arguments
        spec: where the data are, as for `open_dataset`; `None`: nobody knows.
        data_dir, ood: as for `evaluate`.
    """
    is_for_others = any(map(reads_tfds, ood)) and not (spec is not None and reads_tfds(spec))
    return None if is_for_others else data_dir  # without effect it is an error


def _spec(run: Trained | EnsembleInterpreter, dataset: str | Dataset | None) -> str | None:
    """Where the data to evaluate on are; `None` if nobody knows."""
    if isinstance(dataset, str):
        return dataset
    if dataset is not None:
        constants = dataset.constants()
    elif isinstance(run, EnsembleInterpreter):
        constants = constants_of(run.metadata)
    else:
        constants = run.config.dataset
    return constants["source"]["spec"] if "source" in constants else constants.get("name")


def _other_images(
    subject: Subject, spec: str, data_dir: str | None, limit: int | None, seed: int
) -> tuple[str, ImageArray]:
    """The name and the images of other data, as many as the limit, drawn by the seed."""
    own, folder = subject.dataset, data_dir if reads_tfds(spec) else None
    try:
        name, fingerprint = identity(spec, own.input_shape, data_dir=folder)
    except EnsembleError as error:
        raise EnsembleError(
            f"`ood` {spec!r} is neither 'noise' nor data that can be read. {error}"
        ) from error
    is_own = name == own.name if own.origin is None else fingerprint == own.origin.fingerprint
    if is_own:
        raise EnsembleError(
            f"`ood` {spec!r} is what the network is evaluated on: give data of another kind."
        )
    name, images = images_as_input(spec, own.input_shape, data_dir=folder)
    if limit is not None and limit < len(images):
        drawn = np.random.default_rng(seed).permutation(len(images))[:limit]
        images = rows(images, np.sort(drawn))
    return name, images


def _ood(
    subject: Subject, name: str, images: ImageArray, logits: np.ndarray, counts: Sequence[int]
) -> dict[str, Any]:
    outside = subject.logits(Split(images, np.zeros(len(images), np.int32)))
    return {
        "dataset": name,
        "samples": len(images),
        "by_members": trusting.out_of_distribution(subject, logits, outside, counts),
    }
