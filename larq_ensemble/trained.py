"""A trained network: the run directory of a training, a Keras file, or a network of the package.

All have the same protocol, so what takes a run takes the others.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from larq_ensemble.data.normalization import NAMED, Normalization, normalization_named
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import file_digest, user_path
from larq_ensemble.pretrained.catalog import Shipped, found, or_a_name
from larq_ensemble.runs import RunConfig, load_run

if TYPE_CHECKING:
    from larq_ensemble.data.datasets import Dataset, Splits
    from larq_ensemble.keras import keras
    from larq_ensemble.pretrained.weights import StoredWeights


class Trained(Protocol):
    """What a `Run`, a `KerasFile` and a `ShippedNetwork` are."""

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> RunConfig: ...

    @property
    def model(self) -> keras.Model:
        """The Keras model; of an ensemble an `Ensemble`."""

    @property
    def normalization(self) -> Normalization:
        """From pixels 0..255 to the input that the network was trained on."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file of the model, in hexadecimal."""

    def dataset(self, spec: str | None = None, data_dir: str | None = None) -> Dataset:
        """Its data set, with its normalization.

        # Arguments
            spec: where the data are now, or other data of the same classes and size of images.
            data_dir: as for `larq_ensemble.data.datasets.DataOptions`.
        """

    def fresh(self) -> Trained:
        """The same, with a model that is loaded anew."""


def check_binarized(run: Trained) -> None:
    """# Raises
    EnsembleError: for a run of the first of two stages of training, whose filters are not binary.
    """
    if run.config.model.get("binarize", "all") != "all":
        raise EnsembleError(
            f"The run {str(run.path)!r} is of the first stage: its activations are binary, but its "
            "filters are real-valued yet. Pretrain the second stage with it as `from_real`, and "
            "take that run."
        )


@dataclass(frozen=True)
class KerasFile:
    """A classifier or an ensemble that Keras saved, as a run.

    Nobody knows which images its training held out: `config.data` is empty.

    # Arguments
        path: the file.
        config: what the configuration of a run would say.
        model: a functional classifier, image -> logits, or an `Ensemble`.
        own: its data set; `None`: not told.
        spec: what that was opened by.
    """

    path: Path
    config: RunConfig
    model: keras.Model
    own: Dataset | None = None
    spec: str | None = None

    @property
    def normalization(self) -> Normalization:
        return self.config.normalization

    @property
    def digest(self) -> str:
        return str(self.config.model["digest"])

    def dataset(self, spec: str | None = None, data_dir: str | None = None) -> Dataset:
        dataset = self.own
        if spec not in (None, self.spec):
            dataset = _opened(spec, self.config.dataset, self.path, data_dir)
        if dataset is None:
            raise EnsembleError(
                f"The Keras file {str(self.path)!r} doesn't say what data it is for: give "
                "`dataset`."
            )
        return replace(dataset, normalization=self.normalization)

    def fresh(self) -> KerasFile:
        return replace(self, model=_model_in(self.path))


@dataclass(frozen=True)
class ShippedNetwork:
    """A network of `larq_ensemble.pretrained`, as the run that trained it.

    # Arguments
        shipped: the network.
        alone: of an ensemble the single network that it keeps as its first member.
    """

    shipped: Shipped
    alone: bool = False

    @property
    def path(self) -> Path:
        return Path(self.shipped.name)

    @cached_property
    def stored(self) -> StoredWeights:
        weights = self.shipped.weights
        single = weights.single() if self.alone else weights
        assert single is not None
        return single

    @cached_property
    def config(self) -> RunConfig:
        return RunConfig.from_json(self.stored.config, self.shipped.weights_path)

    @cached_property
    def model(self) -> keras.Model:
        from larq_ensemble.ensembles.stored import stored_network

        return stored_network(self.stored)

    @property
    def normalization(self) -> Normalization:
        return self.config.normalization

    @property
    def digest(self) -> str:
        """That of the run that trained it, which its `.tflite` file names, too."""
        return self.stored.run_hash

    def dataset(self, spec: str | None = None, data_dir: str | None = None) -> Dataset:
        from larq_ensemble.data.opening import reopen

        return reopen(self.config.dataset, spec=spec, data_dir=data_dir)

    def fresh(self) -> ShippedNetwork:
        return ShippedNetwork(self.shipped, self.alone)


def open_trained(
    path: str | os.PathLike[str],
    kind: str | None = None,
    *,
    dataset: str | Dataset | None = None,
    data_dir: str | None = None,
    normalization: str | None = None,
) -> Trained:
    """Opens a run directory, a file that Keras saved, or a network of the package.

    # Arguments
        path: the directory, a `.keras` or `.h5` file, or a name of `larq_ensemble.pretrained`, if
            nothing is at this path.
        kind: `"backbone"` or `"ensemble"`, if it has to be of that kind. An ensemble of the
            package that keeps the single network as its first member stands for that, too.
        dataset: of a Keras file: the data that it is for, a data set or what `open_dataset` takes;
            images get the size of the network's input. `None`: not told. A run has its own.
        data_dir: as for `larq_ensemble.data.datasets.DataOptions`.
        normalization: of a Keras file that doesn't know its own: what `normalization_named` takes.

    # Raises
        EnsembleError: for an unknown kind, if there is nothing such at `path`, it is of another
            kind or can't be read, it doesn't fit the data, or its normalization is not known.
    """
    if kind not in (None, "backbone", "ensemble"):
        raise EnsembleError(f"`kind` must be 'backbone', 'ensemble' or None, got {kind!r}.")
    file = user_path(path)
    if not is_keras_file(file):
        if normalization is not None:
            raise EnsembleError(
                f"`normalization` {normalization!r} is for Keras files: the run {str(path)!r} has "
                "that of its training. Leave it out."
            )
        if (shipped := found(path)) is None:
            return load_run(path, kind, also=f"a file that Keras saved, {or_a_name()}")
        alone = kind == "backbone" and shipped.has_single
        network = ShippedNetwork(shipped, alone)
        _check_kind(path, network.config.kind, kind)
        return network
    model = _model_in(file)
    members = 1 if len(model.outputs) == 1 else model.members
    has = "backbone" if len(model.outputs) == 1 else "ensemble"
    _check_kind(path, has, kind)
    constants = _constants(model)
    origin = {"source": str(file.absolute()), "digest": file_digest(file)}
    spec = dataset if isinstance(dataset, str) else None
    if isinstance(dataset, str):
        dataset = _opened(dataset, constants, file, data_dir)
    elif dataset is not None:
        _check_fits(dataset, constants, file)
    return KerasFile(
        file,
        RunConfig(
            kind=has,
            model={"name": file.stem, **constants, **origin},
            dataset={
                **(constants if dataset is None else dataset.constants()),
                **normalization_for(model, normalization, dataset, str(path)).to_json(),
            },
            recipe={},
            seed=0,
            ensemble=_of_ensemble(model) if members > 1 else {},
        ),
        model,
        dataset,
        spec,
    )


def _check_kind(path: str | os.PathLike[str], has: str, needed: str | None) -> None:
    if needed is not None and has != needed:
        wanted = {"backbone": "a single network", "ensemble": "an ensemble"}[needed]
        raise EnsembleError(
            f"{str(path)!r} is of kind {has!r}, but {needed!r} is needed: give {wanted}."
        )


def is_keras_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file that Keras saved, `.keras` (a zip archive) or HDF5."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"\x89HDF")


def data_of(
    trained: Trained,
    dataset: str | Dataset | None = None,
    data_dir: str | None = None,
    *,
    to_evaluate: bool = False,
) -> Dataset:
    """The data to use a trained network on, with its normalization.

    It warns if they are not those of its training.

    # Arguments
        trained: the network.
        dataset: the data, where they are now, or others of the same classes and size of images;
            `None`: its own.
        data_dir: as for `larq_ensemble.data.datasets.DataOptions`.
        to_evaluate: nothing is trained on them: of a run they are opened `whole` and may have
            `some_classes`, see `larq_ensemble.data.opening.reopen`.

    # Raises
        EnsembleError: if they can't be opened or don't fit.
    """
    from larq_ensemble.data.opening import check_cut, reopen

    if to_evaluate and isinstance(dataset, str) and not isinstance(trained, KerasFile):
        constants = trained.config.dataset
        dataset = reopen(constants, spec=dataset, data_dir=data_dir, whole=True, some_classes=True)
    if dataset is None or isinstance(dataset, str):
        data = trained.dataset(dataset, data_dir)
    else:
        _check_fits(dataset, trained.config.dataset, trained.path)
        check_cut(dataset, trained.config.dataset, repr(str(trained.path)))
        data = replace(dataset, normalization=trained.normalization)
    if dataset is not None and not is_own(trained, data):
        changed = ": if these are its data with files added or removed, some were in its training"
        warnings.warn(
            f"`dataset` {data.name!r} is not what {str(trained.path)!r} was trained on"
            f"{changed if 'source' in trained.config.dataset else ''}.",
            stacklevel=2,
        )
    return data


def splits_as_trained(
    trained: Trained,
    dataset: Dataset,
    data_dir: str | None = None,
    *,
    limit_test: int | None = None,
) -> Splits:
    """The splits of data, cut as the training of a network cut them.

    Of a Keras file, and of what was trained from one, it is not known how: nothing is held out.

    # Arguments
        trained: the network.
        dataset: the data.
        data_dir, limit_test: as for `larq_ensemble.data.datasets.DataOptions`.
    """
    from larq_ensemble.data.datasets import DataOptions

    config = trained.config
    cut = config.data if config.held_out_is_known else {}
    options = DataOptions(
        data_dir, cut.get("validation", 0.0), cut.get("limit_train"), limit_test=limit_test
    )
    return options.load(dataset, config.split_seed)


def is_own(trained: Trained, data: Dataset) -> bool:
    """Whether these are the data of a network's training, as far as anybody knows."""
    constants = trained.config.dataset
    return "name" not in constants or data.has_data_of(constants)


def _model_in(file: Path) -> keras.Model:
    from larq_ensemble.ensembles import as_ensemble
    from larq_ensemble.models.classifier import classifier
    from larq_ensemble.models.keras_files import load_keras_file

    model = load_keras_file(file)
    return classifier(model) if len(model.outputs) == 1 else as_ensemble(model)


def _of_ensemble(ensemble: Any) -> dict[str, Any]:
    """What a run records of its ensemble, as far as the ensemble itself says it."""
    return {
        "members": ensemble.members,
        "scheme": ensemble.scheme.name,
        "shared_layers": [layer.name for layer in ensemble.shared_layers()],
    }


def _opened(spec: str, constants: Mapping[str, Any], file: Path, data_dir: str | None) -> Dataset:
    """Data for the network of a Keras file, in images of the size that it takes."""
    from larq_ensemble.data.datasets import DATASETS
    from larq_ensemble.data.opening import open_dataset
    from larq_ensemble.data.options import ImageOptions

    height, width, channels = constants["input_shape"]
    of_files: Any = channels if channels in (1, 3) else None
    images = ImageOptions((height, width), of_files)
    dataset = open_dataset(
        spec, images=ImageOptions() if spec in DATASETS else images, data_dir=data_dir
    )
    _check_fits(dataset, constants, file)
    return dataset


def _constants(model: keras.Model) -> dict[str, Any]:
    """What a network says of its data."""
    classes, shape = model.outputs[0].shape[-1], model.inputs[0].shape[1:]
    return {"classes": int(classes), "input_shape": [*shape]}


def _check_fits(dataset: Dataset, constants: Mapping[str, Any], path: Path) -> None:
    from larq_ensemble.data.opening import check_fits

    check_fits(dataset, constants, repr(str(path)))


def normalization_for(
    model: keras.Model, named: str | None, dataset: Dataset | None, unknown: str | None
) -> Normalization:
    """The normalization of images for a network: its own, or what the user says.

    # Arguments
        model: the network.
        named: what the user says, see `normalization_named`; `None`: nothing.
        dataset: the data, if they are known.
        unknown: the network's name for the error if nobody says it; `None`: it takes that of the
            data then.

    # Raises
        EnsembleError: if nobody says it, or both and they contradict each other.
    """
    image = model.inputs[0]
    channels = int(image.shape[-1])
    of_data = None if dataset is None else dataset.normalization
    known = getattr(model, "normalization", None)
    if known is None and image.dtype.is_integer:  # pixels as they are
        known = Normalization.raw(channels)
    if named is not None:
        given = normalization_named(named, channels, of_data)
        if known is not None and not given.is_close(known):
            raise EnsembleError(
                f"`normalization` {named!r} contradicts that of the network, mean "
                f"{list(known.mean)} and std {list(known.std)}: leave it out."
            )
        return given
    if known is None and unknown is not None:
        raise EnsembleError(
            f"{unknown!r} doesn't say how its images were scaled, and a wrong scale shows only in "
            f"the accuracy: give `normalization`, one of {NAMED}."
        )
    normalization = known or of_data
    assert normalization is not None
    return normalization
