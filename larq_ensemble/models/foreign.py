"""Networks that are not of `larq_ensemble.network.architectures.MODELS`, for run directories.

They are a Keras model, a file that Keras saved, or `module:function`, a function that builds one.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from larq_ensemble.errors import EnsembleError, UnknownNameError, first_line
from larq_ensemble.files import file_digest, user_path
from larq_ensemble.keras import check_keras_2, keras
from larq_ensemble.models.classifier import classifier
from larq_ensemble.models.keras_files import SUFFIXES, has_bfloat16, load_keras_file
from larq_ensemble.models.limits import warn_of_limits
from larq_ensemble.network.architectures import MODELS

#: How the command line names a network that is not ours.
FORMS = ("FILE.keras", "FILE.h5", "module:function")
_OF_PYTHON = "a Keras model"


def is_foreign(network: object) -> bool:
    """Whether it names, or is, a network that is not ours.

    # Raises
        UnknownNameError: for text that is neither of `FORMS` nor a name of ours.
    """
    if not isinstance(network, str) or is_file(network) or is_function(network):
        return True
    if network not in MODELS:
        raise UnknownNameError("model", network, [*MODELS, *FORMS])
    return False


def is_function(source: str) -> bool:
    """Whether it has the form `module:function`."""
    return ":" in source and not is_file(source)


def is_file(source: str) -> bool:
    """Whether it is the name of a file that Keras saves."""
    return source.endswith(SUFFIXES)


def foreign_network(
    network: str | keras.Model, *, input_shape: tuple[int, int, int], classes: int
) -> tuple[keras.Model, dict[str, Any]]:
    """A network that is not ours, as a classifier that can be trained and saved.

    # Arguments
        network: a Keras model, whose layers will be trained; the path of a file that Keras saved;
            or `"module:function"`. A function is called without arguments, or with those of
            `input_shape` and `classes` that it has. Its module is imported, from the working
            directory too.
        input_shape: (height, width, channels) of the images.
        classes: number of logits.

    # Returns
        The network from the image to the logits, and what a run records of it: `name`,
        `input_shape`, `classes`, `source`, where it came from, and `digest`: SHA-256 of the file,
        or of the network's architecture.

    # Raises
        EnsembleError: if it can't be loaded or built, does not fit the data, or could not be
            loaded again.
    """
    if isinstance(network, keras.Model):
        model, name, source = network, network.name, _OF_PYTHON
    elif not isinstance(network, str):
        check_keras_2(model=network)
        raise EnsembleError(
            f"`model` must be a name, {', '.join(FORMS)} or a tf.keras model, got {network!r}."
        )
    elif is_file(network):
        path = user_path(network)
        if not path.is_file():
            raise EnsembleError(f"`model` {network!r} is no file: give one that Keras saved.")
        model, name, source = load_keras_file(path), path.stem, str(path.absolute())
    else:
        arguments = {"input_shape": input_shape, "classes": classes}
        model, source = _called(function_of(network), network, arguments), network
        name = network.partition(":")[2]
    digest = file_digest(source) if is_file(source) else architecture_digest(model)
    logits = classifier(model)
    given = network if isinstance(network, str) else name
    _check_fits(logits, given, input_shape, classes)
    _check_loads_again(logits, given, source)
    warn_of_limits(logits, stacklevel=2)
    record = {"name": name, "input_shape": list(input_shape), "classes": classes}
    return logits, {**record, "source": source, "digest": digest}


def function_of(source: str) -> Callable[..., Any]:
    """The function of `module:function`.

    # Raises
        EnsembleError: if the module can't be imported, or has no such function.
    """
    name, _, function = source.partition(":")
    module = import_module_of(source)
    found = getattr(module, function, None)
    if not inspect.isroutine(found):
        functions = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and not key.startswith("_")
        ]
        raise EnsembleError(
            f"`model` {source!r}: the module {name!r} has no function {function!r}, which would "
            f"build the network. Its functions: {', '.join(functions) or 'none'}."
        )
    return found


def import_module_of(source: str) -> Any:
    """The module of `module:function`, imported from the working directory or Python's path.

    # Raises
        EnsembleError: if it can't be imported.
    """
    name = source.partition(":")[0]
    directory = os.getcwd()
    if directory not in sys.path:  # as `python -m` has it; for what the module imports later, too
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the module does when it is imported
        raise EnsembleError(
            f"The network {source!r} can't be built or loaded: importing {name!r} failed with "
            f"{first_line(error)!r}{_place(error)}. Run this where that module is, such as in its "
            "folder."
        ) from error


def _called(function: Callable[..., Any], source: str, arguments: dict[str, Any]) -> keras.Model:
    parameters = inspect.signature(function).parameters
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in arguments
    ]
    if missing:
        raise EnsembleError(
            f"`model` {source!r} needs the argument {missing[0]!r}: it is called with "
            "`input_shape` and `classes`, by name, or without what it hasn't."
        )
    given = {name: value for name, value in arguments.items() if name in parameters}
    try:
        model = function(**given)
    except Exception as error:  # whatever the function does
        raise EnsembleError(
            f"`model` {source!r} failed with {first_line(error)!r}{_place(error)}."
        ) from error
    check_keras_2(model=model)
    if not isinstance(model, keras.Model):
        raise EnsembleError(
            f"`model` {source!r} must return a tf.keras model, got {type(model).__name__}."
        )
    return model


def _place(error: BaseException) -> str:
    """Where in whose code an error was raised."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f" ({frame.filename}, line {frame.lineno})"


def _check_fits(
    model: keras.Model, given: str, input_shape: tuple[int, int, int], classes: int
) -> None:
    takes, gives = tuple(model.input_shape[1:]), model.output_shape[-1]
    if takes != tuple(input_shape):
        raise EnsembleError(
            f"`model` {given!r} takes images of {takes}, but those of the data set are "
            f"{tuple(input_shape)} (height, width, channels): build it for these, or choose "
            "another `image_size`."
        )
    if gives != classes:
        raise EnsembleError(
            f"`model` {given!r} has {gives} outputs, but the data set has {classes} classes: "
            "give its last layer as many."
        )


def _check_loads_again(model: keras.Model, given: str, source: str) -> None:
    """Saves and loads it, because after the training would be too late to hear that this fails."""
    if has_bfloat16(model):
        raise EnsembleError(
            f"`model` {given!r} has weights in bfloat16, which Keras can't read from a run: build "
            "it with the policy 'mixed_bfloat16', whose weights are float32."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        try:
            keras.Model(model.inputs, model.outputs).save(path)
            load_keras_file(path, safe_mode=not is_function(source))
        except Exception as error:  # Keras raises whatever a layer raises.
            reason = next(
                (
                    f"its layer {layer.name!r} ({type(layer).__name__})"
                    for layer in model.layers
                    if not _is_known(layer)
                ),
                first_line(error),
            )
            raise EnsembleError(
                f"`model` {given!r} can't be loaded again from its run, because of "
                f"{reason.replace(str(path), 'its file')}: {CAN_BE_LOADED}."
            ) from error


CAN_BE_LOADED = (
    "each function or class of yours needs @keras.utils.register_keras_serializable() and, if it "
    "has arguments, `get_config`; a Lambda layer needs a `module:function` that builds the network"
)


def _is_known(layer: keras.layers.Layer) -> bool:
    """Whether Keras makes a layer of its configuration; of some it makes text, without an error."""
    try:
        config = keras.layers.serialize(layer)
        return isinstance(keras.layers.deserialize(config), keras.layers.Layer)
    except Exception:  # Keras raises whatever a layer raises.
        return False


def architecture_digest(model: keras.Model) -> str:
    """SHA-256 of a model's layers and their calls, whatever the layers are called.

    Keras numbers the names of layers within a process. Its own version is left out, so that a run
    can be resumed with another.
    """
    config = json.loads(model.to_json())
    config.pop("keras_version", None)
    numbers = {name: f"#{number}" for number, name in enumerate(dict.fromkeys(_names(config)))}
    text = json.dumps(_renamed(config, numbers), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _names(value: Any) -> Iterator[str]:
    """The names of all layers and models in a configuration, in its order."""
    if isinstance(value, dict):
        config = value.get("config")
        if "class_name" in value and isinstance(config, dict) and "name" in config:
            yield config["name"]
        for item in value.values():
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
