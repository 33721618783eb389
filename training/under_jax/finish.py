"""Brings the result of `larq_ensemble.training.under_jax.run` into the run directory."""

from __future__ import annotations

import csv
import dataclasses
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

from larq_ensemble.checkpoints import Checkpoints
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_text
from larq_ensemble.runs import Run
from larq_ensemble.training.fit import create_variables, training_state
from larq_ensemble.training.job import Fitting
from larq_ensemble.training.under_jax.export import manifest_of, state_of
from larq_ensemble.training.under_jax.run import CHECKPOINT, Progress

#: What NumPy, zip, zlib and JSON raise for a damaged file.
_UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError),
    *(KeyError, TypeError, ValueError),
)


def finish(fitting: Fitting, folder: Path) -> float | None:
    """Saves a checkpoint and a log as Keras's `fit` would have left them; gives the model the
    trained weights.

    `config.json` then has the versions of JAX and the device.

    # Returns
        Steps a second; `None` if too few epochs were timed.

    # Raises
        EnsembleError: for a result that is damaged, of another training, or lacks epochs.
    """
    manifest = manifest_of(folder, fitting.run.config)
    progress = _checked(manifest, folder)
    run, model = fitting.run, fitting.model
    create_variables(model)
    variables = state_of(model)
    if {key: value.shape for key, value in progress.state.items()} != {
        key: tuple(variable.shape) for key, variable in variables.items()
    }:
        raise _of_another(folder)
    for key, variable in variables.items():
        variable.assign(progress.state[key])
    state = training_state(model)
    state["epoch"].assign(len(progress.rows))
    Checkpoints(run.checkpoints_path, **state).save(len(progress.rows))
    write_text(run.log_path, _log(progress.rows))
    versions = {**run.config.versions, **progress.device}
    Run(run.path, dataclasses.replace(run.config, versions=versions)).save_config()
    fitting.by_keras()  # no epoch is left: it restores the checkpoint
    if not progress.timed:
        return None
    return progress.timed * manifest["steps"] / progress.seconds


def _checked(manifest: dict[str, Any], folder: Path) -> Progress:
    path = folder / CHECKPOINT
    try:
        progress = Progress.load(path)
    except _UNREADABLE as error:
        raise EnsembleError(
            f"{str(path)!r} can't be read ({error}): copy it once more from where it was trained, "
            "or delete it to write the training anew."
        ) from error
    figures = {*manifest["figures"]}
    if progress.training != manifest["training"] or any(figures ^ {*r} for r in progress.rows):
        raise _of_another(folder)
    if len(progress.rows) < manifest["epochs"]:
        raise EnsembleError(
            f"{str(path)!r} has {len(progress.rows)} of {manifest['epochs']} epochs: run run.py "
            "again where JAX is, with this file beside it, until it has all."
        )
    return progress


def _of_another(folder: Path) -> EnsembleError:
    return EnsembleError(
        f"{str(folder / CHECKPOINT)!r} is not of the training in its folder: bring the file of "
        "that training."
    )


def _log(rows: list[dict[str, float]]) -> str:
    """`log.csv` as Keras's `CSVLogger` writes it."""
    text = io.StringIO()
    names = sorted(rows[0])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *names])
    for epoch, row in enumerate(rows):
        values = [int(row[name]) if name == "step" else row[name] for name in names]
        writer.writerow([epoch, *values])
    return text.getvalue()
