"""Running a converted ensemble with a changing number of members, without TensorFlow.

```python
ensemble = EnsembleInterpreter("ensemble.tflite", members=3)
ensemble.predict(images)  # uint8 [n, height, width, channels] -> float32 [n, classes]
ensemble.members = 1  # low battery: a third of the work, from the next call on
ensemble.set_budget(max_latency_ms=20)  # as many members as this device runs in 20 ms
ensemble.predict(images, adaptive=True)  # as many members as each image needs
```

Batches run image by image, because the graphs in the file take one image.

Threads may share an interpreter: they take turns, graph by graph. Interpreters of their own run
side by side, because back ends release Python's global lock while they run. An interpreter can be
copied and pickled, and used after a fork: the copy runs the file as it was read, with the same
settings.
"""

from __future__ import annotations

import os
import time
import warnings

import numpy as np

from larq_ensemble.errors import EnsembleError, check_whole
from larq_ensemble.progress import tracked
from larq_ensemble.runtime.budget import check_latency, members_for_latency, members_for_power
from larq_ensemble.runtime.cascade import (
    AdaptivePrediction,
    Cascade,
    calibrated_prediction,
    run_cascade,
)
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.runtime.members import open_interpreter
from larq_ensemble.runtime.metadata import EnsembleMetadata
from larq_ensemble.runtime.pixels import checked_pixels
from larq_ensemble.runtime.threads import bounded_threads


class EnsembleInterpreter:
    """Runs an ensemble file with LiteRT or with Larq Compute Engine (LCE).

    # Arguments
        path: the `.tflite` file that `larq-ensemble convert` wrote, or the name of a network of
            `larq_ensemble.pretrained`, if nothing is at this path.
        members: run the first m members of the file; `None`: all.
        threads: number of threads of a convolution; no more than this process has processors.
        max_latency_ms, power_mode: instead of `members`, as for `set_budget`.
        backend: `"litert"` or `"lce"`; `None`: LiteRT if it is installed and takes the file, else
            LCE.
        kernel: of binary convolutions. LiteRT's are `"delegate"`, this package's own C code, and
            `"builtin"`, operators of LiteRT into which those of LCE are rewritten when the file is
            opened; LCE's are `"indirect"` and `"default"`. `None`: the fastest that is there, which
            is measured on a blank image.

    LCE's two kernels give equal logits. Those of LiteRT, and the back ends, differ by rounding,
    some 1e-6 of a logit; where rounding flips a sign inside the network, by more.

    # Raises
        EnsembleError: if the file is missing, damaged or no ensemble, if an argument is out of
            range, or if the back end isn't installed or can't be loaded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        members: int | None = None,
        threads: int = 1,
        *,
        max_latency_ms: float | None = None,
        power_mode: str | None = None,
        backend: str | None = None,
        kernel: str | None = None,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise EnsembleError(
                "`path` must be that of a .tflite file, or the name of a network that comes with "
                f"the package, got {path!r}."
            )
        threads = bounded_threads(threads)
        file = read_ensemble(path)
        self._metadata = file.metadata
        self._interpreter = open_interpreter(file, threads, backend, kernel)
        self.set_budget(members=members, max_latency_ms=max_latency_ms, power_mode=power_mode)

    @property
    def metadata(self) -> EnsembleMetadata:
        """The file's metadata."""
        return self._metadata

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of an image."""
        return self._metadata.input_shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._metadata.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class; `None` if the file has no names."""
        return self._metadata.class_names

    @property
    def scheme(self) -> str:
        """The scheme, a name of `larq_ensemble.runtime.combination.COMBINATIONS`."""
        return self._metadata.scheme

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weight of each member in the combination; `None`: all equal."""
        return self._metadata.weights

    @property
    def backend(self) -> str:
        """What runs the file, `"litert"` or `"lce"`."""
        return self._interpreter.backend.name

    @property
    def kernel(self) -> str:
        """The kernel of binary convolutions in use: see the argument."""
        return self._interpreter.kernel

    @property
    def threads(self) -> int:
        """Number of threads of a convolution."""
        return self._interpreter.threads

    @property
    def max_members(self) -> int:
        """Number of members in the file."""
        return self._metadata.members

    @property
    def members(self) -> int:
        """How many of the first members run; can be set between calls."""
        return self._members

    @members.setter
    def members(self, members: int) -> None:
        self._members = self._checked_members(members)

    def set_budget(
        self,
        *,
        members: int | None = None,
        max_latency_ms: float | None = None,
        power_mode: str | None = None,
    ) -> None:
        """Sets the number of members to run, from the next call on.

        Without an argument all members run.

        # Arguments
            members: the number itself.
            max_latency_ms: as many members as run within this time per image, at least one;
                infinity: all. It measures the time of a member now, on this device, and warns if
                one takes longer.
            power_mode: a name of `larq_ensemble.runtime.budget.POWER_MODES`.

        # Raises
            EnsembleError: for more than one argument, or a value out of range.
        """
        given = [value for value in (members, max_latency_ms, power_mode) if value is not None]
        if len(given) > 1:
            raise EnsembleError(
                "Give one of `members`, `max_latency_ms` and `power_mode`. "
                f"Received: {members!r}, {max_latency_ms!r} and {power_mode!r}."
            )
        if power_mode is not None:
            members = members_for_power(power_mode, self.max_members)
        elif max_latency_ms is not None:
            check_latency(max_latency_ms)  # before measuring
            image_ms, member_ms = self._measured_ms()
            members = members_for_latency(max_latency_ms, member_ms, self.max_members, image_ms)
            if not self._interpreter.one_by_one:
                members = self.max_members
            if image_ms + member_ms > max_latency_ms:
                warnings.warn(
                    f"One run takes {image_ms + member_ms:.3g} ms here, more than the "
                    f"{max_latency_ms:.3g} ms of `max_latency_ms`.",
                    stacklevel=2,
                )
        self.members = self.max_members if members is None else members

    def measure_latency_ms(self, repetitions: int = 5) -> float:
        """Measures the time of one member for one image, with the trunk: the median, in ms.

        The first run, which packs the filters, is not counted. In the layout `"branches"` it is
        the time of all members.
        """
        return sum(self._measured_ms(repetitions))

    def _measured_ms(self, repetitions: int = 5) -> tuple[float, float]:
        """The median times of the trunk and of one member for one image, in ms."""
        image = np.zeros((1, *self.input_shape), np.float32)
        times = np.empty((repetitions + 1, 2))
        for i in range(repetitions + 1):
            start = time.perf_counter()
            member_logits = self._interpreter.start(image)
            between = time.perf_counter()
            member_logits(0)
            times[i] = between - start, time.perf_counter() - between
        image_ms, member_ms = 1e3 * np.median(times[1:], axis=0)
        return float(image_ms), float(member_ms)

    def predict(self, images: np.ndarray, *, adaptive: bool = False) -> np.ndarray:
        """Predicts class probabilities, with the members combined as the scheme says.

        The probabilities are calibrated if the file has been (`larq-ensemble calibrate`).

        # Arguments
            images: `[n, height, width, channels]`, or one image `[height, width, channels]`, with
                raw pixels 0..255: uint8, or other integers or floats in that range.
            adaptive: run members one by one for each image until the prediction is confident, at
                most `members` of them. The file must have been calibrated.

        # Returns
            float32 `[n, classes]`, rows sum to 1; n = 1 for one image.

        # Raises
            EnsembleError: for images of another shape, type or range, or if `adaptive` is not
                possible with this file.
        """
        if adaptive:
            return self.predict_adaptive(images).probabilities
        return self._predicted(self.predict_logits(images))

    def predict_adaptive(self, images: np.ndarray) -> AdaptivePrediction:
        """As `predict` with `adaptive`; also returns how many members ran for each image.

        # Arguments
            images: as for `predict`.

        # Returns
            `probabilities`, float32 `[n, classes]`, and `members`, int `[n]`.

        # Raises
            EnsembleError: as `predict`.
        """
        cascade = self.metadata.cascade
        if cascade is None:
            raise EnsembleError(
                "The file has no thresholds for adaptive prediction: write them with "
                "`larq-ensemble calibrate`."
            )
        if not self._interpreter.one_by_one:
            raise EnsembleError(
                "A file with the layout 'branches' runs all members at once, so adaptive "
                "prediction saves nothing: convert the run with another layout."
            )
        images = self._checked_images(images)
        most = self.members  # for the whole call, even if another thread sets them meanwhile
        answer = AdaptivePrediction(
            np.empty((len(images), self.classes), np.float32), np.zeros(len(images), int)
        )
        for i, image in enumerate(tracked(images, "running the file", unit="image")):
            probabilities, members = self._run_cascade(image, cascade, most)
            answer.probabilities[i], answer.members[i] = probabilities[0], members[0]
        return answer

    def _run_cascade(self, image: np.ndarray, cascade: Cascade, most: int) -> AdaptivePrediction:
        """Runs the cascade on one checked image, with `most` members at most."""
        member_logits = self._interpreter.start(_as_input(image))
        return run_cascade(
            cascade,
            lambda member, _: member_logits(member),
            self._predicted,
            images=1,
            classes=self.classes,
            members=most,
        )

    def predict_logits(self, images: np.ndarray, members: int | None = None) -> np.ndarray:
        """Computes the logits of each member.

        # Arguments
            images: as for `predict`.
            members: number of members, the first ones; `None`: `self.members`.

        # Returns
            float32 `[members, n, classes]`.

        # Raises
            EnsembleError: as `predict`, or if `members` is out of range.
        """
        members = self.members if members is None else self._checked_members(members)
        images = self._checked_images(images)
        logits = np.empty((members, len(images), self.classes), np.float32)
        for i, image in enumerate(tracked(images, "running the file", unit="image")):
            logits[:, i] = self._interpreter.logits(_as_input(image), range(members))
        return logits

    def _predicted(self, logits: np.ndarray) -> np.ndarray:
        return calibrated_prediction(logits, self.scheme, self.weights, self.metadata.temperatures)

    def _checked_members(self, members: int) -> int:
        return check_whole("members", members, 1, self.max_members)

    def _checked_images(self, images: np.ndarray) -> np.ndarray:
        return checked_pixels(images, self.input_shape, stacklevel=5)


def _as_input(image: np.ndarray) -> np.ndarray:
    """A checked image as an input of a graph: float32 `[1, height, width, channels]`."""
    return image[np.newaxis].astype(np.float32)
