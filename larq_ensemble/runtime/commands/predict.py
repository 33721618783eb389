"""`larq-ensemble predict`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import INPUT, POSITIVE
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.runtime.budget import POWER_MODES


@click.command("predict", short_help="Classes of image files, without TensorFlow.")
@click.argument("tflite", type=INPUT, metavar="F.tflite")
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
    json_target: str | None,
) -> None:
    """Classify image files with a converted ensemble.

    Each image is cropped in the middle to the network's aspect ratio and resized.

    \b
    Examples:
      larq-ensemble predict ensemble.tflite cat.png
      larq-ensemble predict ensemble.tflite *.jpg --members 2 --top 3 --json -
      larq-ensemble predict ensemble.tflite *.jpg --adaptive
    """
    import numpy as np

    from larq_ensemble.runtime import EnsembleInterpreter
    from larq_ensemble.runtime.images import read_images

    with reporting(json_target) as report:
        ensemble = EnsembleInterpreter(
            tflite,
            members=members,
            threads=threads,
            max_latency_ms=max_latency_ms,
            power_mode=power_mode,
        )
        pixels = read_images(images, ensemble.input_shape)
        if adaptive:
            probabilities, used = ensemble.predict_adaptive(pixels)
        else:
            probabilities = ensemble.predict(pixels)
            used = np.full(len(pixels), ensemble.members)
        names = ensemble.class_names or tuple(map(str, range(ensemble.classes)))
        predictions = [
            {
                "image": image,
                "members": int(count),
                "class": int(order[0]),
                "name": names[order[0]],
                "probability": float(row[order[0]]),
                "top": [
                    {"class": int(index), "name": names[index], "probability": float(row[index])}
                    for index in order[:top]
                ],
            }
            for image, row, count in zip(images, probabilities, used, strict=True)
            for order in [(-row).argsort(kind="stable")]
        ]
        report.result = {"predictions": predictions, "members": ensemble.members}
        report.table(
            f"{tflite}, {'up to ' if adaptive else ''}{ensemble.members} of "
            f"{ensemble.max_members} members",
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
