"""`larq-ensemble predict`."""

from __future__ import annotations

import click

from larq_ensemble.reporting import json_option, reporting


@click.command("predict", short_help="Classes of image files, without TensorFlow.")
@click.argument("tflite", metavar="F.tflite")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Only the first m members answer  [default: all]",
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
    top: int,
    threads: int,
    json_target: str | None,
) -> None:
    """Classify image files with a converted ensemble.

    The middle of each image is cut out in the network's aspect ratio and resized.

    \b
    Examples:
      larq-ensemble predict ensemble.tflite cat.png
      larq-ensemble predict ensemble.tflite *.jpg --members 2 --top 3 --json -
    """
    from larq_ensemble.images import read_images
    from larq_ensemble.runtime import EnsembleInterpreter

    with reporting(json_target) as report:
        ensemble = EnsembleInterpreter(tflite, members=members, threads=threads)
        probabilities = ensemble.predict(read_images(images, ensemble.input_shape))
        names = ensemble.class_names or tuple(map(str, range(ensemble.classes)))
        predictions = [
            {
                "image": image,
                "class": int(order[0]),
                "name": names[order[0]],
                "probability": float(row[order[0]]),
                "top": [
                    {"class": int(index), "name": names[index], "probability": float(row[index])}
                    for index in order[:top]
                ],
            }
            for image, row in zip(images, probabilities, strict=True)
            for order in [(-row).argsort(kind="stable")]
        ]
        report.result = {"predictions": predictions, "members": ensemble.members}
        report.table(
            f"{tflite}, {ensemble.members} of {ensemble.max_members} members",
            ["image", "class", "probability %"],
            [
                [prediction["image"], choice["name"], 100 * choice["probability"]]
                for prediction in predictions
                for choice in prediction["top"]
            ],
        )
