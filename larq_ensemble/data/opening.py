"""Opens data sets: by name, from files of one's own, or as a run recorded them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from larq_ensemble.data.arrays import fitted
from larq_ensemble.data.datasets import DATASETS, Augmentation, Dataset, Origin
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import Found, Read, own_dataset, shown, sized
from larq_ensemble.data.splits import ImageArray
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import user_path


def open_dataset(
    spec: str,
    *,
    images: ImageOptions = ImageOptions(),  # noqa: B008  (frozen)
    data_dir: str | None = None,
) -> Dataset:
    """Opens a data set, to train on it.

    Data of one's own are read here, because the mean and standard deviation of the training split
    are part of the data set.

    # Arguments
        spec: a name in `DATASETS`, `folder:DIR` (images in folders by class), `tfds:NAME` (of
            TensorFlow Datasets) or `npz:FILE` (arrays of NumPy).
        images: size, channels, test split: of data of one's own.
        data_dir: the folder of TensorFlow Datasets, see `DataOptions`; that of these counts if it
            is given, too.

    # Raises
        EnsembleError: for an unknown data set, or one that can't be read or doesn't fit the
            options.
    """
    if spec in DATASETS:
        _refuse_options(spec, images)
        dataset = DATASETS[spec]
        if data_dir is None:
            return dataset
        return dataclasses.replace(dataset, read=partial(_read_in, dataset, data_dir))
    return own_dataset(_find(spec, images, data_dir))


def _read_in(dataset: Dataset, own: str, data_dir: str | None) -> Any:
    """What `dataset.read` returns, from a folder of its own unless another is given."""
    return dataset.read(own if data_dir is None else data_dir)


def reopen(
    constants: Mapping[str, Any],
    *,
    spec: str | None = None,
    data_dir: str | None = None,
    network: str = "the run",
    whole: bool = False,
    some_classes: bool = False,
) -> Dataset:
    """Opens the data set of a run, with the run's classes, normalization and size of images.

    Images are read when the data set's `read` is called, which also checks that they are those of
    the run: files that were added or removed would move others from one split to another.

    # Arguments
        constants: what `Dataset.constants` returned when the run was trained.
        spec: where the data are now, or other data of the same classes, see `Dataset.has_data_of`;
            `None`: where they were.
        data_dir: the folder of TensorFlow Datasets, see `DataOptions`.
        network: what an error calls the run.
        whole: nothing is trained: damaged images of `spec` are left out, and if the run's data are
            built in, which files can't be, all their images are the test split unless they have
            one.
        some_classes: data of one's own may have some of the run's classes, by their names and in
            any order. They get the run's labels, with a warning if some are missing.

    # Raises
        EnsembleError: if `spec` is unknown or has other classes.
    """
    recorded = constants.get("source")
    if spec in DATASETS or (spec is None and recorded is None):
        dataset = DATASETS[spec or constants["name"]]
        check_fits(dataset, constants, network)
        return _as_in_run(dataset, constants)
    origin = None if recorded is None else Origin.from_json(recorded)
    shape = tuple(constants["input_shape"])
    images = sized(ImageOptions() if origin is None else origin.images, shape)
    if spec is not None:
        if whole:
            share = 1.0 if constants.get("name") in DATASETS else images.test_share
            images = dataclasses.replace(images, damaged="skip", test_share=share)
        names = tuple(constants.get("class_names", ()))  # which old runs lack
        may_lend = names and not _are_unsorted_numbers(names)
        found = _find(spec, images, data_dir, names if may_lend else None)
        if some_classes:
            found = _with_labels_of(names, found, network)
        check_fits(found, constants, network)
        return _as_in_run(_unread(dataclasses.replace(found, read=_telling(found))), constants)
    assert origin is not None
    return _as_in_run(_recorded(origin, images, data_dir, constants), constants)


def _telling(found: Found) -> Callable[[str | None], Read]:
    """The `read` of what was found, which warns once of what it leaves out."""
    told: list[str] = []

    def read(data_dir: str | None) -> Read:
        held = found.read(data_dir)
        for remark in held.remarks:
            if remark not in told:
                told.append(remark)
                warnings.warn(remark, stacklevel=2)
        return held

    return read


def _with_labels_of(names: tuple[str, ...], found: Found, network: str) -> Found:
    """What was found, with the labels of a network that knows its classes; else as it is.

    Numbers in order may be no names, but what classes without names are called.

    # Arguments
        names: the network's classes.
        found: the data.
        network: what messages call it.

    # Raises
        EnsembleError: if the network doesn't know some of the classes.
    """
    own = found.class_names
    may_be_unnamed = own == tuple(map(str, range(len(own)))) and _are_unsorted_numbers(names)
    are_all = len(own) == len(names) and _are_same_classes(own, names)
    if may_be_unnamed or are_all or not names:
        return found
    if unknown := [name for name in own if name not in names]:
        raise EnsembleError(
            f"`dataset` {found.name!r} has classes that {network} doesn't know: {shown(unknown)}. "
            f"It knows {len(names)}: {shown(names)}. Leave the others out."
        )
    if len(own) < len(names):
        warnings.warn(
            f"`dataset` {found.name!r} has {len(own)} of the {len(names)} classes of {network}: "
            "metrics are for images of these, which may be taken for any of its classes.",
            stacklevel=2,
        )
    labels = np.array([names.index(name) for name in own], np.int32)

    def read(data_dir: str | None) -> Read:
        held = found.read(data_dir)
        parts = {
            part: dataclasses.replace(split, labels=labels[split.labels])
            for part, split in held.parts.items()
        }
        return dataclasses.replace(held, parts=parts)

    return dataclasses.replace(found, class_names=names, read=read)


def images_as_input(
    spec: str, input_shape: tuple[int, int, int], *, data_dir: str | None = None
) -> tuple[str, ImageArray]:
    """The test images of any data set, whatever its classes, in the size that a network takes.

    All images of data of one's own that have no test split, without damaged ones.

    # Arguments
        spec: as for `open_dataset`.
        input_shape: `(height, width, channels)`. Images of another size or of other channels are
            cropped and resized by `larq_ensemble.runtime.images.fit_image`.
        data_dir: the folder of TensorFlow Datasets, see `DataOptions`.

    # Returns
        The name of the data set, and its images.

    # Raises
        EnsembleError: for an unknown data set, one that can't be read or one without images.
    """
    if spec in DATASETS:
        name, parts = spec, DATASETS[spec].read(data_dir)
        images = parts[1].images
    else:
        found = _find_as_input(spec, input_shape, data_dir)
        name, images = found.name, _telling(found)(data_dir).parts["test"].images
    if not len(images):
        raise EnsembleError(f"The data {name!r} have no test images: give others.")
    return name, fitted(images, input_shape)


def identity(
    spec: str, input_shape: tuple[int, int, int], *, data_dir: str | None = None
) -> tuple[str, str]:
    """The name and the fingerprint of any data set, whose images are not read.

    Built-in data have no fingerprint: the name says what they are.

    # Arguments
        spec, input_shape, data_dir: as for `images_as_input`.

    # Raises
        EnsembleError: for an unknown data set, or one that can't be read.
    """
    if spec in DATASETS:
        return spec, ""
    found = _find_as_input(spec, input_shape, data_dir)
    return found.name, found.origin.fingerprint


def _find_as_input(spec: str, input_shape: tuple[int, int, int], data_dir: str | None) -> Found:
    images = ImageOptions(test_share=1.0, damaged="skip")
    return _find(spec, sized(images, input_shape), data_dir)


def reads_tfds(spec: str) -> bool:
    """Whether a data set is read from the folder of TensorFlow Datasets, `data_dir`.

    # Arguments
        spec: as for `open_dataset`.
    """
    return spec.startswith("tfds:") or (spec in DATASETS and spec != "digits")


def _recorded(
    origin: Origin, images: ImageOptions, data_dir: str | None, constants: Mapping[str, Any]
) -> Dataset:
    """The data of a run where it found them, which are looked at when they are read."""
    spec = origin.spec

    def read(directory: str | None) -> Read:
        if spec is None:
            raise EnsembleError(
                f"The data {constants['name']!r} of the run were given as arrays in Python: give "
                "them again, as `dataset`, for example `npz:FILE`."
            )
        try:
            found = _find(spec, images, directory or data_dir, tuple(constants["class_names"]))
        except EnsembleError as error:
            raise EnsembleError(
                f"The data of the run can't be read. {error} If they moved, say where they are "
                "now, as `dataset`."
            ) from error
        if found.origin.fingerprint != origin.fingerprint:
            raise EnsembleError(
                f"{spec!r} is not what the run was trained on: files were added, removed or "
                "changed since, which would move images between the splits. Restore it, or give "
                "its copy as `dataset`."
            )
        return found.read(directory)

    shape = tuple(constants["input_shape"])
    return _unread(
        Found(
            name=constants["name"],
            class_names=tuple(constants["class_names"]),
            input_shape=shape,
            origin=origin,
            read=read,
            has_test=False,
        )
    )


def _unread(found: Found) -> Dataset:
    """The data set of what was found, with a normalization to be replaced."""
    return Dataset(
        name=found.name,
        classes=len(found.class_names),
        input_shape=found.input_shape,
        normalization=Normalization.raw(found.input_shape[-1]),
        augmentation=Augmentation(),
        read=lambda data_dir: found.read(data_dir).splits,
        class_names=found.class_names,
        source="recorded by a run",
        origin=found.origin,
    )


def _as_in_run(dataset: Dataset, constants: Mapping[str, Any]) -> Dataset:
    """A data set with the normalization, class names and augmentation of a run."""
    recorded: dict[str, Any] = {}
    if "mean" in constants:  # runs of early versions have those of built-in data only by name
        recorded["normalization"] = Normalization(constants["mean"], constants["std"])
    if "augmentation" in constants:
        recorded["augmentation"] = Augmentation.from_json(constants["augmentation"])
    return dataclasses.replace(dataset, **recorded)


def check_fits(
    data: Dataset | Found, constants: Mapping[str, Any], network: str = "the run"
) -> None:
    """Checks that data can stand for those that a network was trained on.

    Classes without names, which are called by their numbers, fit any of the same number, unless
    these are called by numbers in another order: folders of numbers are sorted as text.

    # Arguments
        data: the data.
        constants: of the network's data, as `Dataset.constants` returns them; `class_names` and
            `classes` are checked if they are there.
        network: what the error calls it.

    # Raises
        EnsembleError: for other classes, another order of them, or images of another size.
    """
    names = data.class_names
    expected = tuple(constants.get("class_names") or ())  # which Keras files don't say
    count = len(expected) or constants.get("classes", len(names))
    if names != expected and sorted(names) == sorted(expected):
        label = next(label for label in range(count) if names[label] != expected[label])
        raise EnsembleError(
            f"`dataset` {data.name!r} has the classes of {network} in another order: its label "
            f"{label} is {names[label]!r}, that of {network} is {expected[label]!r}. Number its "
            "labels in that order and give `class_names`; to sort folders of numbers, begin their "
            "names with zeros."
        )
    if len(names) != count or (expected and not _are_same_classes(names, expected)):
        differing = sorted(set(names) ^ set(expected))
        told = f" Differing: {shown(differing)}." if expected else ""
        raise EnsembleError(
            f"`dataset` {data.name!r} has other classes than {network}, which was trained on "
            f"{count}{f', not {len(names)}' if len(names) != count else ''}.{told} "
            "Give data of the same classes."
        )
    if list(data.input_shape) != list(constants["input_shape"]):
        raise EnsembleError(
            f"`dataset` {data.name!r} has images of {list(data.input_shape)}, but {network} takes "
            f"{list(constants['input_shape'])}."
        )


def check_cut(data: Dataset, constants: Mapping[str, Any], network: str = "the run") -> None:
    """Checks that data that a network was trained on have its test split.

    Cut otherwise, some of their test images were in the training.

    # Arguments
        data: the data; others than those of the network may be cut in any way.
        constants: of the network's data, as `Dataset.constants` returns them.
        network: what the error calls it.

    # Raises
        EnsembleError: if they are the network's data, but another share or seed cut the split.
    """
    recorded = constants.get("source")
    if data.origin is None or recorded is None or not data.has_data_of(constants):
        return
    for name in ("test_share", "split_seed"):
        own, given = recorded["images"][name], getattr(data.origin.images, name)
        if own != given:
            raise EnsembleError(
                f"`{name}` {given!r} of {data.name!r} would test on images that {network} was "
                f"trained on: its training had {own!r}. Give that."
            )


def _are_same_classes(names: tuple[str, ...], expected: tuple[str, ...]) -> bool:
    """Whether as many classes have the same names, or one side has only numbers."""
    numbers = tuple(map(str, range(len(names))))
    are_unsorted = _are_unsorted_numbers(names) or _are_unsorted_numbers(expected)
    return names == expected or (numbers in (names, expected) and not are_unsorted)


def _are_unsorted_numbers(names: Sequence[str]) -> bool:
    """Whether classes are called by numbers that don't ascend, such as 0, 1, 10, 2."""
    if not all(map(str.isdecimal, names)):
        return False
    numbers = list(map(int, names))
    return numbers != sorted(numbers)


def _find(
    spec: str,
    images: ImageOptions,
    data_dir: str | None,
    class_names: tuple[str, ...] | None = None,
) -> Found:
    """What a data set of one's own holds.

    # Arguments
        spec, images, data_dir: as for `open_dataset`.
        class_names: of a run, for data that have none.

    # Raises
        EnsembleError: for an unknown kind, and as the kinds do.
    """
    kind, _, rest = spec.partition(":")
    if kind not in _KINDS or not rest:
        raise _unknown(spec)
    if kind == "tfds":
        from larq_ensemble.data.tfds import find_tfds

        return find_tfds(rest, images, data_dir, class_names)
    if data_dir is not None:
        raise EnsembleError(
            f"`data_dir` {data_dir!r} has no effect: {spec!r} says where its data are. Leave it "
            "out."
        )
    path = user_path(rest).absolute()
    if kind == "npz":
        from larq_ensemble.data.npz import find_npz

        return find_npz(path, images, class_names)
    from larq_ensemble.data.folder import find_folder

    return find_folder(path, images, class_names or ())


_KINDS = {
    "folder": "`folder:DIR` (images in a folder for each class)",
    "tfds": "`tfds:NAME` (image classification of TensorFlow Datasets)",
    "npz": "`npz:FILE` (arrays of NumPy)",
}


def _unknown(spec: str) -> EnsembleError:
    path = user_path(spec)
    is_npz = path.suffix == ".npz" and path.is_file()
    near = "npz" if is_npz else "folder" if spec and path.is_dir() else None
    advice = f" Did you mean `{near}:{spec}`?" if near else ""
    return EnsembleError(
        f"Unknown dataset {spec!r}.{advice} Known: {', '.join(sorted(DATASETS))}; of your own: "
        f"{', '.join(_KINDS.values())}."
    )


def _refuse_options(spec: str, images: ImageOptions) -> None:
    """Refuses options that have no effect on built-in data."""
    default = vars(ImageOptions())
    for name, value in vars(images).items():
        if value != default[name]:
            raise EnsembleError(
                f"`{name}` {value!r} has no effect on {spec!r}: it is for data of your own. Leave "
                "it out."
            )
