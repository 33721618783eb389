"""Data sets by name, with the constants that runs record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from larq_ensemble.data.augmentation import Augmentation
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.splits import Split, Splits, stratified
from larq_ensemble.errors import EnsembleError
from larq_ensemble.registry import Registry

if TYPE_CHECKING:
    from larq_ensemble.keras import tf

__all__ = ["DATASETS", "Augmentation", "DataOptions", "Dataset", "Origin", "Split", "Splits"]


@dataclass(frozen=True)
class Origin:
    """Where data of one's own come from, for runs to record.

    # Arguments
        spec: as for `open_dataset`, with an absolute path; `None`: given in Python.
        images: how they became arrays.
        fingerprint: digest of the names and sizes of files, or of what arrays hold: it changes
            when files are added or removed, not when all of them are moved.
    """

    spec: str | None
    images: ImageOptions
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """The arguments as values of JSON."""
        return {**vars(self), "images": self.images.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Origin:
        """What `to_json` wrote."""
        return cls(values["spec"], ImageOptions.from_json(values["images"]), values["fingerprint"])


@dataclass(frozen=True)
class Dataset:
    """A data set: its constants, and how to read its images.

    `larq_ensemble.data.opening.open_dataset` opens one by its name or from files of one's own.

    # Arguments
        name: as in `DATASETS`; of data of one's own the kind and the last part of the path, such
            as `"folder:photos"`.
        classes: number of classes.
        input_shape: (height, width, channels) of the uint8 images.
        normalization: from pixels to the input of a network.
        augmentation: of training images.
        read: (data_dir) -> (training split, test split), and a validation split if the data have
            one of their own.
        class_names: in the order of the labels. Those of built-in data are listed here because
            TensorFlow Datasets knows those of CIFAR only after downloading the images.
        source: where the constants come from.
        origin: of data of one's own; `None`: built in.

    # Raises
        EnsembleError: if the normalization is for another number of channels.
    """

    name: str
    classes: int
    input_shape: tuple[int, int, int]
    normalization: Normalization
    augmentation: Augmentation
    read: Callable[[str | None], tuple[Split, ...]]
    class_names: tuple[str, ...]
    source: str
    origin: Origin | None = None

    def __post_init__(self) -> None:
        self.normalization.check_channels(self.input_shape[-1])

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        test: tuple[np.ndarray, np.ndarray] | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        options: ImageOptions = ImageOptions(),  # noqa: B008  (frozen)
    ) -> Dataset:
        """A data set from arrays. They are not copied.

        Mean and standard deviation are those of the training split.

        # Arguments
            images: uint8 [n, h, w, c] or [n, h, w], of training.
            labels: class numbers, whole numbers [n] or [n, 1], from 0 on.
            test: (images, labels) of the test split. `None`: a share of the images, see `options`.
            validation: (images, labels) of the validation split. `None`: runs cut one.
            class_names: in the order of the labels. `None`: the numbers of those there are.
            name: of the data set.
            options: size, channels and test share.

        # Raises
            EnsembleError: for arrays that are no images or no class numbers.
        """
        from larq_ensemble.data.arrays import dataset_of_arrays

        parts = {"train": (images, labels), "test": test, "validation": validation}
        given = {part: pair for part, pair in parts.items() if pair is not None}
        return dataset_of_arrays(given, class_names=class_names, name=name, options=options)

    @classmethod
    def from_tf_data(
        cls,
        train: tf.data.Dataset,
        *,
        test: tf.data.Dataset | None = None,
        validation: tf.data.Dataset | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "tf_data",
        options: ImageOptions = ImageOptions(),  # noqa: B008  (frozen)
    ) -> Dataset:
        """A data set from finite `tf.data` pipelines, which are read once, into the cache.

        # Arguments
            train: elements (image, label), batched or not: uint8 images, and class numbers.
            test, validation: the same; `None`: as for `from_arrays`.
            class_names, name, options: as for `from_arrays`.

        # Raises
            EnsembleError: for other elements, and for pipelines that are infinite or empty.
        """
        from larq_ensemble.data.tensorflow_data import dataset_of_pipelines

        parts = {"train": train, "test": test, "validation": validation}
        given = {part: pipeline for part, pipeline in parts.items() if pipeline is not None}
        return dataset_of_pipelines(given, class_names=class_names, name=name, options=options)

    def augmented(self, kind: str | None) -> Dataset:
        """This data set with another augmentation.

        # Arguments
            kind: see `Augmentation.of_kind`; `None`: its own.

        # Raises
            EnsembleError: for an unknown name.
        """
        if kind is None:
            return self
        return replace(self, augmentation=Augmentation.of_kind(kind, self.input_shape))

    def constants(self) -> dict[str, Any]:
        """The constants that a run records, enough to use the network without the data."""
        return {
            "name": self.name,
            "classes": self.classes,
            "class_names": list(self.class_names),
            "input_shape": list(self.input_shape),
            **self.normalization.to_json(),
            "augmentation": self.augmentation.to_json(),
            **({} if self.origin is None else {"source": self.origin.to_json()}),
        }

    def limited(self, split: Split, limit: int | None) -> Split:
        """Some examples of its test or validation split.

        They are the first ones, or of data of one's own a random sample that is always the same:
        the first ones of a folder are all of the first class.

        # Arguments
            split: the split.
            limit: how many; `None`: all.
        """
        if limit is None or self.origin is None:
            return split.first(limit)
        random = np.random.default_rng(self.origin.images.split_seed)
        return split.take(np.sort(random.permutation(len(split))[:limit]))

    def has_data_of(self, constants: Mapping[str, Any]) -> bool:
        """Whether these are the data of a run, and not others of the same classes.

        # Arguments
            constants: of the data of the run, as `constants` returns them.
        """
        if self.origin is None or "source" not in constants:
            return self.name == constants["name"]
        return self.origin.fingerprint == constants["source"]["fingerprint"]


def limit_key(limit: int | None, *, is_own: bool) -> str | int | None:
    """What keys of kept results call a limit, see `Dataset.limited`.

    Earlier versions kept results of the first images, also of data of one's own.

    # Arguments
        limit: how many examples; `None`: all.
        is_own: whether the data are one's own, not built in.
    """
    return f"{limit}drawn" if limit is not None and is_own else limit


@dataclass(frozen=True)
class DataOptions:
    """Which data a run uses.

    # Arguments
        data_dir: the folder of TensorFlow Datasets that holds the data set. It is read, and nothing
            is downloaded into it. `None`: TensorFlow Datasets' own folder, which is that of the
            environment variable TFDS_DATA_DIR or ~/tensorflow_datasets, with a download if need be.
        validation: share of the training data held out, at least 0 and below 1; of data of one's
            own with the classes in proportion. If the data have a validation split of their own,
            that is held out for any share but 0.
        limit_train: number of training examples to use, drawn by the seed, for the training and the
            validation split together. `None`: all.
        limit_test: number of test examples to use, the first ones, or of data of one's own a
            random sample that is always the same; 0: no evaluation. `None`: all.

    # Raises
        EnsembleError: for a validation share out of range.
    """

    data_dir: str | None = None
    validation: float = 0.1
    limit_train: int | None = None
    limit_test: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise EnsembleError(
                f"`validation` must be at least 0 and below 1, got {self.validation}."
            )

    def load(self, dataset: Dataset, seed: int) -> Splits:
        """Reads a data set and cuts a validation split from its training data.

        # Arguments
            dataset: what to read.
            seed: decides which examples are held out, and which a limit keeps.

        # Raises
            EnsembleError: if the data can't be read or downloaded, or none are left to train on and
                not all are meant for the test.
        """
        train, test, *own = dataset.read(self.data_dir)
        held_out = own[0] if own else train
        training, validation = self._drawn(dataset, train, own, seed)
        return Splits(
            train=train.take(training),
            validation=held_out.take(validation),
            test=dataset.limited(test, self.limit_test),
        )

    def training_images(self, dataset: Dataset) -> int:
        """The number of images that `load` leaves for the training split.

        # Raises
            EnsembleError: as `load`.
        """
        train, _, *own = dataset.read(self.data_dir)
        training, _ = self._drawn(dataset, train, own, seed=0)  # any seed draws as many
        return len(training)

    def _drawn(
        self, dataset: Dataset, train: Split, own: Sequence[Split], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training and the validation split, these in `own` if it holds a split."""
        random = np.random.default_rng(seed)
        # Split before the limit, so that no limit moves an image to the other split.
        if own:
            training = random.permutation(len(train))
            validation = random.permutation(len(own[0]))
        elif dataset.origin is not None:
            validation, training = stratified(train.labels, self.validation, random)
        else:
            order = random.permutation(len(train))
            validation, training = np.split(order, [round(len(order) * self.validation)])
        if not self.validation:
            validation = validation[:0]
        if self.limit_train is not None:
            limited = round(self.limit_train * self.validation)
            validation = validation[:limited]
            training = training[: self.limit_train - limited]
        only_tested = dataset.origin is not None and dataset.origin.images.test_share == 1
        if not len(training) and not only_tested:
            raise EnsembleError(
                f"No training data is left: {self.limit_train or len(train)} examples with a "
                f"validation share of {self.validation}. Raise the limit or lower the share."
            )
        return training, validation

    def to_json(self) -> dict[str, Any]:
        """All but `data_dir`, which may differ when a run is resumed on another machine."""
        values = asdict(self)
        del values["data_dir"]
        return values


def _read_digits(data_dir: str | None) -> tuple[Split, Split]:
    """scikit-learn's digits: 1,797 images of 8x8. The test split is a stratified third."""
    if data_dir is not None:
        raise EnsembleError(
            f"`data_dir` {data_dir!r} has no effect: digits comes with scikit-learn. Leave it out, "
            "or choose another data set."
        )
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=1 / 3, random_state=0, stratify=labels
    )
    return Split(train_images, train_labels), Split(test_images, test_labels)


def _tfds_reader(name: str, url: str) -> Callable[[str | None], tuple[Split, Split]]:
    """A reader of a data set of TensorFlow Datasets, which downloads it from `url`."""

    def read(data_dir: str | None) -> tuple[Split, Split]:
        from larq_ensemble.data.tfds import damaged, prepared_builder

        builder = prepared_builder(name, data_dir, url)
        try:
            train, test = (
                Split(data["image"], data["label"].astype(np.int32))
                for data in builder.as_dataset(split=["train", "test"], batch_size=-1)
                for data in [{key: np.asarray(value) for key, value in data.items()}]
            )
        except Exception as error:  # TFDS raises whatever its readers raise.
            raise damaged(name, builder, error) from error
        return train, test

    return read


_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
    kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
    skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
    woman worm
    """.split()  # noqa: SIM905  (a hundred quotes tell a reader nothing)
)

DATASETS: Registry[Dataset] = Registry("dataset")

DATASETS.register(
    "digits",
    Dataset(
        name="digits",
        classes=10,
        input_shape=(8, 8, 1),
        normalization=Normalization(mean=(0.3054,), std=(0.3758,)),
        augmentation=Augmentation(pad=1),
        read=_read_digits,
        class_names=tuple(map(str, range(10))),
        source="computed from its training split; a test recomputes them",
    ),
)

for _name, _names, _archive in (
    ("cifar10", _CIFAR10, "cifar-10-binary.tar.gz"),
    ("cifar100", _CIFAR100, "cifar-100-binary.tar.gz"),
):
    DATASETS.register(
        _name,
        Dataset(
            name=_name,
            classes=len(_names),
            input_shape=(32, 32, 3),
            normalization=Normalization(
                mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
            ),
            augmentation=Augmentation(pad=4, flip=True),
            read=_tfds_reader(_name, f"https://www.cs.toronto.edu/~kriz/{_archive}"),
            class_names=_names,
            source="the code of Kim et al. 2022, which uses one set for both CIFARs",
        ),
    )
