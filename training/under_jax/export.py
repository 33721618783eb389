"""Writes an epoch of a training as a StableHLO module, for `larq_ensemble.training.under_jax.run`.

manifest.json    what the module takes and returns, epochs, seed, configuration of the run; the
                 first file, by which a folder is known to be an export's
epoch.mlir       the module, as MLIR bytecode
values.npz       the initial state, and what stays as it is
data-*.npz       the images and labels, named by their digest
run.py           what runs it
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.data.datasets import Split
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import (
    check_output_folder,
    read_json,
    replacing,
    write_bytes,
    write_text,
)
from larq_ensemble.keras import keras, tf
from larq_ensemble.locks import holds_other_files
from larq_ensemble.runs import RunConfig
from larq_ensemble.training.fit import create_variables, training_state
from larq_ensemble.training.job import Fitting
from larq_ensemble.training.pipeline import (
    batch_maker,
    evaluation_batch_maker,
    steps_per_epoch,
)
from larq_ensemble.training.under_jax import run

MANIFEST = "manifest.json"
#: Images of a step of the evaluation.
_EVALUATED = 250

#: (training images, their labels, validation images, their labels, order int32 [inputs, n], seed
#: int64, number of the epoch int64) -> figures for the log by name.
Epoch = Callable[..., dict[str, tf.Tensor]]


def export(fitting: Fitting, folder: Path) -> None:
    """Writes a training to a folder.

    # Raises
        EnsembleError: for a training that XLA can't compile, or that runs on several devices, in
            bfloat16 or member by member; and if the folder can't be written, or holds another
            training or other files.
    """
    check_exportable(fitting)
    check_output_folder(folder, "jax")
    _check_takes(folder, fitting.run.config)
    create_variables(fitting.model)
    data = data_of(fitting)
    state = state_of(fitting.model)
    values = {key: value_of(variable) for key, variable in state.items()}
    function = tf.function(_with_state(epoch_of(fitting), state), jit_compile=True, autograph=False)
    signature = [
        *(tf.TensorSpec(data[name].shape, data[name].dtype, name) for name in run.DATA),
        tf.TensorSpec([fitting.inputs, len(fitting.splits.train)], tf.int32, "order"),
        tf.TensorSpec([], tf.int64, "seed"),
        tf.TensorSpec([], tf.int64, "epoch"),
    ]
    concrete = function.get_concrete_function(*signature)
    captured, fixed = _captured(concrete, state)
    try:
        module = function.experimental_get_compiler_ir(*signature)("stablehlo_serialized")
    except (tf.errors.OpError, ValueError) as error:
        raise not_compiled(str(error)) from error
    figures, _ = concrete.structured_outputs
    data_name = f"data-{_digest(data)}.npz"
    manifest = {
        "format": run.FORMAT,
        "training": _digest({"module": np.frombuffer(module, np.uint8), **values}),
        "config": comparable(fitting.run.config),
        "epochs": fitting.recipe.epochs,
        "steps": _steps(fitting),
        "seed": fitting.seed,
        "inputs": fitting.inputs,
        "images": len(fitting.splits.train),
        "data": data_name,
        "arguments": [*run.DATA, *run.DRAWN, *captured],
        "figures": {name: each.dtype.name for name, each in figures.items()},
        "state": [*state],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    if not run.data_file(folder, data_name).is_file():
        save_arrays(folder / data_name, data)
    save_arrays(folder / "values.npz", {**values, **fixed})
    write_bytes(folder / "epoch.mlir", module)
    shutil.copyfile(run.__file__, folder / "run.py")


def manifest_of(folder: Path, config: RunConfig) -> dict[str, Any]:
    """The manifest of a training that was exported.

    # Raises
        EnsembleError: if it can't be read, or is of another training than that of `config`.
    """
    manifest = read_json(folder / MANIFEST, "choose another folder, to export the training anew")
    if manifest.get("config") != comparable(config):
        raise EnsembleError(
            f"`jax` {str(folder)!r} holds another training: repeat the arguments that it was "
            "written with, or choose another folder."
        )
    return manifest


def _check_takes(folder: Path, config: RunConfig) -> None:
    if (folder / MANIFEST).exists():
        manifest_of(folder, config)
    elif folder.is_dir() and holds_other_files(folder, (MANIFEST,)):
        raise EnsembleError(
            f"`jax` {str(folder)!r} holds other files: choose a new or an empty folder."
        )


def not_compiled(said: str) -> EnsembleError:
    """The error for a training that XLA can't compile.

    # Arguments
        said: what TensorFlow said, with the graph and the way to it.
    """
    operator = re.search(r"with op (\w+)|No registered '(\w+)'", said)
    reason = said.strip().partition("\n")[0] if operator is None else operator[1] or operator[2]
    return EnsembleError(
        f"`jax` can't export this training: XLA can't compile {reason}. Train with TensorFlow, or "
        "leave out what needs it; the augmentations rand and mix do."
    )


def check_exportable(fitting: Fitting) -> None:
    """# Raises
    EnsembleError: for a training that can't be exported whatever its network is.
    """
    config = fitting.run.config
    if fitting.distribution.replicas > 1:
        raise EnsembleError("`jax` is for training on one device: leave `distribute` out.")
    if config.precision == "bfloat16" or config.ensemble.get("bfloat16"):
        raise EnsembleError("`bfloat16` is for CPUs: leave it out, or `jax`.")
    if config.ensemble.get("in_turn"):
        raise EnsembleError(
            "`jax` exports one training, and the members of this one are trained one after the "
            "other: leave `in_turn` out, or choose a scheme that trains them together."
        )


def comparable(config: RunConfig) -> dict[str, Any]:
    """What two configurations of the same training have in common, as values of JSON."""
    values = json.loads(json.dumps(config.to_json()))
    del values["versions"]
    return values


def data_of(fitting: Fitting) -> dict[str, np.ndarray]:
    """The arrays that an epoch takes, by the names of `run.DATA`."""

    def arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(split.images[np.arange(len(split))]), split.labels.astype(np.int32)

    splits = fitting.splits
    return dict(zip(run.DATA, [*arrays(splits.train), *arrays(splits.validation)]))


def state_of(model: keras.Model) -> dict[str, tf.Variable]:
    """The variables that a step changes, and the other weights of a compiled model, by key."""
    generators = training_state(model)["random"]
    states = {number: each._generator for number, each in enumerate(generators)}
    return {
        **{f"model.{i}": weight for i, weight in enumerate(model.weights)},
        **{f"optimizer.{i}": value for i, value in enumerate(model.optimizer.variables)},
        **{f"random.{number}": each.state for number, each in states.items() if each is not None},
    }


def value_of(variable: tf.Variable) -> np.ndarray:
    """The value of a variable; of a quantized one the latent weights."""
    return getattr(variable, "latent_variable", variable).numpy()


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as .npz, whole or not at all."""
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def epoch_of(fitting: Fitting) -> Epoch:
    """An epoch of Keras's `fit` as one function that XLA can compile.

    The steps and their random numbers are those of `fit`, but for the order of the images, which is
    an argument: XLA has no operator that shuffles.
    """
    model, size, dataset = fitting.model, fitting.batch_size, fitting.dataset
    images, validation = len(fitting.splits.train), len(fitting.splits.validation)
    steps = _steps(fitting)

    def epoch(
        train_images: tf.Tensor,
        train_labels: tf.Tensor,
        validation_images: tf.Tensor,
        validation_labels: tf.Tensor,
        order: tf.Tensor,
        seed: tf.Tensor,
        number: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        batch_of = batch_maker(
            lambda indices: tf.gather(train_images, indices),
            train_labels,
            dataset,
            seed=seed,
            inputs=fitting.inputs,
            **fitting.streams,
        )

        def train(first: tf.Tensor, count: int) -> None:
            indices = tf.slice(order, [0, first], [fitting.inputs, count])
            model.train_step(batch_of(number * steps + tf.cast(first // size, tf.int64), indices))

        evaluated = evaluation_batch_maker(
            lambda indices: tf.gather(validation_images, indices),
            validation_labels,
            dataset,
            inputs=fitting.inputs,
        )

        def evaluate(first: tf.Tensor, count: int) -> None:
            model.test_step(evaluated(first + tf.range(count)))

        model.reset_metrics()
        _in_batches(train, images, size, drop_remainder=fitting.recipe.drop_remainder)
        figures = {
            **model.get_metrics_result(),
            "learning_rate": tf.convert_to_tensor(model.optimizer.learning_rate),
            "step": tf.convert_to_tensor(model.optimizer.iterations),
        }
        if validation:
            model.reset_metrics()
            _in_batches(evaluate, validation, min(_EVALUATED, validation), drop_remainder=False)
            figures |= {f"val_{name}": each for name, each in model.get_metrics_result().items()}
        return figures

    return epoch


def _in_batches(
    step: Callable[[tf.Tensor, int], None], images: int, size: int, *, drop_remainder: bool
) -> None:
    """Calls `step` (first image, number of images) for each batch.

    XLA needs to know the number: the complete batches are a loop, the last one is apart.
    """

    def body(batch: tf.Tensor) -> tuple[tf.Tensor]:
        step(batch * size, size)
        return (batch + 1,)

    complete, rest = divmod(images, size)
    tf.while_loop(lambda batch: batch < complete, body, [tf.constant(0)])
    if rest and not drop_remainder:
        step(tf.constant(complete * size), rest)


def _with_state(epoch: Epoch, state: dict[str, tf.Variable]) -> Callable[..., Any]:
    """A function that also returns the values of the state after the epoch."""

    def function(*arguments: tf.Tensor) -> Any:
        figures = epoch(*arguments)
        variables = (getattr(each, "latent_variable", each) for each in state.values())
        # Lists: dictionaries would be sorted by key.
        return {name: figures[name] for name in sorted(figures)}, [
            tf.identity(variable.read_value()) for variable in variables
        ]

    return function


def _captured(
    concrete: Any, state: dict[str, tf.Variable]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The keys of what a function captures, in order, and the values of those not in the state.

    They are metrics, which an epoch resets, and constants, such as a teacher's weights.
    """
    variables = {id(each): each for each in map(_plain, [*concrete.variables, *state.values()])}
    keys = {id(_plain(variable).handle): key for key, variable in state.items()}
    by_handle = {id(variable.handle): variable for variable in variables.values()}
    captured: list[str] = []
    fixed: dict[str, np.ndarray] = {}
    for tensor in concrete.captured_inputs:
        key = keys.get(id(tensor))
        if key is None:
            key = f"fixed.{len(fixed)}"
            of_variable = tensor.dtype == tf.resource
            fixed[key] = (by_handle[id(tensor)] if of_variable else tensor).numpy()
        captured.append(key)
    return captured, fixed


def _plain(variable: Any) -> tf.Variable:
    return getattr(variable, "latent_variable", variable)


def _steps(fitting: Fitting) -> int:
    return steps_per_epoch(
        len(fitting.splits.train),
        fitting.batch_size,
        drop_remainder=fitting.recipe.drop_remainder,
    )


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:12]
