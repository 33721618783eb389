"""The demo of a network of the package: it trains nothing, and needs no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from larq_ensemble import pretrained
from larq_ensemble.console.reporting import Report
from larq_ensemble.demo.files import predict_files, write_images
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import file_digest, replacing, write_bytes
from larq_ensemble.pretrained.cards import heading
from larq_ensemble.pretrained.samples import read_samples
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.cascade import (
    AdaptivePrediction,
    Cascade,
    calibrated_prediction,
    run_cascade,
)
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.metrics import top_k_accuracy

#: Images that become files, and those of the picture.
FILES, SHOWN = 5, 48


def run_trained(
    report: Report, folder: str, dataset: str, *, network: str | None, data_dir: str | None
) -> dict[str, Any]:
    """Runs an ensemble of the package on test images.

    # Arguments
        report: where it says what it does.
        folder: where everything is written.
        dataset: of the network.
        network: its name; `None`: the most accurate ensemble.
        data_dir: folder of TensorFlow Datasets, for the whole test split; `None`: the images of the
            package.

    # Returns
        The result of the command.

    # Raises
        EnsembleError: if the package has no network for the data, or the data can't be read.
    """
    chosen = _chosen(dataset, network)
    out, card = Path(folder), chosen.card
    _check_folder(out)
    images, labels, names = _test_images(dataset, data_dir)
    report.line(f"1/4  {chosen.name}: {heading(card)}")
    path = out / "ensemble.tflite"
    write_bytes(path, chosen.tflite.read_bytes())
    report.line(f"2/4  Wrote {path}, {path.stat().st_size:,} bytes")

    report.line(f"3/4  Running it on {len(labels):,} test images")
    ensemble = EnsembleInterpreter(path)
    logits = ensemble.predict_logits(images)
    top1 = [_top1(logits[:count], labels, ensemble) for count in range(1, len(logits) + 1)]
    adaptive, used = _adaptive(logits, ensemble)
    cascade = {
        "top1": top_k_accuracy(adaptive, labels, k=1),
        "mean_members": float(np.mean(used)),
    }
    single = _single(card, images, labels)
    _table(report, card, top1, cascade, single, len(labels))

    report.line("4/4  Classifying image files without TensorFlow")
    label_names = [names[label] for label in labels]
    files = write_images(out / "images", images[:FILES], label_names)
    predict_files(report, path, files, [len(logits)])
    picture = out / "predictions.png"
    with replacing(picture) as temporary:
        _picture(images[:SHOWN], label_names, adaptive, names).save(temporary)
    report.line(f"{picture} shows {min(SHOWN, len(images))} of them, wrong ones in red.")
    report.line(f"Try: larq-ensemble predict {chosen.name} PHOTO --top 3")
    return {
        "network": chosen.name,
        "images": len(labels),
        "accuracy_single": single,
        "accuracy_ensemble": top1[-1],
        "by_members": [{"members": m, "top1": value} for m, value in enumerate(top1, start=1)],
        "cascade": cascade,
        "tflite": str(path),
        "tflite_bytes": path.stat().st_size,
        "picture": str(picture),
        "run": None,
    }


def _chosen(dataset: str, name: str | None) -> pretrained.Shipped:
    networks = [pretrained.shipped(each) for each in pretrained.names()]
    of_data = [network for network in networks if network.card["data"]["name"] == dataset]
    if name is not None:
        network = pretrained.shipped(name)
        if network not in of_data:
            raise EnsembleError(
                f"`network` {name!r} is for {network.card['data']['name']!r}, not {dataset!r}: "
                "give that as `dataset`."
            )
        return network
    if not of_data:
        raise EnsembleError(
            f"No network of the package is for the `dataset` {dataset!r}. There are: "
            f"{', '.join(pretrained.names())}."
        )
    return max(
        of_data,
        key=lambda each: (
            each.card["members"] > 1,
            each.card["accuracy"]["by_members"][-1]["top1"],
        ),
    )


def _check_folder(out: Path) -> None:
    """Raises if `out` holds an ensemble that the demo did not write."""
    path = out / "ensemble.tflite"
    ours = {
        pretrained.shipped(name).card["files"]["tflite"]["sha256"] for name in pretrained.names()
    }
    if path.is_file() and file_digest(path) not in ours:
        raise EnsembleError(
            f"`out` {str(out)!r} holds ensemble.tflite, which is not of a demo: give a new folder."
        )


def _test_images(
    dataset: str, data_dir: str | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images, labels and the names of classes."""
    if data_dir is None:
        samples = read_samples(dataset)
        return samples.images, samples.labels, samples.class_names
    from larq_ensemble.data.datasets import DATASETS, DataOptions

    data = DATASETS[dataset]
    test = DataOptions(data_dir).load(data, 0).test
    return np.asarray(test.images), np.asarray(test.labels), data.class_names


def _top1(logits: np.ndarray, labels: np.ndarray, file: EnsembleInterpreter) -> float:
    return top_k_accuracy(combine(logits, file.scheme, file.weights), labels, k=1)


def _adaptive(logits: np.ndarray, file: EnsembleInterpreter) -> AdaptivePrediction:
    """What the cascade in the file predicts, from the logits of all members."""
    data = file.metadata
    return run_cascade(
        data.cascade or Cascade((None,) * (data.members - 1)),
        lambda member, images: logits[member, images],
        lambda first: calibrated_prediction(first, data.scheme, data.weights, data.temperatures),
        images=logits.shape[1],
        classes=data.classes,
        members=data.members,
    )


def _single(card: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> float | None:
    """The accuracy of the single network that the ensemble was built from, if it is here."""
    for name in pretrained.names():
        other = pretrained.shipped(name)
        if other.card["run_hash"] == card["ensemble"].get("backbone"):
            file = EnsembleInterpreter(other.tflite)
            return top_k_accuracy(file.predict(images), labels, k=1)
    return None


def _table(
    report: Report,
    card: dict[str, Any],
    top1: Sequence[float],
    cascade: dict[str, float],
    single: float | None,
    images: int,
) -> None:
    accuracy = card["accuracy"]
    rows: list[list[Any]] = [
        [f"first {row['members']} of {card['members']} members", row["members"], here, row["top1"]]
        for row, here in zip(accuracy["by_members"], top1)
    ]
    if single is not None:
        rows.insert(0, ["single network", 1, single, None])
    if accuracy["cascade"] is not None:
        rows.append(["as many as an image needs", cascade["mean_members"], cascade["top1"], None])
    report.table(
        f"Top-1 of {images:,} test images here, and of {accuracy['images']:,} on the card",
        ["network", "members", "top-1 % here", "top-1 % on the card"],
        rows,
    )
    share = top1[-1] / 100
    error = 100 * math.sqrt(share * (1 - share) / images)
    advice = "" if images == accuracy["images"] else ", so compare by the card"
    report.line(f"On {images:,} images the standard error is {error:.1f} points{advice}.")


def _picture(
    images: np.ndarray, labels: Sequence[str], probabilities: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """Images in rows of 8, each with its predicted class, and with the true one if they differ."""
    side, space, columns = 96, 30, 8
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + space + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, label, row) in enumerate(zip(images, labels, probabilities)):
        x, y = (side + 8) * (index % columns) + 4, (side + space + 8) * (index // columns) + 4
        predicted = names[int(row.argmax())]
        color = "darkgreen" if predicted == label else "firebrick"
        draw.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), fill=color)
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + side + 3), f"{predicted} {100 * row.max():.0f} %", fill=color)
        if predicted != label:
            draw.text((x, y + side + 16), f"({label})", fill="black")
    return sheet
