"""Data sets of TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import contextlib
import difflib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.data.cache import entry_name
from larq_ensemble.data.datasets import Origin
from larq_ensemble.data.digests import fingerprint
from larq_ensemble.data.encoded import Encoded, EncodedImages
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import PARTS, Found, Read, check_size, needs_size, resolved, shown
from larq_ensemble.errors import EnsembleError, first_line, install_command
from larq_ensemble.files import user_path
from larq_ensemble.tensorflow_start import quiet_start

#: Answers where the internet can be reached.
_SITE = "https://www.tensorflow.org/datasets"
_TIMEOUT_SECONDS = 10.0
#: Names of splits in TFDS, by theirs here.
_SPLITS = {
    "train": ("train",),
    "test": ("test",),
    "validation": ("validation", "val", "valid"),
}


@dataclass(frozen=True)
class _Source:
    """A data set of TFDS that is on disk.

    # Arguments
        builder: TFDS' object.
        image, label: names of the features.
        splits: names of the splits in TFDS, by theirs here, in the order of `PARTS`.
    """

    builder: Any
    image: str
    label: str
    splits: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Digest of its version and the sizes of its splits."""
        info = self.builder.info
        sizes = [(part, info.splits[split].shard_lengths) for part, split in self.splits.items()]
        return fingerprint(info.full_name, sizes)

    def class_names(self, of_run: Sequence[str] | None) -> tuple[str, ...]:
        """What TFDS calls the classes; else a run, or the numbers up to the highest label."""
        feature = self.builder.info.features[self.label]
        if hasattr(feature, "names"):
            return tuple(feature.names)
        if of_run is not None:
            return tuple(of_run)
        labels = self.records("+".join(self.splits.values()), self.label)
        return tuple(map(str, range(1 + max(int(record[self.label]) for record in labels))))

    def encoded(self) -> Iterator[Encoded]:
        """The images as the files have them, in an order that is always the same."""
        for part, split in self.splits.items():
            for record in self.records(split, self.image, self.label):
                yield Encoded(bytes(record[self.image]), part, int(record[self.label]))

    def records(self, split: str, *keys: str) -> Iterator[dict[str, Any]]:
        """Some features of the records of a split; images encoded."""
        import tensorflow_datasets as tfds

        as_they_are = {self.image: tfds.decode.SkipDecoding()} if self.image in keys else None
        decoders = tfds.decode.PartialDecoding(dict.fromkeys(keys, True), as_they_are)
        return iter(tfds.as_numpy(self.builder.as_dataset(split=split, decoders=decoders)))


def find_tfds(
    name: str, options: ImageOptions, data_dir: str | None, class_names: Sequence[str] | None
) -> Found:
    """What a data set of TFDS holds; it is downloaded if need be.

    # Arguments
        name: as TFDS writes it, such as `"mnist"` or `"imagenet_resized/32x32:0.1.0"`.
        options: size, channels, damaged images, test share.
        data_dir: the folder that holds it; `None`: TFDS' own.
        class_names: of a run, for a data set that has none; `None`: numbers.

    # Raises
        EnsembleError: if there is no such data set, it can't be downloaded, it isn't one of images
            with a class each, or no size of images is given and they differ.
    """
    builder = prepared_builder(name, data_dir, _SITE)
    info = builder.info
    image, label = _keys(name, info)
    shape = _input_shape(name, info.features[image].shape, options)
    try:
        splits, remarks = _splits(_Source(builder, image, label, _named_splits(name, info)))
        source = _Source(builder, image, label, splits)
        names = source.class_names(class_names)
    except EnsembleError:
        raise
    except Exception as error:
        raise damaged(name, builder, error) from error
    config = f"/{info.config_name}" if info.config_name else ""
    spec = f"tfds:{info.name}{config}:{info.version}"
    origin = resolved(Origin(spec, options, source.fingerprint), shape)

    def read(directory: str | None) -> Read:
        read = _read(source, names, shape, options)
        return replace(read, remarks=[*remarks, *read.remarks])

    return Found(f"tfds:{info.name}{config}", names, shape, origin, read, has_test="test" in splits)


def _read(
    source: _Source, class_names: Sequence[str], shape: tuple[int, int, int], options: ImageOptions
) -> Read:
    info, path = source.builder.info, str(source.builder.data_path)
    height, width, channels = shape
    images = EncodedImages(
        what=f"images of {info.full_name!r}",
        entry=entry_name(f"{info.name} {height}x{width}x{channels}", path, shape),
        key=source.fingerprint,
        count=sum(int(info.splits[split].num_examples) for split in source.splits.values()),
        class_names=class_names,
        images=source.encoded,
        name=lambda index: f"image {index}",
    )
    try:
        return images.read(shape, options)
    except EnsembleError:
        raise
    except Exception as error:
        raise damaged(info.name, source.builder, error) from error


def damaged(name: str, builder: Any, error: Exception) -> EnsembleError:
    """The error for what TFDS can't read: it raises whatever its readers raise."""
    return EnsembleError(
        f"Can't read {name} from {str(builder.data_path)!r} ({first_line(error)}): it is damaged. "
        "Delete it and leave `data_dir` out to download it again."
    )


def prepared_builder(name: str, data_dir: str | None, url: str) -> Any:
    """The builder of a data set that is on disk, after a download if need be.

    # Arguments
        name: as TFDS writes it.
        data_dir: the folder that holds it, into which nothing is downloaded; `None`: TFDS' own.
        url: answers if a download can work.

    # Raises
        EnsembleError: if there is no such data set, and if it is not there and can't be downloaded.
    """
    folder = None if data_dir is None else user_path(data_dir)
    first = name.partition("/")[0].partition(":")[0]
    if folder is not None and not folder.is_dir():
        raise EnsembleError(
            f"The data directory {data_dir!r} does not exist: give the folder that holds "
            f"`{first}/`, or leave `data_dir` out to download."
        )
    try:
        with quiet_start():
            import tensorflow  # noqa: F401  (which TFDS imports when it first needs it)
            import tensorflow_datasets as tfds
    except ImportError as error:
        raise EnsembleError(
            f"{name} needs TensorFlow Datasets, which can't be imported ({error}): install it: "
            f"{install_command('train')}."
        ) from error
    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=folder, try_gcs=False)
    except Exception as error:  # TFDS raises errors of several types for what it doesn't know
        raise _unknown(name, first, error) from error
    if not (builder.data_path / "dataset_info.json").exists():
        if folder is not None:
            raise _not_there(first, folder, str(builder.data_path))
        _download(first, builder, url)
    return builder


def _unknown(name: str, first: str, error: Exception) -> EnsembleError:
    import tensorflow_datasets as tfds

    if not isinstance(error, tfds.core.DatasetNotFoundError):  # such as a version that isn't there
        return EnsembleError(f"`dataset` {name!r} can't be opened ({first_line(error)}).")
    near = difflib.get_close_matches(first, tfds.list_builders(with_community_datasets=False))
    advice = f"Did you mean {' or '.join(near)}?" if near else "Check the name."
    return EnsembleError(f"TensorFlow Datasets has no {name!r}. {advice}")


def _not_there(name: str, folder: Path, path: str) -> EnsembleError:
    near = [*folder.absolute().parents[:2], *(each for each in folder.iterdir() if each.is_dir())]
    holders = [str(each) for each in near if (each / name).is_dir()]
    advice = (
        f"Did you mean {holders[0]!r}?"
        if holders
        else f"Give the folder that holds `{name}/`. To download into this one, leave `data_dir` "
        "out and set the environment variable TFDS_DATA_DIR to it."
    )
    return EnsembleError(f"`data_dir` {str(folder)!r} does not hold {name} (no {path!r}). {advice}")


def _download(name: str, builder: Any, url: str) -> None:
    """Downloads a data set into TensorFlow Datasets' own folder.

    # Raises
        EnsembleError: in seconds if its server can't be reached: TensorFlow Datasets would try for
            minutes, and leave empty folders.
    """
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # the server answers
            urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS
            ).close()
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises whatever its downloader raises.
        raise EnsembleError(
            f"{name} is not in {str(builder.data_path)!r} and can't be downloaded "
            f"({first_line(error)}): connect to the internet once, or give the folder that holds "
            f"`{name}/` as `data_dir`."
        ) from error


def _keys(name: str, info: Any) -> tuple[str, str]:
    """The names of the features that are the image and its class."""
    import tensorflow_datasets as tfds

    features = dict(info.features) if hasattr(info.features, "items") else {}
    images = [
        key
        for key, feature in features.items()
        if type(feature) is tfds.features.Image and feature.np_dtype == np.uint8
    ]
    labels = [
        key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)
    ] or [
        key
        for key, feature in features.items()
        if feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)
    ]
    image, label = _chosen(images, info, 0, "image"), _chosen(labels, info, 1, "label")
    if image is None or label is None:
        listed = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        raise EnsembleError(
            f"`dataset` 'tfds:{name}' is not for image classification, which needs one uint8 image "
            f"and one class: its features are {listed or type(info.features).__name__}."
        )
    return image, label


def _chosen(keys: list[str], info: Any, place: int, usual: str) -> str | None:
    """The key that the data set itself says, that has the usual name, or that is the only one."""
    supervised = info.supervised_keys or ()
    if len(supervised) == 2 and supervised[place] in keys:
        return str(supervised[place])
    return usual if usual in keys else keys[0] if len(keys) == 1 else None


def _named_splits(name: str, info: Any) -> dict[str, str]:
    """Names of the splits in TFDS, by theirs here, in the order of `PARTS`."""
    found = {part: split for part in PARTS for split in _SPLITS[part] if split in info.splits}
    if "train" not in found:
        raise EnsembleError(
            f"`dataset` 'tfds:{name}' has no split `train`, only {shown(list(info.splits))}."
        )
    return found


def _splits(source: _Source) -> tuple[dict[str, str], list[str]]:
    """The splits to use, and remarks on others.

    Some test splits have no labels, or rather -1, because they belong to a competition.
    """
    splits, remarks = dict(source.splits), []
    if "test" in splits:
        first = next(source.records(f"{splits['test']}[:1]", source.label))
        if int(first[source.label]) < 0:
            remarks.append(f"The split {splits.pop('test')!r} has no labels and is left out.")
    if "test" not in splits and "validation" in splits:
        splits = {"train": splits["train"], "test": splits["validation"]}
    return splits, remarks


def _input_shape(
    name: str, shape: tuple[int | None, ...], options: ImageOptions
) -> tuple[int, int, int]:
    height, width, channels = shape
    if options.image_size is not None:
        height, width = options.image_size
    elif height is None or width is None:
        raise needs_size(f"The images of 'tfds:{name}' differ in size")
    else:
        check_size(f"The images of 'tfds:{name}'", (height, width))
    assert height is not None
    assert width is not None
    return height, width, options.channels or (1 if channels == 1 else 3)
