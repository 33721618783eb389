"""The ensemble as a Keras model that knows its scheme.

```python
ensemble = build_ensemble(backbone, members=4, scheme="bagging")
ensemble.compile("adam")
ensemble.fit(images, labels, epochs=5)
ensemble.save("ensemble.keras")
```
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from larq_ensemble.data.normalization import Normalization, check_normalization
from larq_ensemble.ensembles.combine import Combine
from larq_ensemble.ensembles.labels import Accuracy
from larq_ensemble.ensembles.loss_scaling import with_loss_scaling
from larq_ensemble.ensembles.names import member_output, own_name
from larq_ensemble.ensembles.recomputation import check_recomputable, recomputed_step
from larq_ensemble.ensembles.schemes import Scheme
from larq_ensemble.ensembles.traced import TracedMembers, check_bfloat16
from larq_ensemble.errors import (
    EnsembleError,
    UnknownNameError,
    check_seed,
    check_whole,
    is_number,
)
from larq_ensemble.keras import check_keras_2, keras, tf
from larq_ensemble.layers import Mirror
from larq_ensemble.models.functional import built_by_their_calls, input_list
from larq_ensemble.models.keras_files import BFLOAT16_WAY_OUT, SUFFIXES, has_bfloat16

Execution = Literal["auto", "traced", "plain"]

#: The key of the arguments of `compile`, without the optimizer, in an ensemble's configuration.
_COMPILED = "compile_options"


@dataclass(frozen=True)
class _Training:
    """How `fit` trains a compiled ensemble."""

    scheme: Scheme
    seed: int
    recompute: bool
    traced: TracedMembers | None
    #: The names of the layers that were trainable, which decides what Keras trains.
    trainable: frozenset[str]


@keras.utils.register_keras_serializable("larq_ensemble")
class Ensemble(keras.Model):
    """An ensemble of members that share frozen layers, as a functional Keras model.

    `build_ensemble` makes one. `compile` and `fit` train the scheme that it was built for.
    `load_ensemble` loads what Keras saved.

    # Input shape
        float32 [n, height, width, channels]; with independent inputs a list of M of them.

    # Output shape
        A list of tensors [n, classes]: the logits of the members, `member_0` to `member_{M-1}`;
        for nested fusion the probabilities of the first m members, `first_1` to `first_{M-1}`;
        and the probabilities of all, `ensemble`.

    # Raises
        EnsembleError: if the outputs are not those of an ensemble.
    """

    # Keras saves and loads a subclass as a functional model only if it has these arguments.
    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        trainable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, name=name, trainable=trainable, **kwargs)
        _check_is_ensemble(self)

    # Structure

    @property
    def scheme(self) -> Scheme:
        """How the members are trained and combined."""
        return self.layers[-1].scheme

    @property
    def member_weights(self) -> tuple[float, ...] | None:
        """The weight of each member in the combination; `None`: all equal."""
        return self.layers[-1].member_weights

    @property
    def normalization(self) -> Normalization | None:
        """From pixels 0..255 to the input that the members were trained on; `None`: not known.

        It is saved with the ensemble. Conversion puts it into the file, which takes raw pixels. It
        may be set, for example for an ensemble that was saved without. `fit`, `predict` and
        `evaluate` don't apply it: call `ensemble.normalization(pixels)`, or map it over a
        `tf.data.Dataset`.

        # Raises
            EnsembleError: if it is set to that of another number of channels, or to no
                `Normalization`.
        """
        return self.layers[-1].normalization

    @normalization.setter
    def normalization(self, normalization: Normalization | None) -> None:
        check_normalization(normalization, self.inputs[0])
        self.layers[-1].normalization = normalization

    @property
    def members(self) -> int:
        """The number of members, M."""
        return sum(not isinstance(tensor.node.layer, Combine) for tensor in self.outputs)

    @property
    def classes(self) -> int:
        """The number of logits."""
        return int(self.outputs[-1].shape[-1])

    def member(self, member: int) -> keras.Model:
        """The network of one member, image -> logits [n, classes], on the ensemble's layers.

        # Raises
            EnsembleError: if there is no such member.
        """
        member = self._checked_member(member)
        return keras.Model(
            self.inputs[member] if len(self.inputs) > 1 else self.inputs[0],
            self.outputs[member],
            name=member_output(member),
        )

    def combine(self, logits: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The combined outputs, each [n, classes], from the logits of all members."""
        combinations = self.scheme.combinations(self.members)
        return [self.get_layer(name)(logits[:count]) for name, count in combinations.items()]

    def input_list(self, inputs: Any) -> list[tf.Tensor]:
        """What `fit` is given as images, in the order and dtypes of the ensemble's inputs.

        # Arguments
            inputs: a tensor, a list of tensors, or a dictionary of them by the inputs' names.
        """
        return input_list(self, inputs)

    def own_layers(self, member: int) -> list[keras.layers.Layer]:
        """The layers that only this member uses and that hold weights.

        # Raises
            EnsembleError: if there is no such member.
        """
        return own_layers(self, self._checked_member(member))

    def shared_layers(self) -> list[keras.layers.Layer]:
        """The layers that all members use and that hold weights."""
        own = {id(layer) for member in range(self.members) for layer in self.own_layers(member)}
        return [layer for layer in self.layers if layer.weights and id(layer) not in own]

    @property
    def is_one_network(self) -> bool:
        """Whether members differ in nothing but the image they see, as it is or mirrored."""
        own = [layer for member in range(self.members) for layer in self.own_layers(member)]
        return bool(own) and all(isinstance(layer, Mirror) for layer in own)

    def _checked_member(self, member: int) -> int:
        return check_whole("member", member, 0, self.members - 1)

    # Training

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        *,
        execution: Execution = "auto",
        recompute: bool = False,
        bfloat16: bool = False,
        prefix_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        """Prepares `fit` and `evaluate`.

        # Arguments
            optimizer: as for `keras.Model.compile`.
            loss, loss_weights, metrics, weighted_metrics: as there, losses by output; `None`: the
                losses of the scheme, and the accuracy of each combination, both for labels that
                are class numbers [n] or distributions [n, classes], such as one-hot labels. With
                independent inputs the labels differ between members, so the default metric is the
                accuracy of each member.
            execution: `"traced"` traces one member and calls it M times, with fused activations,
                see `larq_ensemble.ensembles.traced`. Tracing takes less time, and on a CPU each
                step does, too. `"plain"` runs the layers as Keras does.
                `"auto"` is traced, or plain where the layers don't allow that; then
                `tracing_obstacle` says why. Several devices always run plain.
            recompute: trains in the activation memory of one member, in about 4/3 of the time,
                see `larq_ensemble.ensembles.recomputation`. The results are the same.
            bfloat16: trains with the shared, frozen binary convolutions in bfloat16, in less than
                half of the time on CPUs with AVX512_BF16 or AMX. Sums of signs are integers, which
                bfloat16 holds exactly up to 256 (even ones up to 512; larger sums are rare and
                rounded by less than 1 %). The filters' scales are multiplied in float32. Gradients
                through these convolutions are rounded to 8 bits. Needs traced execution.
            prefix_weights: for nested fusion, the weight of the loss of the first m members, for
                m = 1 to M; `None`: proportional to m^2.
            label_smoothing: of the scheme's losses, see `larq_ensemble.ensembles.labels`.
            seed: of the samples that bagging and sampled nested fusion draw.

        # Raises
            EnsembleError: for options that don't go together or with the scheme, or that this
                ensemble's layers or this machine don't allow.
        """
        given = {
            "loss": loss,
            "metrics": metrics,
            "loss_weights": loss_weights,
            "weighted_metrics": weighted_metrics,
            **kwargs,
        }
        if given.pop("from_serialized", False):  # Keras loads an HDF5 file.
            self._compile_as_saved({"optimizer": optimizer, **given})
            return
        check_keras_2(optimizer=optimizer, **given)
        seed = check_seed(seed)
        scheme = self.scheme
        if prefix_weights is not None:
            scheme = scheme.with_prefix_weights(prefix_weights)
        if label_smoothing:
            scheme.check(label_smoothing=label_smoothing)
            if loss is not None or not (is_number(label_smoothing) and 0 <= label_smoothing < 1):
                raise EnsembleError(
                    "`label_smoothing` must be from 0 to below 1, and is of the losses of the "
                    f"scheme, for which `loss` is left out. Received: {label_smoothing!r}."
                )
        traced = self._traced_members(execution, recompute, bfloat16)
        if recompute:
            check_recomputable(self)
        if loss is not None:
            self._check_loss(loss)
        if loss is None:
            loss, loss_weights = scheme.losses(self.members), scheme.loss_weights(self.members)
            if label_smoothing:
                loss = {output: each.smoothed(label_smoothing) for output, each in loss.items()}
        if metrics is None and weighted_metrics is None:
            metrics = {output: Accuracy() for output in self._measured_outputs()}
        # Not by `setattr`, or Keras would save them as parts of the model.
        self.__dict__["_training"] = _Training(
            scheme, seed, recompute, traced, self._trainable_layers()
        )
        self.__dict__["_compile_options"] = {
            "execution": execution,
            "recompute": recompute,
            "bfloat16": bfloat16,
            "prefix_weights": None if prefix_weights is None else [*map(float, prefix_weights)],
            "seed": seed,
            **({"label_smoothing": label_smoothing} if label_smoothing else {}),
            "given": [name for name, value in given.items() if value is not None],
        }
        super().compile(
            with_loss_scaling(optimizer, self),
            loss=loss,
            metrics=metrics,
            loss_weights=loss_weights,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

    def _check_loss(self, loss: Any) -> None:
        """# Raises
        EnsembleError: for losses that the scheme can't train: its sample weights, or what it
            hands to the losses, are for its own outputs. Also for one loss of logits and
            probabilities alike.
        """
        scheme, own = self.scheme, [*self.scheme.losses(self.members)]
        if scheme.changes_loss_inputs:
            raise EnsembleError(
                f"The scheme {scheme.name!r} has a loss of its own, of the residuals: leave "
                "`loss` out."
            )
        if scheme.draws and (not isinstance(loss, Mapping) or {*loss} != {*own}):
            raise EnsembleError(
                f"The scheme {scheme.name!r} weighs the examples of its own outputs: give `loss` "
                f"as a dictionary for just {', '.join(own)}."
            )
        if not isinstance(loss, (Mapping, list, tuple)):
            raise EnsembleError(
                "No one `loss` fits all outputs, since members give logits and combinations "
                "probabilities: leave `loss` out for that of the scheme, or give a dictionary by "
                f"output. Received: {loss!r}."
            )

    def _traced_members(
        self, execution: Execution, recompute: bool, bfloat16: bool
    ) -> TracedMembers | None:
        """The traced members; `None` if Keras runs the layers."""
        known = ("auto", "traced", "plain")
        if execution not in known:
            raise UnknownNameError("execution", execution, known)
        if recompute and (bfloat16 or execution == "traced"):
            raise EnsembleError(
                "`recompute` runs members as Keras does: leave out "
                f"{'`bfloat16`' if bfloat16 else '`execution`'}, or `recompute`."
            )
        if bfloat16 and execution == "plain":
            raise EnsembleError("`bfloat16` needs traced execution: leave `execution` out.")
        if recompute or execution == "plain":
            return None
        try:
            traced = TracedMembers(self, bfloat16=bfloat16)
        except EnsembleError as error:
            if bfloat16 or execution == "traced":
                raise EnsembleError(
                    f"{'`bfloat16`' if bfloat16 else 'Traced execution'} needs members that can "
                    f"be traced, and these can't: {error} Leave it out."
                ) from error
            return None
        if bfloat16:
            check_bfloat16(traced)
        return traced

    def _measured_outputs(self) -> list[str]:
        if len(self.inputs) == 1:
            return [*self.scheme.combinations(self.members)]
        return [member_output(member) for member in range(self.members)]

    @property
    def tracing_obstacle(self) -> str | None:
        """Why the members can't be traced; `None` if they can."""
        try:
            TracedMembers(self, bfloat16=False)
        except EnsembleError as error:
            return str(error)
        return None

    @property
    def is_traced(self) -> bool:
        """Whether the compiled ensemble runs traced."""
        training: _Training | None = self.__dict__.get("_training")
        return training is not None and training.traced is not None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`; trains the scheme that the ensemble was built for.

        Bagging and sampled nested fusion draw sample weights: how often each member, or each m,
        sees an example. The seed determines them. A `sample_weight` that is a dictionary by output
        replaces them; any other is multiplied with them. Validation does not use them.

        - Bagging on arrays draws an exact bootstrap sample for each member.
        - Bagging on a `tf.data.Dataset` or by `train_on_batch`, where examples have no index, draws
          Poisson(1) counts from the images' bytes, see
          `larq_ensemble.ensembles.schemes.bagging.Bagging`.
        - Batch bagging and sampled nested fusion draw in each step.

        # Raises
            EnsembleError: for a scheme that trains its members sequentially.
        """
        if (
            self.scheme.fixed_sample
            and y is not None
            and not _is_by_output(sample_weight)
            and not self.scheme.sequential
            and "_training" in self.__dict__  # else Keras says that it must be compiled
        ):
            if validation_split and validation_data is None:
                (x, y, sample_weight), validation_data = _split(
                    (x, y, sample_weight), validation_split
                )
            weights = _example_weights(y, class_weight, sample_weight)
            class_weight = None
            sample_weight = self._fixed_sample(len(tf.nest.flatten(y)[0]), weights)
        check_keras_2(callbacks=callbacks)
        self._warn_of_changed_layers()
        return super().fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            **kwargs,
        )

    def _fixed_sample(self, examples: int, weights: np.ndarray | None) -> dict[str, np.ndarray]:
        """The bootstrap sample of each member, as weights [examples] by output."""
        function = self.scheme.sample_weights(self.members, examples, self._training.seed)
        assert function is not None
        rows = function(tf.range(examples), tf.zeros(2, tf.int64)).numpy()
        if weights is not None:
            rows = rows * weights
        return dict(zip(self.scheme.losses(self.members), rows))

    def make_train_function(self, force: bool = False) -> Any:
        if self.scheme.sequential:
            raise EnsembleError(
                f"The scheme {self.scheme.name!r} trains its members one after the other, not in "
                "one `fit` of the ensemble: use `larq_ensemble.fit_members`, or the command "
                "`larq-ensemble train`."
            )
        if not self.trainable_weights:
            if self.is_one_network:
                raise EnsembleError(
                    "The members are one network, on the image and on the mirrored one, and "
                    "nothing of it is a member's own: train that network, and combine it again."
                )
            raise EnsembleError(
                "The ensemble has no trainable weights: set `trainable = True` of its members' own "
                "layers, `ensemble.own_layers(member)`, and call `compile` again."
            )
        return super().make_train_function(force)

    def _trainable_layers(self) -> frozenset[str]:
        return frozenset(layer.name for layer in self.layers if layer.trainable)

    def _warn_of_changed_layers(self) -> None:
        training: _Training | None = self.__dict__.get("_training")
        changed = sorted(training.trainable ^ self._trainable_layers()) if training else []
        if changed:
            warnings.warn(
                f"`trainable` of {len(changed)} layers was changed after `compile` (the first: "
                f"{changed[0]!r}). It has no effect until `compile` is called again.",
                stacklevel=3,
            )

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not _is_by_output(sample_weight):
            sample_weight = self._drawn_weights(self.input_list(x), sample_weight)
        if self._training.recompute:
            return recomputed_step(self, x, y, sample_weight)
        return super().train_step((x, y, sample_weight))

    def _drawn_weights(self, inputs: list[tf.Tensor], sample_weight: Any) -> Any:
        scheme, seed = self._training.scheme, self._training.seed
        drawn = scheme.drawn_weights(self.members, inputs, seed, self.optimizer.iterations)
        if drawn is None:
            return sample_weight
        if sample_weight is not None:
            drawn *= tf.reshape(tf.cast(sample_weight, drawn.dtype), [1, -1])
        outputs = scheme.losses(self.members)
        return dict(zip(outputs, tf.unstack(drawn, len(outputs))))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> tf.Tensor:
        if "loss" not in self._compile_options["given"]:
            _check_labels(y, self.classes)
        inputs = self.scheme.loss_inputs(y_pred, self.member_weights)
        return super().compute_loss(x, y, inputs, sample_weight)

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        # What is traced does what layers did when it was compiled: loops of one's own may freeze
        # and thaw them without.
        is_traced = self.is_traced and self._training.trainable == self._trainable_layers()
        if not is_traced or tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return super().call(inputs, training=training, mask=mask)
        logits = self._training.traced.logits(self.input_list(inputs), bool(training))
        return [*logits, *self.combine(logits)]

    # Saving. Keras saves its own arguments of `compile`; the configuration holds the others.

    def save(
        self, filepath: Any, overwrite: bool = True, save_format: str | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.save`. A SavedModel keeps the plain execution of the layers.

        # Raises
            EnsembleError: for weights in bfloat16 in a file that Keras could not read.
        """
        self._check_readable(filepath, save_format)
        training: _Training | None = self.__dict__.get("_training")
        if training is not None:
            self.__dict__["_training"] = replace(training, traced=None)
        try:
            super().save(filepath, overwrite, save_format, **kwargs)
        finally:
            if training is not None:
                self.__dict__["_training"] = training

    def save_weights(
        self, filepath: Any, overwrite: bool = True, save_format: str | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.save_weights`.

        # Raises
            EnsembleError: for weights in bfloat16 in a file that Keras could not read.
        """
        self._check_readable(filepath, save_format)
        super().save_weights(filepath, overwrite, save_format, **kwargs)

    def _check_readable(self, filepath: Any, save_format: str | None) -> None:
        path = str(filepath)
        is_file = path.endswith(SUFFIXES) or save_format in ("keras", "h5", "hdf5")
        # For `.weights.h5` Keras ignores the format.
        if is_file and (save_format != "tf" or path.endswith(".weights.h5")) and has_bfloat16(self):
            raise EnsembleError(
                f"The ensemble has weights in bfloat16, which Keras could not read from "
                f"{path!r}: {BFLOAT16_WAY_OUT}."
            )

    def get_config(self) -> dict[str, Any]:
        options = self.__dict__.get("_compile_options")
        return {**super().get_config(), **({_COMPILED: options} if options else {})}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Ensemble:
        ensemble = super().from_config(built_by_their_calls(config), custom_objects)
        ensemble.__dict__["_compile_options"] = config.get(_COMPILED)
        return ensemble

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self._compile_as_saved(keras.saving.deserialize_keras_object(config))
        if isinstance(self.optimizer, keras.optimizers.Optimizer):
            self.optimizer.build(self.trainable_variables)

    def _compile_as_saved(self, arguments: dict[str, Any]) -> None:
        """Compiles with the optimizer and those of Keras's arguments that the user gave."""
        options = dict(self.__dict__.get("_compile_options") or {})
        names = ["optimizer", *options.pop("given", ())]
        self.compile(**{name: arguments[name] for name in names if name in arguments}, **options)


# In HDF5 files Keras names a model by its class alone, without the package it is registered under.
keras.utils.get_custom_objects()["Ensemble"] = Ensemble


def as_ensemble(model: Any) -> Ensemble:
    """A Keras model as an `Ensemble`, on the same layers.

    # Arguments
        model: an `Ensemble`, which is returned as it is, or a plain functional model with the
            layers and outputs of one, as run directories hold.

    # Raises
        EnsembleError: if `model` is no ensemble.
    """
    if isinstance(model, Ensemble):
        return model
    _check_is_ensemble(model)
    return Ensemble(model.inputs, model.outputs, name=model.name)


def own_layers(model: keras.Model, member: int) -> list[keras.layers.Layer]:
    """The layers of a model that only this member uses and that hold weights."""
    prefix = own_name(member, "")
    # Names first: Keras collects a layer's weights at each access, which adds up for large M.
    return [layer for layer in model.layers if layer.name.startswith(prefix) and layer.weights]


def _check_is_ensemble(model: Any) -> None:
    last = model.layers[-1] if getattr(model, "layers", None) else None
    if not isinstance(last, Combine) or len(model.outputs) < 2:
        raise EnsembleError(
            f"The model {getattr(model, 'name', model)!r} is not an ensemble: give one that "
            "`build_ensemble` returned."
        )


def _check_labels(y: Any, classes: int) -> None:
    """# Raises
    ValueError: for labels of another number of classes. In a graph TensorFlow would hide an
        `EnsembleError`.
    """
    for labels in tf.nest.flatten(y):
        if isinstance(labels, tf.Tensor) and labels.shape.rank == 2:
            columns = labels.shape[-1]
            if columns not in (None, 1, classes):
                raise ValueError(
                    f"The labels `y` must be class numbers [n] or distributions [n, {classes}]. "
                    f"Received: the shape {labels.shape.as_list()}."
                )


def _is_by_output(sample_weight: Any) -> bool:
    """Whether weights are given for each output, in a dictionary or a list of arrays."""
    if isinstance(sample_weight, (list, tuple)):
        return any(np.ndim(weights) > 0 for weights in sample_weight)
    return isinstance(sample_weight, Mapping)


def _split(arrays: Any, share: float) -> tuple[Any, Any]:
    """Splits arrays (or `None`s) as Keras does for `validation_split`.

    # Raises
        EnsembleError: if a part would be empty.
    """
    examples = next(len(array) for array in tf.nest.flatten(arrays) if array is not None)
    end = math.floor(examples * (1 - share))
    if not 0 < end < examples:
        raise EnsembleError(
            f"`validation_split` {share} of {examples} examples leaves none to train on, or none "
            "to validate on: use a number between 0 and 1 that leaves some to each."
        )

    def part(slice_: slice) -> Any:
        return tf.nest.map_structure(lambda a: None if a is None else a[slice_], arrays)

    return part(slice(None, end)), part(slice(end, None))


def _example_weights(
    labels: Any, class_weight: Mapping[int, float] | None, sample_weight: Any
) -> np.ndarray | None:
    """The product of class weights and sample weights, float32 [n]; `None`: all 1."""
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float32).reshape(-1)
    if class_weight is None:
        return weights
    classes = np.asarray(tf.nest.flatten(labels)[0])
    one_hot = classes.ndim > 1 and classes.shape[-1] > 1
    classes = classes.argmax(axis=-1) if one_hot else np.ravel(classes)
    of_class = np.array([class_weight.get(int(label), 1.0) for label in classes], np.float32)
    return of_class if weights is None else weights * of_class
