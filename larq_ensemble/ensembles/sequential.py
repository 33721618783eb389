"""Sequential training: one member after the other, in the training memory of one.

```python
ensemble = fit_members(backbone, images, labels, members=4, scheme="boosting", epochs=5)
ensemble.save("ensemble.keras")
```

`SequentialTraining` is the procedure. Its subclasses store and fit members: `fit_members` here on
arrays and streams, and `larq_ensemble.training.sequential` in a run directory.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.checkpoints import Checkpoints
from larq_ensemble.data.class_weights import ClassWeighting, ClassWeights
from larq_ensemble.data.normalization import Normalization, check_normalization
from larq_ensemble.data.splits import is_on_disk
from larq_ensemble.data.streams import gatherer, reading
from larq_ensemble.ensembles.building import (
    Initial,
    build_ensemble,
    build_member,
    check_mirrors,
    copy_weights,
)
from larq_ensemble.ensembles.ensemble import Ensemble
from larq_ensemble.ensembles.labels import class_numbers
from larq_ensemble.ensembles.loss_scaling import with_loss_scaling
from larq_ensemble.ensembles.names import member_output, own_name
from larq_ensemble.ensembles.schemes import SCHEMES, Stage
from larq_ensemble.errors import EnsembleError, check_seed, check_whole, first_line
from larq_ensemble.files import read_json, replacing, write_text
from larq_ensemble.keras import check_keras_2, keras, tf
from larq_ensemble.locks import resumable
from larq_ensemble.models.backbone import functional_model
from larq_ensemble.models.classifier import classifier
from larq_ensemble.models.graph import Sharing, shared_layers
from larq_ensemble.models.keras_files import has_bfloat16
from larq_ensemble.models.weights import check_weights
from larq_ensemble.network.sharing import has_own_head_bias
from larq_ensemble.progress import tracked

#: What is written whole or not at all: the settings, and of each member the rest.
_FILES = ("fit_members.json", "model.keras", "result.json")

Callbacks = Sequence[keras.callbacks.Callback] | Callable[[int], Sequence[keras.callbacks.Callback]]


class SequentialTraining(abc.ABC):
    """Trains the members of an ensemble one after the other.

    # Arguments
        backbone: the pretrained network.
        members: M; with `patience` there may be fewer in the end.
        arguments: the arguments of `build_member` that all members have in common.
        shrinkage: for boosting, the weight of each member.
        patience: stop after this many members without a better validation accuracy, and drop them;
            `None`: never.
        pixel_range: see `Stage`.
        normalization: as for `build_ensemble`.
        say: called with a line of progress.
    """

    def __init__(
        self,
        backbone: keras.Model,
        members: int,
        arguments: dict[str, Any],
        *,
        shrinkage: float = 1.0,
        patience: int | None = None,
        pixel_range: float | np.ndarray = 1.0,
        normalization: Normalization | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        # Before the training: the ensemble is built after it.
        check_normalization(normalization, functional_model(backbone).inputs[0])
        self.backbone, self.members, self.arguments = backbone, members, arguments
        self.scheme = SCHEMES[arguments["scheme"]]
        self.shrinkage, self.patience, self.pixel_range = shrinkage, patience, pixel_range
        self.normalization = normalization
        self.say = say

    @abc.abstractmethod
    def finished(self, member: int) -> dict[str, Any] | None:
        """The result of a member that is trained already, else `None`."""

    @abc.abstractmethod
    def load(self, member: int) -> keras.Model:
        """The network of a trained member."""

    @abc.abstractmethod
    def save(self, member: int, network: keras.Model, result: dict[str, Any]) -> None:
        """Stores a trained member and its result."""

    @abc.abstractmethod
    def fit(self, member: int, network: keras.Model) -> dict[str, Any]:
        """Trains the network of a member; returns entries of its result."""

    @abc.abstractmethod
    def adaptive_weight(self, member: int, network: keras.Model) -> float:
        """The weight of a trained member from its training errors, for schemes that reweight."""

    @abc.abstractmethod
    def accuracy(
        self, member: int, network: keras.Model, results: Sequence[dict[str, Any]]
    ) -> float | None:
        """Validation top-1 in percent of the members so far; `None` without validation data."""

    def train(self) -> tuple[Ensemble, list[dict[str, Any]]]:
        """Trains the members that have not been trained yet.

        # Returns
            The ensemble, and the results of its members.
        """
        results: list[dict[str, Any]] = []
        accuracies: list[float] = []
        for member in tracked(range(self.members), "member", unit="member"):
            result = self.finished(member)
            if result is None:
                self.say(f"Member {member + 1} of {self.members}")
                network, result = self.train_member(member)
            else:
                network = self.load(member)
            results.append(result)
            accuracy = self.accuracy(member, network, results)
            if accuracy is not None:
                accuracies.append(accuracy)
                self.say(
                    f"Member {member + 1} of {self.members} is trained: validation top-1 of the "
                    f"ensemble so far {accuracy:.2f} %"
                )
            del network  # so that the next member's training finds its memory free
            best = int(np.argmax(accuracies)) if accuracies else member
            if self.patience is not None and member - best >= self.patience:
                results = results[: best + 1]
                self.say(
                    f"Stopped: {self.patience} in a row without improvement. The ensemble has the "
                    f"first {len(results)} members, not {self.members}."
                )
                break
        return self.assemble(results), results

    def train_member(self, member: int) -> tuple[keras.Model, dict[str, Any]]:
        """Trains and stores one member.

        # Returns
            Its network and its result.
        """
        network = self.start(member)
        measured = self.fit(member, network)
        check_weights(network)  # a diverged member would be stored as finished
        weight = (
            self.adaptive_weight(member, network)
            if self.scheme.reweights
            else self.scheme.member_weight(self.stage(member))
        )
        result = {"weight": weight, **measured}
        self.save(member, network, result)
        return network, result

    def start(self, member: int) -> keras.Model:
        """The untrained network of a member."""
        network = build_member(self.backbone, member, **self.arguments)
        if member and self.scheme.continues:
            self.scheme.start(network, member, self.load(member - 1))
        return network

    def stage(self, member: int) -> Stage:
        return Stage(
            member,
            so_far=lambda: self.assemble([{"weight": self.shrinkage}] * member),
            shrinkage=self.shrinkage,
            pixel_range=self.pixel_range,
        )

    def assemble(self, results: Sequence[dict[str, Any]]) -> Ensemble:
        """The ensemble of the first members, as many as there are results."""
        ensemble = build_ensemble(
            self.backbone,
            len(results),
            **self.arguments | {"initial": "pretrained", "jitter": 0.0},
            weights=combination_weights(results),
            normalization=self.normalization,
        )
        for member in range(len(results)):
            copy_weights(self.load(member), ensemble)
        return ensemble


def combination_weights(results: Sequence[dict[str, Any]]) -> list[float] | None:
    """The weights of the members in the combination; `None`: all equal."""
    weights = [result["weight"] for result in results]
    return None if None in weights else weights


def fit_members(
    backbone: keras.Model,
    x: Any,
    y: Any = None,
    *,
    members: int,
    scheme: str,
    sharing: Sharing = "fusion",
    jitter: float | None = None,
    dropout: float | None = None,
    initial: Initial = "pretrained",
    mirror: bool = False,
    optimizer: Any = "adam",
    end_learning_rate: float = 0.0,
    epochs: int = 1,
    batch_size: int = 32,
    validation_data: Any = None,
    class_weights: ClassWeights | None = None,
    callbacks: Callbacks = (),
    shrinkage: float | None = None,
    patience: int | None = None,
    pixel_range: float | Sequence[float] = 1.0,
    normalization: Normalization | None = None,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
) -> Ensemble:
    """Builds an ensemble and trains its members one after the other.

    It is for the sequential schemes `boosting`, `adaboost`, `snapshot`, `fast_geometric`,
    `adversarial` and `stochastic_rounding`. Independent members, those of `voting` and `bagging`,
    may be trained so to save memory. `Ensemble.fit` trains the other schemes.

    On arrays `adaboost` keeps a table of sample weights. On a stream it computes them for each
    batch, from the predictions of the members before.

    # Arguments
        backbone, members, sharing, scheme, jitter, dropout, initial, mirror: as for
            `build_ensemble`.
        x, y: images and labels as arrays, or as `x` a `tf.data.Dataset` of batches (images,
            labels), which is read once per epoch. Labels are class numbers [n] or distributions
            [n, classes], such as one-hot labels. Images of a memory-mapped array are read batch by
            batch.
        optimizer: as for `keras.Model.compile`; each member gets a new one with the same
            configuration. For `snapshot` and `fast_geometric` its learning rate is the highest of a
            cycle.
        end_learning_rate: for these two, the lowest learning rate of a cycle.
        epochs: epochs of each member; for `snapshot` and `fast_geometric` of all together.
        batch_size: images per step, for arrays.
        validation_data: (images, labels) or a dataset, evaluated after each epoch and member.
        class_weights: of the classes in the loss: a dictionary by class number, as `class_weight`
            of `keras.Model.fit`, K numbers, or for arrays `"balanced"`, see
            `larq_ensemble.data.class_weights`. They multiply the sample weights of the scheme; in
            `adaboost` they are those of the first member.
        callbacks: Keras callbacks for each member's `fit`, or a function from the member's number
            to callbacks.
        shrinkage: for `boosting`, the weight of each member; `None`: 1.
        patience: for `boosting` and `adaboost`, stop after this many members without a better
            validation accuracy, and drop them; `None`: never.
        pixel_range: for `adversarial`, the difference between the brightest and the darkest pixel
            in `x`, a number or one per channel.
        normalization: as for `build_ensemble`. `x` is normalized already.
        folder: where trained members are stored. The same call resumes an interrupted training, at
            the member and epoch where it stopped. Another backbone, optimizer or array is refused:
            of arrays all labels and 64 images are compared, of a `tf.data.Dataset` its shapes.
        seed: of the jitter, the order of arrays and the samples. Dropout follows the seed of
            Keras (`keras.utils.set_random_seed`).
        verbose: as for `keras.Model.fit`.

    # Returns
        The trained ensemble, not compiled.

    # Raises
        EnsembleError: for options that don't go with the scheme, a folder of another training or
            of one that is running, or a folder for weights in bfloat16.
    """
    members = check_whole("members", members, 1)
    seed = check_seed(seed)
    check_keras_2(optimizer=optimizer, callbacks=None if callable(callbacks) else [*callbacks])
    chosen = SCHEMES[scheme]
    if "in_turn" in chosen.unsupported:
        raise EnsembleError(
            f"The scheme {scheme!r} can't train its members one after the other: "
            f"{chosen.unsupported['in_turn']}. Use `build_ensemble` and `Ensemble.fit`."
        )
    chosen.check(shrinkage=shrinkage, patience=patience)
    if mirror:
        check_mirrors(members)
    if patience is not None and validation_data is None:
        raise EnsembleError("`patience` watches the validation accuracy: give `validation_data`.")
    arguments = {
        "scheme": scheme,
        "sharing": sharing,
        "jitter": jitter,
        "dropout": dropout,
        "initial": initial,
        "seed": seed,
    }
    if end_learning_rate and chosen.learning_rate(1.0, 0.0, 1) is None:
        raise EnsembleError(
            f"`end_learning_rate` {end_learning_rate} has no effect in the scheme {scheme!r}: "
            "leave it out, or give `optimizer` a learning rate schedule."
        )
    training = _KerasTraining(
        backbone,
        members,
        {**arguments, "mirror": mirror},
        shrinkage=1.0 if shrinkage is None else shrinkage,
        patience=patience,
        pixel_range=np.asarray(pixel_range, np.float32),
        normalization=normalization,
        say=(lambda text: print(text, flush=True)) if verbose else lambda text: None,
    )
    training.data = _Data(x, y, batch_size)
    weighting = _weighting(class_weights, y, int(classifier(backbone).outputs[0].shape[-1]))
    numbers = [] if y is None else class_numbers(y).numpy()
    training.class_weights = weighting.by_class(np.asarray(numbers, int))
    training.validation = None if validation_data is None else _validation_batches(validation_data)
    training.fitting = _Fitting(
        optimizer, end_learning_rate, chosen.member_epochs(epochs, members), callbacks, verbose
    )
    if folder is None:
        with reading():
            return training.train()[0]
    if has_bfloat16(backbone):
        raise EnsembleError(
            "The backbone has weights in bfloat16, and Keras could not read those of members from "
            f"`folder` {os.fspath(folder)!r}: leave it out, or build the backbone with the policy "
            "'mixed_bfloat16', whose weights are float32."
        )
    # A function has another text in every process.
    shared = sorted(shared_layers(sharing, backbone)) if callable(sharing) else sharing
    if has_own_head_bias(sharing):  # a folder of before has members without it
        shared = f"{shared} with a bias of each member in the linear layer"
    settings = {
        **arguments,
        "sharing": shared,
        "members": members,
        "epochs": epochs,
        "batch_size": batch_size,
        "shrinkage": shrinkage,
        **weighting.to_json(),
    }
    newer = {  # what folders of before don't say
        "backbone": _digest(backbone.get_weights()),
        "data": training.data.fingerprint,
        "optimizer": _steps_of(keras.optimizers.get(optimizer)),
        "end_learning_rate": end_learning_rate,
        "pixel_range": np.asarray(pixel_range).tolist(),
    }
    with (
        resumable(
            folder,
            {
                **{name: str(value) for name, value in (settings | newer).items()},
                "mirror": bool(mirror) or None,  # of a folder of before, which doesn't say it, too
            },
            what="training",
            file=_FILES[0],
            files=_FILES,
            way_out="train again with another `folder`",
            argument="folder",
            newer=newer,
        ) as place,
        reading(),
    ):
        training.folder = place.absolute()
        return training.train()[0]


def _digest(arrays: Iterable[Any]) -> str:
    """Of types, shapes and values, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _steps_of(optimizer: Any) -> dict[str, Any]:
    """What of an optimizer its steps depend on; how it is compiled depends on the machine."""
    config = optimizer.get_config()
    for name in ("name", "jit_compile", "is_legacy_optimizer"):
        config.pop(name, None)
    return {"class": type(optimizer).__name__, **config}


def _weighting(class_weights: ClassWeights | None, y: Any, classes: int) -> ClassWeighting:
    """# Raises
    EnsembleError: for unusable class weights, and for those that a stream can't have.
    """
    weighting = ClassWeighting.of(class_weights, [str(number) for number in range(classes)])
    if y is None and weighting.weights == "balanced":
        raise EnsembleError(
            "`class_weights` 'balanced' counts the labels, and `x` is a tf.data.Dataset: give the "
            "weight of each class."
        )
    return weighting


@dataclasses.dataclass(frozen=True)
class _Fitting:
    """How a member is fitted: arguments of `fit_members`."""

    optimizer: Any
    end_learning_rate: float
    epochs: int
    callbacks: Callbacks
    verbose: int | str


class _KerasTraining(SequentialTraining):
    """Sequential training on arrays and streams; stores members in memory and in a folder."""

    data: _Data
    validation: tf.data.Dataset | None
    fitting: _Fitting
    class_weights: np.ndarray | None = None
    folder: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own: dict[int, dict[str, list[np.ndarray]]] = {}
        self._reweighting = _Reweighting(self._of_class)

    def finished(self, member: int) -> dict[str, Any] | None:
        if self.folder is None:
            return None
        folder = self.folder / member_output(member)
        if not (folder / "result.json").is_file():
            return None
        way_out = f"delete {str(folder)!r} to train this member again"
        result = read_json(folder / "result.json", way_out)
        network = self._built(member)
        try:
            network.load_weights(folder / "model.keras")  # which runs no code of a Lambda layer
        except Exception as error:  # zip, HDF5 and Keras each raise errors of their own.
            raise EnsembleError(
                f"{str(folder / 'model.keras')!r} can't be read ({first_line(error)}): {way_out}."
            ) from error
        self._keep(member, network)
        if self.scheme.reweights:
            self._reweight(network, result["weight"])
        return result

    def load(self, member: int) -> keras.Model:
        network = self._built(member)
        for name, weights in self._own[member].items():
            network.get_layer(name).set_weights(weights)
        return network

    def _built(self, member: int) -> keras.Model:
        """The network of a member, whose own weights are still to be set."""
        arguments = self.arguments | {"initial": "pretrained", "jitter": 0.0}
        return build_member(self.backbone, member, **arguments)

    def save(self, member: int, network: keras.Model, result: dict[str, Any]) -> None:
        self._keep(member, network)
        if self.folder is None:
            return
        path = self.folder / member_output(member)
        path.mkdir(exist_ok=True)
        with replacing(path / "model.keras") as temporary:
            network.save(temporary, save_format="keras")
        write_text(path / "result.json", json.dumps(result, indent=2) + "\n")
        shutil.rmtree(path / "backup", ignore_errors=True)

    def _keep(self, member: int, network: keras.Model) -> None:
        prefix = own_name(member, "")
        self._own[member] = {
            layer.name: layer.get_weights()
            for layer in network.layers
            if layer.name.startswith(prefix) and layer.weights
        }

    def fit(self, member: int, network: keras.Model) -> dict[str, Any]:
        fitting = self.fitting
        model, compiled = self.scheme.objective(network, self.stage(member))
        model.compile(with_loss_scaling(self._optimizer(), model), **compiled)
        callbacks = fitting.callbacks
        callbacks = [*(callbacks(member) if callable(callbacks) else callbacks)]
        begun = 0
        if self.folder is not None:
            backup = _Backup(self.folder / member_output(member) / "backup", model)
            begun = backup.restore()
            callbacks.append(backup)
        model.fit(
            self.data.training(
                self._weigh(member),
                seed=self.arguments["seed"] + member,
                subsample=self.scheme.subsamples,
                of_class=None
                if self.class_weights is None or self.scheme.reweights
                else self._of_class,
            ),
            epochs=fitting.epochs,
            initial_epoch=begun,
            validation_data=self.validation,
            callbacks=callbacks,
            verbose=fitting.verbose,
        )
        return {}

    def _optimizer(self) -> keras.optimizers.Optimizer:
        fitting = self.fitting
        optimizer = keras.optimizers.get(fitting.optimizer)
        config = optimizer.get_config()
        if self.scheme.learning_rate(1.0, 0.0, 1) is not None:  # the scheme has its own
            rate, steps = config["learning_rate"], self.data.steps
            if steps is None:
                raise EnsembleError(
                    f"The learning rate of the scheme {self.scheme.name!r} follows the number of "
                    "steps, but the dataset `x` does not know how many batches it has: use "
                    "`tf.data.Dataset.apply(tf.data.experimental.assert_cardinality(n))`."
                )
            if isinstance(rate, dict):
                raise EnsembleError(
                    f"The scheme {self.scheme.name!r} has its own learning rate schedule: "
                    "give `optimizer` a number."
                )
            config["learning_rate"] = self.scheme.learning_rate(
                float(rate), fitting.end_learning_rate, steps * fitting.epochs
            )
        return type(optimizer).from_config(config)

    def _of_class(self, labels: Any) -> tf.Tensor:
        """The weights of the classes of labels, [batch]."""
        labels = tf.cast(class_numbers(labels), tf.int64)
        if self.class_weights is None:
            return tf.ones(tf.shape(labels))
        return tf.gather(self.class_weights, labels)

    def _weigh(self, member: int) -> Weigh | None:
        """A function for the scheme's sample weights of a batch; `None`: all equal."""
        if self.scheme.reweights:
            return self._reweighting.weigh
        seed, examples = self.arguments["seed"], self.data.examples
        numbered = self.scheme.sample_weights(self.members, examples or 0, seed)
        if numbered is None:
            return None

        def weigh(images: Any, labels: Any, numbers: Any, draw: Any) -> tf.Tensor:
            if examples is None:
                drawn = self.scheme.drawn_weights(self.members, [images], seed, draw)
                assert drawn is not None
                return drawn[member]
            step_seed = tf.stack([tf.constant(seed, tf.int64), draw])
            return numbered(numbers, step_seed)[member]

        return weigh

    def adaptive_weight(self, member: int, network: keras.Model) -> float:
        return self._reweight(network, None)

    def _reweight(self, network: keras.Model, known: float | None) -> float:
        """Updates the sample weights of the next member; returns the weight of this one.

        # Arguments
            known: the member's weight, if it was computed before.
        """
        weights, wrong = [], []
        run = tf.function(lambda images: network(images, training=False))
        for images, labels, numbers in self.data.passing():
            weights.append(self._reweighting.weigh(images, labels, numbers, None).numpy())
            wrong.append(tf.argmax(run(images), axis=-1).numpy() != class_numbers(labels).numpy())
        before, errors = np.concatenate(weights), np.concatenate(wrong)
        classes = int(network.outputs[0].shape[-1])
        alpha, following = self.scheme.reweighted(before, errors, classes)
        if self.data.examples is not None:
            self._reweighting.table = tf.constant(following, tf.float32)
        else:
            alpha = alpha if known is None else known
            scale = 1 / np.mean(before * np.exp(alpha * errors))
            self._reweighting.members.append((network, alpha, float(scale)))
        return alpha

    def accuracy(
        self, member: int, network: keras.Model, results: Sequence[dict[str, Any]]
    ) -> float | None:
        if self.validation is None:
            return None
        ensemble, right, count = self.assemble(results), 0, 0
        run = tf.function(lambda images: ensemble(images, training=False)[-1])
        for images, labels in self.validation:
            right += int(np.sum(tf.argmax(run(images), axis=-1) == class_numbers(labels).numpy()))
            count += len(labels)
        return 100 * right / count


class _Backup(keras.callbacks.Callback):
    """Keras's `BackupAndRestore`, which loses its backup with an index file or a `[` in its path.

    # Arguments
        folder: where the backup is, in the format of `BackupAndRestore`.
        model: the compiled model that will be fitted.
    """

    def __init__(self, folder: Path, model: keras.Model) -> None:
        super().__init__()
        self._epoch = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self._folder = folder
        self._checkpoints = Checkpoints(folder / "chief", model=model, ckpt_saved_epoch=self._epoch)

    def restore(self) -> int:
        """Restores the newest backup; returns how many epochs it has been trained."""
        self._checkpoints.restore()
        return int(self._epoch.numpy()) + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch.assign(epoch)
        if not self._folder.parents[1].is_dir():
            raise EnsembleError(
                f"`folder` {str(self._folder.parents[1])!r} is gone: it was deleted or moved while "
                "it was written."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._checkpoints.save(epoch + 1)


#: (images, labels, the examples' numbers or None, a draw of this step) -> weights [batch].
Weigh = Callable[[Any, Any, Any, Any], tf.Tensor]


class _Reweighting:
    """Sample weights of the next member: a table for arrays, a function for streams.

    # Arguments
        first: (labels) -> the weights of the first member.
    """

    def __init__(self, first: Callable[[Any], tf.Tensor]) -> None:
        self._first = first
        self.table: tf.Tensor | None = None
        #: The members so far: network, weight, and the factor that scales the mean to 1.
        self.members: list[tuple[keras.Model, float, float]] = []

    def weigh(self, images: Any, labels: Any, numbers: Any, draw: Any) -> tf.Tensor:
        if self.table is not None:
            return tf.gather(self.table, numbers)
        weights = self._first(labels)
        labels = tf.cast(class_numbers(labels), tf.int64)
        for network, alpha, scale in self.members:
            wrong = tf.argmax(network(images, training=False), axis=-1) != labels
            weights *= scale * tf.exp(alpha * tf.cast(wrong, tf.float32))
        return weights


#: How many images, evenly spread, the fingerprint of arrays reads.
_FINGERPRINTED = 64


def _fingerprint(x: Any, y: Any) -> str:
    """The number of examples, and a digest of all labels and of some images."""
    places = np.linspace(0, len(x) - 1, min(len(x), _FINGERPRINTED)).astype(int).tolist()
    return f"{len(x)} examples, {_digest([y, *(x[place] for place in places)])}"


class _Data:
    """Training data: numbered examples of arrays, or a stream of batches.

    # Attributes
        examples: how many there are; `None`: a stream.
        steps: batches per epoch; `None`: unknown.
        fingerprint: of arrays their number, all labels and some images; of a stream its shapes,
            because its elements may be others each time.
    """

    def __init__(self, x: Any, y: Any, batch_size: int) -> None:
        self.examples: int | None = None
        self.steps: int | None = None
        if y is None:
            if not isinstance(x, tf.data.Dataset):
                raise EnsembleError(
                    f"`x` must be a tf.data.Dataset where `y` is left out, got {type(x).__name__}."
                )
            _check_pairs(x, "x")
            self._batches = x
            size = int(x.cardinality())
            self.steps = size if size >= 0 else None
            self.fingerprint = f"a tf.data.Dataset of {x.element_spec}"
            return
        self.examples = len(x)
        if len(y) != self.examples:
            raise EnsembleError(
                f"`x` and `y` must be of one length, got {self.examples} and {len(y)}."
            )
        self.steps = -(-self.examples // batch_size)
        self.fingerprint = _fingerprint(x, y)
        numbers = np.arange(self.examples, dtype=np.int32)
        self._images_at = gatherer(x) if is_on_disk(x) else None
        self._examples = tf.data.Dataset.from_tensor_slices(
            (numbers if self._images_at else x, y, numbers)
        )
        self._batch_size = batch_size

    def training(
        self,
        weigh: Weigh | None,
        seed: int,
        *,
        subsample: bool = False,
        of_class: Callable[[Any], tf.Tensor] | None = None,
    ) -> tf.data.Dataset:
        """Batches (x, y), or (x, y, weights), of one epoch, in a new order each time.

        # Arguments
            weigh: the sample weights of the scheme.
            seed: of the order and of what `weigh` draws.
            subsample: keep only the examples whose weight is not 0, without the weight.
            of_class: (labels) -> factors of the weights.
        """
        if self.examples is None:
            batches = self._batches.map(lambda x, y: (x, y, ()))
        else:
            batches = self._batched(self._examples.shuffle(self.examples, seed=seed))

        def weighed(batch: Any, draw: Any = None) -> tuple[Any, ...]:
            x, y, numbers = batch
            weights = None if weigh is None else weigh(x, y, numbers, draw)
            if subsample:
                x, y = (tf.boolean_mask(tensor, tf.greater(weights, 0)) for tensor in (x, y))
                weights = None
            if of_class is not None:
                weights = of_class(y) if weights is None else weights * of_class(y)
            return (x, y) if weights is None else (x, y, weights)

        if weigh is None:
            return batches.map(lambda *batch: weighed(batch)).prefetch(2)
        draws = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        return tf.data.Dataset.zip((batches, draws)).map(weighed).prefetch(2)

    def passing(self) -> Iterator[tuple[Any, Any, Any]]:
        """Batches (x, y, numbers) of one pass over all examples, those of arrays in order."""
        if self.examples is None:
            return ((x, y, None) for x, y in self._batches)
        return iter(self._batched(self._examples, 250))

    def _batched(self, examples: tf.data.Dataset, size: int | None = None) -> tf.data.Dataset:
        batches = examples.batch(size or self._batch_size)
        if (images_at := self._images_at) is None:
            return batches
        return batches.map(lambda at, y, numbers: (images_at(at), y, numbers), 2)


def _validation_batches(data: Any) -> tf.data.Dataset:
    if not isinstance(data, tf.data.Dataset):
        data = tf.data.Dataset.from_tensor_slices(tuple(data)).batch(250)
    _check_pairs(data, "validation_data")
    return data


def _check_pairs(batches: tf.data.Dataset, argument: str) -> None:
    """# Raises
    EnsembleError: if elements are no pairs.
    """
    spec = batches.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise EnsembleError(
            f"`{argument}` must have the elements (images, labels), a batch of each. "
            f"Received: {spec}."
        )
