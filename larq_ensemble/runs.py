"""Run directories: a trained network with its configuration, logs and checkpoints.

    config.json     what was trained, on what, how (`RunConfig`)
    model.keras     the Keras model, each weight once, loadable with `keras.models.load_model`
    log.csv         a row for each epoch
    tensorboard/    the same for TensorBoard
    checkpoints/    weights, optimizer and random state after each epoch, to resume from
    result.json     the result of the command
    .lock           while a process writes the run

`model.keras` and then `result.json` are written last. A run without them has not finished.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from larq_ensemble.data.normalization import Normalization
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import (
    check_output_folder,
    file_digest,
    gone,
    is_run,
    read_json,
    remove_leftovers,
    replacing,
    user_path,
    write_text,
)
from larq_ensemble.locks import check_unlocked, first_difference, holds_other_files, locked
from larq_ensemble.pretrained.catalog import names

if TYPE_CHECKING:
    from larq_ensemble.data.datasets import Dataset
    from larq_ensemble.keras import keras

FORMAT = 1
KINDS = ("backbone", "ensemble")
#: Arguments of the model that earlier versions did not write, with what they trained.
_MODEL_OF_BEFORE = {"prelu_gradient": "zero", "revision": 1}
#: What is written whole or not at all. A killed process may leave temporary files of these names.
_FILES = ("config.json", "log.csv", "model.keras", "next_sample_weights.npy", "result.json")


#: What a run's contents depend on.
_PACKAGES = ("larq-ensemble", "tensorflow", "tf-keras", "larq", "numpy")


class _Section(dict):
    """Part of a configuration file. A missing key is an `EnsembleError` that names the file."""

    def __init__(self, values: Any = (), place: str = "the configuration") -> None:
        super().__init__(values)
        self._place = place

    def __missing__(self, key: str) -> Any:
        raise EnsembleError(
            f"{self._place} lacks {key!r}: it is damaged or of another version of larq-ensemble."
        )


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run.

    # Arguments
        kind: `"backbone"` or `"ensemble"`.
        model: name and arguments of the architecture. Without `revision` and `prelu_gradient`, as
            earlier versions wrote it, it is of revision 1 and `"zero"`. Of a network that is not
            ours: what `larq_ensemble.models.foreign.foreign_network` records.
        dataset: the dataset's constants (name, classes, class names, input shape, mean, std).
        recipe: the training recipe.
        seed: of initialization, data and jitter.
        transfer: digests of the runs that a backbone starts from, of the teacher of a backbone or
            an ensemble, and how it was used.
        data: validation share and limits of the data.
        ensemble: members, scheme, sharing and the digest of the pretrained run (ensembles only);
            `requested_members` if training ended early, with fewer `members`; `own_head_bias` if
            each member has its own bias in a linear layer that is shared; `keep_pretrained`,
            the number of members that are the pretrained network, untouched (`true` is 1);
            `mirror` if every second member sees the image mirrored.
        precision: `"float32"`, or `"bfloat16"` of a backbone that was trained in it.
        versions: of the packages that a run's contents depend on.
    """

    kind: str
    model: dict[str, Any]
    dataset: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    transfer: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    ensemble: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def split_seed(self) -> int:
        """The seed of the validation split, which a run takes over from the runs it builds on."""
        return int(self.data.get("split_seed", self.seed))

    @property
    def normalization(self) -> Normalization:
        """From pixels 0..255 to the input that the network was trained on."""
        return Normalization(self.dataset["mean"], self.dataset["std"])

    @property
    def architecture(self) -> str | None:
        """The name of our architecture; `None` for a network that is not ours."""
        return None if "source" in self.model else self.model["name"]

    @property
    def validation(self) -> float:
        """The share of the training images that was held out, or is to be if nobody knows."""
        from larq_ensemble.data.datasets import DataOptions

        return float(self.data.get("validation", DataOptions.validation))

    @property
    def held_out_is_known(self) -> bool:
        """Whether it is known which images neither it nor its backbone was trained on.

        Not of a Keras file, which has no `data`, and of an ensemble whose backbone is one.
        """
        file = self.model.get("digest")
        return bool(self.data) and (file is None or self.ensemble.get("backbone") != file)

    @property
    def own_head_bias(self) -> bool:
        """Whether each member has its own bias in a linear layer that is shared."""
        return bool(self.ensemble.get("own_head_bias", False))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any, path: Path) -> RunConfig:
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise EnsembleError(
                f"{str(path)!r} is not a configuration of format {FORMAT}: "
                "was it written by another version of larq-ensemble?"
            )
        model = values.get("model")
        if isinstance(model, dict) and "source" not in model:
            values = {**values, "model": {**_MODEL_OF_BEFORE, **values["model"]}}
        arguments: dict[str, Any] = {
            name: _Section(value, f"{name!r} in {str(path)!r}")
            if isinstance(value, dict)
            else value
            for name, value in values.items()
            if name != "format"
        }
        try:
            config = cls(**arguments)
        except TypeError as error:
            raise EnsembleError(
                f"{str(path)!r} is not a complete configuration: {error}."
            ) from None
        if config.kind not in KINDS:
            raise EnsembleError(f"{str(path)!r} has kind {config.kind!r}, expected one of {KINDS}.")
        return config


@dataclass(frozen=True)
class Run:
    """A run directory.

    # Arguments
        path: the directory.
        config: its configuration.
    """

    path: Path
    config: RunConfig
    #: The path whatever the working directory becomes.
    _place: Path = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", self.path.absolute())

    @property
    def config_path(self) -> Path:
        return self._place / "config.json"

    @property
    def model_path(self) -> Path:
        return self._place / "model.keras"

    @property
    def log_path(self) -> Path:
        return self._place / "log.csv"

    @property
    def tensorboard_path(self) -> Path:
        return self._place / "tensorboard"

    @property
    def checkpoints_path(self) -> Path:
        return self._place / "checkpoints"

    @property
    def result_path(self) -> Path:
        return self._place / "result.json"

    @cached_property
    def model(self) -> keras.Model:
        """The trained Keras model; of an ensemble an `Ensemble`.

        The run of a network that came from `module:function` is code of its author: the module is
        imported, for the classes that it registers, and `Lambda` layers are run.

        # Raises
            EnsembleError: if training has not finished, the file is damaged, or the module can't
                be imported.
        """
        self._check_has_model()
        from larq_ensemble.ensembles import as_ensemble
        from larq_ensemble.models.foreign import import_module_of, is_function
        from larq_ensemble.models.keras_files import load_keras_file

        source = self.config.model.get("source", "")
        if is_function(source):
            import_module_of(source)
        model = load_keras_file(
            self.model_path,
            safe_mode=not is_function(source),
            way_out="it is truncated or damaged. Resume its training to write it again, or train "
            "again",
        )
        if len(model.outputs) == 1:  # a backbone, or a member that was trained sequentially
            return model
        ensemble = as_ensemble(model)
        if ensemble.normalization is None and "mean" in self.config.dataset:  # of an older version
            ensemble.normalization = self.normalization
        return ensemble

    @property
    def normalization(self) -> Normalization:
        """From pixels 0..255 to the input that the network was trained on."""
        return self.config.normalization

    def dataset(self, spec: str | None = None, data_dir: str | None = None) -> Dataset:
        """The data set of the training, with the run's classes, normalization and image size.

        # Arguments
            spec, data_dir: as for `larq_ensemble.data.opening.reopen`.

        # Raises
            EnsembleError: as `reopen`.
        """
        from larq_ensemble.data.opening import reopen

        return reopen(self.config.dataset, spec=spec, data_dir=data_dir)

    def fresh(self) -> Run:
        """The same run, whose model will be loaded anew."""
        return load_run(self.path)

    @property
    def digest(self) -> str:
        """SHA-256 of `model.keras`, in hexadecimal.

        # Raises
            EnsembleError: if training has not finished.
        """
        self._check_has_model()
        return file_digest(self.model_path)

    def save_config(self) -> None:
        write_text(self.config_path, json.dumps(self.config.to_json(), indent=2) + "\n")

    def save_model(self, model: keras.Model) -> None:
        """Saves the network without its optimizer, each shared weight once."""
        from larq_ensemble.keras import keras

        self.check_exists()
        uncompiled = keras.Model(model.inputs, model.outputs, name=model.name)
        with replacing(self.model_path) as temporary:
            uncompiled.save(temporary, save_format="keras")

    def save_result(self, result: dict[str, Any]) -> None:
        self.check_exists()
        write_text(self.result_path, json.dumps(result, indent=2) + "\n")

    def finished_result(self) -> dict[str, Any] | None:
        """The saved result; `None` if the run has not finished or is damaged."""
        try:
            result = read_json(self.result_path, "resume the training")
            _ = self.model
        except EnsembleError:
            return None
        return result

    def check_exists(self) -> None:
        """Checks, while it is written, that the directory is still there.

        # Raises
            EnsembleError: if it was deleted or moved.
        """
        # A member's directory is in that of its run, which has the configuration.
        if not any(
            (folder / "config.json").is_file() for folder in (self._place, self._place.parent)
        ):
            raise gone(self.path)

    def remove_leftovers(self) -> None:
        """Removes temporary files of a killed process; only the holder of the lock may do so."""
        remove_leftovers(self._place, _FILES)

    def _check_has_model(self) -> None:
        if not self.model_path.is_file():
            raise EnsembleError(
                f"The run {str(self.path)!r} has no model.keras: its training has not finished. "
                "Resume it, with the arguments that it was started with."
            )


def open_run(out: str | os.PathLike[str], config: RunConfig, *, resume: bool = False) -> Run:
    """Checks that a run can be written to the directory `out`; writes nothing.

    # Raises
        EnsembleError: if the directory holds a run already (nothing is overwritten) or other
            files, can't be written to or is being written by another process, or if the run to
            resume was started with another configuration.
    """
    run = _checked(out, config, resume)
    check_unlocked(run.path)
    return run


def create_run(
    out: str | os.PathLike[str],
    config: RunConfig,
    *,
    resume: bool = False,
    until: contextlib.ExitStack | None = None,
) -> Run:
    """Creates a run directory, or with `resume` opens an existing one.

    # Arguments
        until: holds the lock of the directory until it is closed; `None`: until this returns.

    # Raises
        EnsembleError: as `open_run`.
    """
    run = _checked(out, config, resume)
    run.path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as until_return:
        (until or until_return).enter_context(locked(run.path))
        run = _checked(out, config, resume)  # another process may have been faster
        run.remove_leftovers()
        if not run.config_path.exists():
            run.save_config()
    return run


def _checked(out: str | os.PathLike[str], config: RunConfig, resume: bool) -> Run:
    run = Run(path := user_path(out), config)
    check_takes_run(path, resume=resume)
    if is_run(path):
        _check_same(load_run(path).config, config, path)
    return run


def check_takes_run(out: str | os.PathLike[str], *, resume: bool) -> None:
    """Checks that a run can be written to a directory, or be resumed there.

    # Raises
        EnsembleError: if it holds other files, or a run and `resume` is false.
    """
    path = user_path(out)
    if is_run(path):
        if not resume:
            raise EnsembleError(
                f"`out` {str(path)!r} holds a run already: go on with `resume=True`, or choose "
                "another directory."
            )
        return
    check_output_folder(path)
    if path.is_dir() and holds_other_files(path, _FILES):
        raise EnsembleError(
            f"`out` {str(path)!r} holds other files: choose a new or an empty directory."
        )


def load_run(
    path: str | os.PathLike[str], kind: str | None = None, *, also: str | None = None
) -> Run:
    """Reads the configuration of a run. The model is loaded when it is first used.

    # Arguments
        path: the run directory.
        kind: `"backbone"` or `"ensemble"`, if the run has to be of that kind.
        also: what the caller takes besides runs, for the error; `None`: nothing.

    # Raises
        EnsembleError: if there is no run at `path`, or one of another kind or that can't be read.
    """
    path = user_path(path)
    config_path = path / "config.json"
    try:
        is_there = config_path.is_file()
    except OSError as error:  # such as a folder that is closed to this user
        raise EnsembleError(
            f"The run {str(path)!r} can't be read ({error.strerror}): give one that can."
        ) from error
    if not is_there and str(path) in names():  # the caller takes runs only
        raise EnsembleError(
            f"{str(path)!r} is a network that comes with the package, and this needs a run: "
            "`larq_ensemble.trained.open_trained` opens either. Or give a directory that "
            "`larq-ensemble pretrain` or `larq-ensemble train` wrote."
        )
    if not is_there:
        found = f"No run at {str(path)!r} (no config.json there)"
        if path.is_file():
            found = f"{str(path)!r} is a file that can't be taken here"
        elif not path.exists():
            found = f"No run at {str(path)!r} (there is no such file or directory)"
        raise EnsembleError(
            f"{found}: give a directory that `larq-ensemble pretrain` or `larq-ensemble train` "
            f"wrote{'' if also is None else f', {also}'}."
        )
    values = read_json(config_path, "restore it from a copy, or train again")
    config = RunConfig.from_json(values, config_path)
    if kind is not None and config.kind != kind:
        command = {"backbone": "pretrain", "ensemble": "train"}[kind]
        raise EnsembleError(
            f"The run {str(path)!r} is of kind {config.kind!r}, but {kind!r} is needed: give one "
            f"that `larq-ensemble {command}` wrote."
        )
    return Run(path, config)


def package_versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """The versions of packages, those that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _check_same(old: RunConfig, new: RunConfig, path: Path) -> None:
    started, wanted = _compared(old), _compared(new)
    if "requested_members" in old.ensemble:  # it ended early, with fewer members
        started["ensemble"] = dict(started["ensemble"])
        started["ensemble"]["members"] = started["ensemble"].pop("requested_members")
    for section, value in started.items():
        difference = first_difference(section, value, wanted[section])
        if difference is not None:
            name, value, other = difference
            raise EnsembleError(
                f"The run {str(path)!r} can't be resumed: it was started with {name} = {value!r}, "
                f"not {other!r}. Repeat the arguments that it was started with, or choose another "
                "`out`."
            )


def _compared(config: RunConfig) -> dict[str, Any]:
    """What has to be the same when a run is resumed; not where things are or come from."""
    values = json.loads(json.dumps(config.to_json()))
    del values["versions"]
    model = values["model"]
    if "digest" in model:  # which says more than a name
        values["model"] = {key: model[key] for key in model.keys() - {"name", "source"}}
    values["dataset"] = compared_data(values["dataset"])
    values["recipe"].pop("source", None)
    return values


def compared_data(constants: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same of data when work on them is resumed, as values of JSON.

    # Arguments
        constants: as `Dataset.constants` returns them. Of files it doesn't matter where they are.
    """
    values: dict[str, Any] = json.loads(json.dumps({**constants}))
    if "source" in values:
        source = values.pop("source")
        del values["name"]
        values |= {key: source[key] for key in ("fingerprint", "images")}
    return values
