"""Image files of a demo, and their classes by the command that a device has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from larq_ensemble.console.reporting import Report
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import replacing


def write_images(folder: Path, images: Iterable[np.ndarray], labels: Iterable[object]) -> list[str]:
    """Writes images, uint8 [height, width, channels], as PNG; returns their paths."""
    from PIL import Image

    files = []
    for index, (image, label) in enumerate(zip(images, labels)):
        file = folder / f"test{index}-label{label}.png"
        with replacing(file) as temporary:
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(temporary)
        files.append(str(file))
    return files


def predict_files(
    report: Report, tflite: Path, files: Sequence[str], counts: Iterable[int]
) -> None:
    """Classifies image files in processes without TensorFlow, by the first m members each."""
    for members in counts:
        program = [sys.executable, "-m", "larq_ensemble", "predict"]
        done = subprocess.run(
            [*program, str(tflite), *files, "--members", str(members)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EnsembleError(f"`larq-ensemble predict` failed: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            report.line(line)
