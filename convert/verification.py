"""Keras against the interpreter: does the file predict the classes that the network predicts?

Float rounding sometimes flips a sign inside the network, and then a few logits differ by a lot. So
`verify` compares predicted classes, not logits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from larq_ensemble.convert.comparison import on_other_backends
from larq_ensemble.convert.conversion import normalization_of
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import Ensemble, as_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.inference import predict_batches
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.metrics import class_indices

_BATCH = 100


@dataclass(frozen=True)
class BackendAgreement:
    """How far Keras and a back end agree: its kernel, and the fields of `VerificationReport`."""

    kernel: str
    member_argmax_agreement: list[float]
    ensemble_argmax_agreement: float
    flip_rate: float
    tflite_top1: float | None


@dataclass(frozen=True)
class VerificationReport:
    """How far Keras and the interpreter agree.

    # Arguments
        samples: n, the number of images.
        backend: what ran the file.
        kernel: its kernel.
        member_argmax_agreement: for each member the share (0..1) of images for which both predict
            the same class.
        ensemble_argmax_agreement: the same for the combined prediction.
        flip_rate: the share of all M n predictions of single members that differ.
        tflite_top1, keras_top1: the ensemble's accuracies in percent, if labels were given.
        backends: the same of every back end that ran the file, `backend` among them, by name.
    """

    samples: int
    backend: str
    kernel: str
    member_argmax_agreement: list[float]
    ensemble_argmax_agreement: float
    flip_rate: float
    tflite_top1: float | None
    keras_top1: float | None
    backends: dict[str, BackendAgreement]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    model: keras.Model,
    tflite: str | os.PathLike[str],
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    threads: int = 1,
    backend: str | None = None,
    run_hash: str | None = None,
) -> VerificationReport:
    """Compares the predicted classes of a Keras ensemble and of the file converted from it.

    # Arguments
        model: the ensemble.
        tflite: the converted file, of all members or of the first ones.
        images: `[n, height, width, channels]`, or one image `[height, width, channels]`, with
            values 0..255; n > 0.
        labels: class indices `[n]`, as `larq_ensemble.runtime.metrics.class_indices` reads them,
            for accuracies.
        mean, std: as for `convert_ensemble`.
        threads: of the interpreter.
        backend: what runs the file; `None`: the one that `EnsembleInterpreter` takes, and the
            others that are installed.
        run_hash: `Run.digest` of the run that the model was loaded from; a file that was
            converted from another run is refused then. `None`: not compared.

    # Raises
        EnsembleError: if the file belongs to another ensemble (members, classes, input shape,
            scheme) or another run, the normalization is not known, there are no images, or the
            labels are no class indices of them.
    """
    ensemble = as_ensemble(model)
    interpreter = EnsembleInterpreter(tflite, threads=threads, backend=backend)
    check_same(ensemble, interpreter, tflite, run_hash)
    elsewhere = {} if backend is not None else on_other_backends(interpreter, tflite, threads)
    interpreters = [interpreter, *elsewhere.values()]
    normalization = normalization_of(ensemble, mean, std)
    images = np.asarray(images)
    if images.shape == interpreter.input_shape:  # one image, as `predict` takes it
        images = images[np.newaxis]
    if not len(images):
        raise EnsembleError("`images` is empty: give at least one image to compare.")
    if labels is not None:  # before the work
        labels = class_indices(labels, examples=len(images), classes=interpreter.classes)
    ours = [each.predict_logits(images) for each in interpreters]
    batches = _batches(images, normalization).map(lambda x, y: ((x,) * len(model.inputs), y))
    outputs = predict_batches(model, batches, images=len(images), what="running Keras")
    logits = np.stack(outputs[: interpreter.max_members])
    is_whole = interpreter.max_members == ensemble.members
    whole = outputs[-1] if is_whole else combine(logits, interpreter.scheme, interpreter.weights)
    keras_classes = whole.argmax(-1)

    agreements = {
        each.backend: _agreement(each, found, logits.argmax(-1), keras_classes, labels)
        for each, found in zip(interpreters, ours, strict=True)
    }
    return VerificationReport(
        samples=len(images),
        backend=interpreter.backend,
        **vars(agreements[interpreter.backend]),
        keras_top1=_top1(keras_classes, labels),
        backends=agreements,
    )


def _agreement(
    interpreter: EnsembleInterpreter,
    logits: np.ndarray,
    keras_members: np.ndarray,
    keras_ensemble: np.ndarray,
    labels: np.ndarray | None,
) -> BackendAgreement:
    """How far a back end agrees with Keras.

    # Arguments
        interpreter: the file on the back end.
        logits: what it gave, `[members, n, classes]`.
        keras_members, keras_ensemble: Keras's classes, `[members, n]` and `[n]`.
        labels: class indices `[n]`, or `None`.
    """
    same = keras_members == logits.argmax(-1)
    classes = combine(logits, interpreter.scheme, interpreter.weights).argmax(-1)
    return BackendAgreement(
        kernel=interpreter.kernel,
        member_argmax_agreement=same.mean(axis=1).tolist(),
        ensemble_argmax_agreement=float((keras_ensemble == classes).mean()),
        flip_rate=float(1 - same.mean()),
        tflite_top1=_top1(classes, labels),
    )


def _batches(images: np.ndarray, normalization: Normalization) -> tf.data.Dataset:
    """Normalized images with unused labels, a batch at a time: all would take four times as much.

    Images in a file stay there.
    """

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(images), _BATCH):
            batch = normalization(images[start : start + _BATCH])
            yield batch, np.zeros(len(batch))

    image = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
    return tf.data.Dataset.from_generator(
        batches, output_signature=(image, tf.TensorSpec([None], tf.float64))
    )


def _top1(classes: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else 100 * float((classes == labels).mean())


def check_same(
    ensemble: Ensemble,
    interpreter: EnsembleInterpreter,
    tflite: str | os.PathLike[str],
    run_hash: str | None,
) -> None:
    """Raises `EnsembleError` if the file is not this ensemble, or its first members."""
    members, file_hash = interpreter.max_members, interpreter.metadata.run_hash
    for name, of_model, of_file in (
        ("members", min(ensemble.members, members), members),
        ("classes", ensemble.classes, interpreter.classes),
        ("scheme", ensemble.scheme.name, interpreter.scheme),
        (
            "weights",
            ensemble.member_weights and ensemble.member_weights[:members],
            interpreter.weights,
        ),
        ("input shape", tuple(ensemble.inputs[0].shape[1:]), interpreter.input_shape),
        ("training", run_hash or file_hash, file_hash or run_hash),
    ):
        if of_model != of_file:
            raise EnsembleError(
                f"{str(tflite)!r} was converted from another ensemble: {name} {of_file!r} in the "
                f"file, {of_model!r} in the Keras model. Convert this model first."
            )
