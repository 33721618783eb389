"""Programs of exported ensembles, and what the Python runtime answers on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from larq_ensemble.convert.export import export_file
from larq_ensemble.pretrained.samples import read_samples
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import read_ensemble

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("answers.c")
SHIPPED = ROOT / "larq_ensemble/pretrained/networks/cifar10-deploynet9-nested8.tflite"
#: All schemes of tests/data, layouts, number formats, weights and cascades.
FILES = {
    path.stem: path
    for path in sorted((ROOT / "tests/data").glob("*.tflite"))
    if path.stem not in ("branches", "stock")
}


@dataclass
class Answers:
    """What a program or the runtime answers.

    # Arguments
        logits: `[members, n, classes]`.
        probabilities: of the first m members, `[members, n, classes]`.
        counts: how many members ran adaptively, `[n]`, and
        adaptive: the probabilities then, `[n, classes]`; `None` without a cascade.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    counts: np.ndarray | None = None
    adaptive: np.ndarray | None = None


class Program:
    """The source of a file, and images for it.

    # Arguments
        tflite: the file.
        folder: for the source and what it reads and writes.
        images: uint8 `[n, height, width, channels]`.
        options: of `export_file`.
    """

    def __init__(self, tflite: Path, folder: Path, images: np.ndarray, **options: object) -> None:
        self.folder = folder
        self.report = export_file(tflite, folder, **options)  # type: ignore[arg-type]
        self.sources = [folder / "ensemble.c", DRIVER]
        self._images = images
        self._runtime = EnsembleInterpreter(tflite)
        self.words = ("images.bin", "answers.bin")
        (folder / "images.bin").write_bytes(images.astype(np.uint8).tobytes())

    def answers(self, order: str = "<") -> Answers:
        """What the program wrote on a machine with this order of bytes."""
        members, classes = self._runtime.max_members, self._runtime.classes
        values = np.fromfile(self.folder / "answers.bin", f"{order}f4").astype(np.float32)
        (self.folder / "answers.bin").unlink()
        rows = values.reshape(len(self._images), -1, classes).transpose(1, 0, 2)
        found = Answers(rows[:members][::-1], rows[members : 2 * members])
        if self._runtime.metadata.cascade is not None:
            found.counts, found.adaptive = rows[-2][:, 0].astype(int), rows[-1]
        assert len(rows) == 2 * members + 2 * (found.counts is not None)
        return found

    def expected(self) -> Answers:
        """What the Python runtime answers."""
        runtime, images = self._runtime, self._images
        probabilities = []
        for members in range(1, runtime.max_members + 1):
            runtime.members = members
            probabilities.append(runtime.predict(images))
        found = Answers(runtime.predict_logits(images), np.stack(probabilities))
        if runtime.metadata.cascade is not None:
            adaptive = runtime.predict_adaptive(images)
            found.counts, found.adaptive = adaptive.members, adaptive.probabilities
        return found


def assert_same(found: Answers, expected: Answers, tolerance: float = 1e-4) -> None:
    """The same logits to rounding, hence the same classes but where two are as good as equal.

    # Arguments
        tolerance: of a logit, as a share of the largest.
    """
    bound = tolerance * np.abs(expected.logits).max()
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=bound)
    for ours, theirs, near in (
        (found.logits, expected.logits, 2 * bound),
        (found.probabilities, expected.probabilities, 2 * tolerance),
    ):
        best = np.sort(theirs, axis=-1)
        clear = best[..., -1] - best[..., -2] > near
        assert clear.any()
        assert (ours.argmax(-1) == theirs.argmax(-1))[clear].all()
    np.testing.assert_allclose(
        found.probabilities, expected.probabilities, rtol=0, atol=50 * tolerance
    )
    if expected.counts is not None:
        same = found.counts == expected.counts
        assert same.mean() > 0.99
        assert found.adaptive is not None
        assert expected.adaptive is not None
        np.testing.assert_allclose(
            found.adaptive[same], expected.adaptive[same], rtol=0, atol=50 * tolerance
        )


def digits(tflite: Path, count: int) -> np.ndarray:
    """Handwritten digits of scikit-learn in grey RGB, 8x8 pixels, repeated to a file's size."""
    from sklearn.datasets import load_digits

    height, width, channels = read_ensemble(tflite).metadata.input_shape
    pixels = (load_digits().images[:count] * (255 / 16)).astype(np.uint8)
    pixels = np.pad(pixels, ((0, 0), (0, height - 8), (0, width - 8)), mode="wrap")
    return np.repeat(pixels[..., np.newaxis], channels, axis=-1)


def photos() -> np.ndarray:
    """The package's samples of CIFAR-100."""
    return read_samples("cifar100").images
