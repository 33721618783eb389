"""`larq-ensemble predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from larq_ensemble.console.options import INPUT, POSITIVE, TFLITE
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.runtime.budget import POWER_MODES
from larq_ensemble.runtime.commands.options import backend_option

if TYPE_CHECKING:
    import numpy as np


@click.command("predict", short_help="Classes of image files, without TensorFlow.")
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.argument("images", type=INPUT, nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Run only the first m members  [default: all]",
)
@click.option(
    "--max-latency-ms",
    type=POSITIVE,
    metavar="T",
    help="As many members as run within T ms per image on this device.",
)
@click.option("--power-mode", type=click.Choice(list(POWER_MODES)), help="1, half or all members.")
@click.option(
    "--adaptive",
    is_flag=True,
    help="Run members one by one for each image until the prediction is confident.",
)
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Classes shown.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the interpreter."
)
@backend_option
@json_option
def command(
    tflite: str,
    images: tuple[str, ...],
    members: int | None,
    max_latency_ms: float | None,
    power_mode: str | None,
    adaptive: bool,
    top: int,
    threads: int,
    backend: str | None,
    json_target: str | None,
) -> None:
    """Classify image files with a converted ensemble.

    Each image is cropped in the middle to the network's aspect ratio and resized. Of files that
    can't be read each gets a warning, and an entry under "errors" of the JSON; the others are
    answered, and the exit code is 1.

    \b
    Examples:
      larq-ensemble predict ensemble.tflite cat.png
      larq-ensemble predict ensemble.tflite *.jpg --members 2 --top 3 --json -
      larq-ensemble predict ensemble.tflite *.jpg --adaptive
    """
    import numpy as np

    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.runtime import EnsembleInterpreter

    with reporting(json_target) as report:
        ensemble = EnsembleInterpreter(
            tflite,
            members=members,
            threads=threads,
            max_latency_ms=max_latency_ms,
            power_mode=power_mode,
            backend=backend,
        )
        pixels, errors = _read(images, ensemble.input_shape)
        if adaptive:
            probabilities, used = ensemble.predict_adaptive(pixels)
        else:
            probabilities = ensemble.predict(pixels)
            used = np.full(len(pixels), ensemble.members)
        names = ensemble.class_names or tuple(map(str, range(ensemble.classes)))
        answered = [image for image in images if image not in errors]
        predictions = [
            {"image": image, "members": int(count), **_answer(row, names, top)}
            for image, row, count in zip(answered, probabilities, used, strict=True)
        ]
        report.result = {
            "predictions": predictions,
            "members": ensemble.members,
            "backend": ensemble.backend,
            "kernel": ensemble.kernel,
        }
        if errors:
            report.result["errors"] = [
                {"image": image, "error": error} for image, error in errors.items()
            ]
        report.table(
            f"{tflite}, {'up to ' if adaptive else ''}{ensemble.members} of "
            f"{ensemble.max_members} members, on {ensemble.backend} ({ensemble.kernel})",
            ["image", "members", "class", "probability %"],
            [
                [
                    prediction["image"],
                    prediction["members"],
                    choice["name"],
                    100 * choice["probability"],
                ]
                for prediction in predictions
                for choice in prediction["top"]
            ],
        )
    if errors:
        raise EnsembleError(
            f"{len(errors)} of {len(images)} image files can't be read: the warnings above say why."
        )


def _answer(probabilities: np.ndarray, names: Sequence[str], top: int) -> dict[str, Any]:
    """The likeliest class of an image, and under `"top"` the likeliest ones."""
    order = (-probabilities).argsort(kind="stable")
    choices = [
        {"class": int(index), "name": names[index], "probability": float(probabilities[index])}
        for index in order[:top]
    ]
    return {**choices[0], "top": choices}


def _read(
    paths: tuple[str, ...], input_shape: tuple[int, int, int]
) -> tuple[np.ndarray, dict[str, str]]:
    """The images that can be read, and why the other files can't, by path.

    # Raises
        EnsembleError: if none can be read.
    """
    import warnings

    import numpy as np

    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.runtime.images import check_channels, read_image

    check_channels(input_shape)
    images, errors = [], {}
    for path in paths:
        try:
            images.append(read_image(path, input_shape))
        except EnsembleError as error:
            if len(paths) == 1:
                raise
            errors[path] = str(error)
            warnings.warn(str(error), stacklevel=1)
    if not images:
        raise EnsembleError("None of the image files can be read: the warnings above say why.")
    return np.stack(images), errors
