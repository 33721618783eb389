"""The 15 corruptions of CIFAR-10-C and CIFAR-100-C, made here from their published definitions.

```python
shifted = corrupt(images, "fog", severity=3, seed=0)
```

The parameters of the five severities are those of CIFAR-C, for images of 32x32. For larger images
all lengths in pixels are multiplied by (the shorter side) / 32, so a corruption looks the same from
afar; smaller images have those of 32x32, because less than a pixel changes nothing. What is not a
length stays: the noise of a pixel, the quality of a JPEG.

Where they differ from the files of CIFAR-C:

- the random numbers are others;
- the photographs of frost are a texture that is computed;
- values are rounded, not cut off, to whole numbers.

Kinds without random numbers are what the program of CIFAR-C makes, to a level of 255
(`tests/larq_ensemble/data/cifar_c.npz`).

Needs SciPy, which comes with the extra `calibrate`, but no TensorFlow.

# References
    - Hendrycks and Dietterich 2019, [Benchmarking neural network robustness to common corruptions
      and perturbations](https://arxiv.org/abs/1903.12261); parameters:
      [make_cifar_c.py](https://github.com/hendrycks/robustness).
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from larq_ensemble.data.splits import ImageArray
from larq_ensemble.errors import EnsembleError, UnknownNameError, check_seed, check_whole
from larq_ensemble.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)
GROUPS = ("noise", "blur", "weather", "digital")
#: Pixels: the side of the images that the parameters are for.
_SIDE = 32
#: Values that are corrupted at a time.
_CHUNK = 1 << 22
#: Red, green and blue in the brightness of a colour (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

#: Changes images, floats from 0 to 1 `[n, h, w, c]`, by the parameters of a severity. What it
#: draws of one kind it draws from one generator, the images one after the other: so an image is
#: corrupted alike whatever follows it.
Function = Callable[[np.ndarray, Any, "Draws"], np.ndarray]
Draws = Sequence[np.random.Generator]


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption.

    # Arguments
        group: one of `GROUPS`.
        parameters: of the function, for each of `SEVERITIES`.
        function: see `Function`.
    """

    group: str
    parameters: tuple[Any, ...]
    function: Function


#: The kinds by the names of CIFAR-C's files, in the order of its paper.
CORRUPTIONS: Registry[Corruption] = Registry("corruption")


def corrupt(images: ImageArray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupted copies of images.

    # Arguments
        images: uint8 `[n, h, w, c]` of 1 or 3 channels.
        kind: a name in `CORRUPTIONS`, such as `"gaussian_noise"`.
        severity: from 1 to 5.
        seed: of what is drawn. An image gets the same corruption whatever images follow it, and at
            every severity what is drawn is the same.

    # Returns
        uint8 `[n, h, w, c]`.

    # Raises
        UnknownNameError: for an unknown kind.
        EnsembleError: for other images or another severity.
    """
    corruption = CORRUPTIONS[kind]
    severity = check_whole("severity", severity, SEVERITIES[0], SEVERITIES[-1])
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[3] not in (1, 3):
        raise EnsembleError(
            "`images` must be uint8 [n, height, width, channels] with 1 or 3 channels to be "
            f"corrupted. Received: {images.dtype} of shape {list(images.shape)}."
        )
    random = np.random.default_rng([check_seed(seed), zlib.crc32(kind.encode())]).spawn(3)
    changed = np.empty(images.shape, np.uint8)
    for part in _parts(images.shape):
        pixels = np.asarray(images[part], np.float32) / 255
        pixels = corruption.function(pixels, corruption.parameters[severity - 1], random)
        changed[part] = np.rint(np.clip(pixels, 0, 1) * 255)
    return changed


def kinds_named(names: Iterable[str]) -> list[str]:
    """The kinds that names stand for, in the order of the paper and each once.

    # Arguments
        names: kinds, groups of them (`"noise"`, `"blur"`, `"weather"`, `"digital"`), or `"all"`.

    # Raises
        UnknownNameError: for any other.
    """
    wanted = set(names)
    known = {"all", *GROUPS, *CORRUPTIONS}
    for name in sorted(wanted - known):
        raise UnknownNameError("`shift`", name, known)
    return [
        kind for kind, corruption in CORRUPTIONS.items() if wanted & {"all", kind, corruption.group}
    ]


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    together = max(1, _CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], together):
        yield slice(start, start + together)


def _scale(pixels: np.ndarray) -> float:
    """What lengths are multiplied by."""
    return max(1.0, min(pixels.shape[1:3]) / _SIDE)


def _register(group: str, *parameters: Any) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        CORRUPTIONS.register(function.__name__, Corruption(group, parameters, function))
        return function

    return register


# Noise


@_register("noise", 0.04, 0.06, 0.08, 0.09, 0.10)
def gaussian_noise(pixels: np.ndarray, deviation: float, random: Draws) -> np.ndarray:
    r"""Low light: \\( x + N(0, \sigma^2) \\), of each value."""
    return pixels + deviation * random[0].standard_normal(pixels.shape, np.float32)


@_register("noise", 500, 250, 100, 75, 50)
def shot_noise(pixels: np.ndarray, photons: float, random: Draws) -> np.ndarray:
    r"""Few photons: \\( \mathrm{Poisson}(k x) / k \\), of each value."""
    return random[0].poisson(pixels * photons) / photons


@_register("noise", 0.01, 0.02, 0.03, 0.05, 0.07)
def impulse_noise(pixels: np.ndarray, share: float, random: Draws) -> np.ndarray:
    """Bit errors: a share of the values is 0 or 1, half of it each."""
    drawn = random[0].random(pixels.shape, np.float32)
    return np.where(drawn < share, drawn < share / 2, pixels)


# Blur


@_register("blur", (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
def defocus_blur(pixels: np.ndarray, lens: tuple[float, float], random: Draws) -> np.ndarray:
    """Out of focus: the mean over a disk of a radius, its edge smoothed by a Gaussian."""
    from scipy.ndimage import gaussian_filter
    from scipy.signal import fftconvolve

    scale = _scale(pixels)
    radius, smoothing = (scale * length for length in lens)
    margin = round(scale)
    reach = math.floor(radius) + margin
    squares = np.arange(-reach, reach + 1) ** 2
    disk = (squares + squares[:, np.newaxis] <= radius**2).astype(np.float32)
    kernel = gaussian_filter(disk / disk.sum(), smoothing, radius=margin, mode="constant")
    sides = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    framed = np.pad(pixels, sides, mode="reflect")
    return fftconvolve(framed, kernel[np.newaxis, ..., np.newaxis], mode="valid", axes=(1, 2))


@_register("blur", (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
def glass_blur(pixels: np.ndarray, glass: tuple[float, int, int], random: Draws) -> np.ndarray:
    """Frosted glass: each pixel takes the colour of one near it, between two Gaussian blurs."""
    scale = _scale(pixels)
    deviation, reach, times = scale * glass[0], round(scale * glass[1]), glass[2]
    pixels = _gaussian(pixels, deviation)
    count, height, width, _ = pixels.shape
    steps = random[0].integers(-reach, reach, (count, times, height, width, 2), np.int16)
    every = np.arange(count)
    for time in range(times):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                rows, columns = (steps[:, time, row, column] + (row, column)).T
                pixels[:, row, column] = pixels[every, rows, columns]
    return _gaussian(pixels, deviation)


@_register("blur", (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
def motion_blur(pixels: np.ndarray, motion: tuple[float, float], random: Draws) -> np.ndarray:
    """A moving camera: half a Gaussian along a line, at -45 to 45 degrees."""
    angles = random[0].uniform(-45, 45, len(pixels))
    return _along_lines(pixels, angles, *motion)


@_register("blur", 1.06, 1.11, 1.16, 1.21, 1.26)
def zoom_blur(pixels: np.ndarray, end: float, random: Draws) -> np.ndarray:
    """Zooming in: the mean of the image and of its magnifications by 1, 1.01, 1.02, ..."""
    factors = np.arange(1, end, 0.01)  # some have their end, as in CIFAR-C
    total = pixels.copy()
    for factor in factors:
        total += _magnified(pixels, factor)
    return total / (len(factors) + 1)


# Weather


@_register(
    "weather",
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
def snow(pixels: np.ndarray, weather: tuple[float, ...], random: Draws) -> np.ndarray:
    """Flakes, which are noise above a threshold that falls, over an image that gets whiter."""
    mean, deviation, size, threshold, radius, blur, visible = weather
    drawn = random[0].standard_normal((*pixels.shape[:3], 1), np.float32)
    flakes = _magnified(mean + deviation * drawn, size * _scale(pixels))
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _along_lines(flakes, random[1].uniform(-135, -45, len(pixels)), radius, blur)
    white = np.maximum(pixels, 1.5 * _grey(pixels) + 0.5)
    return visible * pixels + (1 - visible) * white + flakes + flakes[:, ::-1, ::-1]


@_register("weather", (1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
def frost(pixels: np.ndarray, mix: tuple[float, float], random: Draws) -> np.ndarray:
    """Ice on the lens: a sum of the image and a texture of bluish crystals, for each its own.

    Its brightness, contrast and colour are, on average, those of the photographs of CIFAR-C.
    """
    count, height, width, channels = pixels.shape
    large, fine = (_plasma(random[index], count, height, width, 1.2) for index in (0, 1))
    ridges = 1 - np.abs(2 * fine - 1)  # bright lines where the heights are a half
    brightness = random[2].uniform(0.4, 0.8, (count, 1, 1))
    ice = np.clip(brightness + 0.2 * (large - 0.5) + 0.3 * (ridges**2 - 0.4), 0, 1)
    color = np.array([0.89, 1.02, 1.09] if channels == 3 else [1.0], np.float32)
    return mix[0] * pixels + mix[1] * ice[..., np.newaxis] * color


@_register("weather", (0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
def fog(pixels: np.ndarray, weather: tuple[float, float], random: Draws) -> np.ndarray:
    """A plasma fractal on top, all scaled back to the brightest value of the image."""
    density, roughness = weather
    count, height, width, _ = pixels.shape
    mist = _plasma(random[0], count, height, width, roughness)[..., np.newaxis]
    brightest = pixels.max(axis=(1, 2, 3), keepdims=True)
    return (pixels + density * mist) * brightest / (brightest + density)


@_register("weather", 0.05, 0.1, 0.15, 0.2, 0.3)
def brightness(pixels: np.ndarray, more: float, random: Draws) -> np.ndarray:
    """The value of HSV, the largest of red, green and blue, is so much more, at most 1."""
    value = pixels.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.where(value > 0, pixels * brighter / np.maximum(value, 1 / 255), brighter)


# Digital


@_register("digital", 0.75, 0.5, 0.4, 0.3, 0.15)
def contrast(pixels: np.ndarray, left: float, random: Draws) -> np.ndarray:
    """A share of each value's distance from the mean of its channel."""
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    return mean + left * (pixels - mean)


@_register(
    "digital",
    (0, 0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
)
def elastic_transform(
    pixels: np.ndarray, bend: tuple[float, float, float], random: Draws
) -> np.ndarray:
    """An affine map that moves three points at random, and random shifts that are smoothed.

    The parameters are shares of the shorter side: the shifts, their smoothing, and how far the
    points move. Of 32x32, severity 2 moves pixels less than 1 does; so it is in CIFAR-C.
    """
    from scipy.ndimage import gaussian_filter

    count, height, width, _ = pixels.shape
    side = min(height, width)
    shift, smoothing, moved = (side * share for share in bend)
    third, middle = side // 3, np.array([height // 2, width // 2])
    points = middle + np.array([[third, third], [third, -third], [-third, -third]])
    targets = points + random[0].uniform(-moved, moved, (count, 3, 2))
    # The place in the image of each place in the result: the map takes targets to points.
    back = np.linalg.solve(
        np.concatenate([targets, np.ones((count, 3, 1))], axis=2),
        np.broadcast_to(points.astype(float), (count, 3, 2)),
    )
    drawn = random[1].uniform(-1, 1, (count, height, width, 2)).astype(np.float32)
    shifts = shift * gaussian_filter(drawn, (0, smoothing, smoothing, 0), truncate=3)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    moved_to = (grid.reshape(-1, 2) @ back[:, :2] + back[:, 2:]).reshape(shifts.shape)
    return _interpolated(_interpolated(pixels, moved_to), grid + shifts)


@_register("digital", 0.95, 0.9, 0.85, 0.75, 0.65)
def pixelate(pixels: np.ndarray, share: float, random: Draws) -> np.ndarray:
    """Box-resampled to a share of the size and back."""
    height, width = pixels.shape[1:3]
    small = max(1, int(width * share)), max(1, int(height * share))

    def resized(image: Image.Image) -> Image.Image:
        box = Image.Resampling.BOX
        return image.resize(small, box).resize((width, height), box)

    return _each(pixels, resized)


@_register("digital", 80, 65, 58, 50, 40)
def jpeg_compression(pixels: np.ndarray, quality: int, random: Draws) -> np.ndarray:
    """Written as a JPEG of a quality and read."""

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(pixels, compressed)


# What they share


def _each(pixels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """The images changed one by one by Pillow."""
    grey = pixels.shape[3] == 1
    whole = np.rint(pixels * 255).astype(np.uint8)
    images = (Image.fromarray(image[..., 0] if grey else image) for image in whole)
    changed = np.stack([np.asarray(change(image)) for image in images])
    return changed.reshape(pixels.shape).astype(np.float32) / 255


def _grey(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.shape[3] == 1 else (pixels @ _LUMA)[..., np.newaxis]


def _gaussian(pixels: np.ndarray, deviation: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(pixels, (0, deviation, deviation, 0), mode="nearest")


def _along_lines(
    pixels: np.ndarray, degrees: np.ndarray, radius: float, deviation: float
) -> np.ndarray:
    """The mean along a line that starts at each pixel, weighted by half a Gaussian.

    # Arguments
        pixels: floats `[n, h, w, c]`.
        degrees: of the line in each image, `[n]`; 0: to the right, 90: down.
        radius, deviation: pixels of an image of 32x32; the line is 2 radii long.
    """
    scale = _scale(pixels)
    steps = np.arange(2 * math.ceil(scale * radius) + 1)
    weights = np.exp(-((steps / (scale * deviation)) ** 2) / 2)
    weights = (weights / weights.sum()).astype(np.float32)
    angles = np.radians(degrees)[:, np.newaxis]
    down, right = (np.rint(steps * turn(angles)).astype(int) for turn in (np.sin, np.cos))
    _, height, width, _ = pixels.shape
    every = np.arange(len(pixels))[:, np.newaxis, np.newaxis]
    blurred = np.zeros_like(pixels)
    for step, weight in enumerate(weights):
        if weight < 1e-6:  # less than a 255th of what is rounded
            break
        rows = np.clip(np.arange(height) + down[:, step, np.newaxis], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, step, np.newaxis], 0, width - 1)
        blurred += weight * pixels[every, rows[:, :, np.newaxis], columns[:, np.newaxis]]
    return blurred


def _magnified(pixels: np.ndarray, factor: float) -> np.ndarray:
    """The middle of the images, enlarged by a factor of at least 1 with linear interpolation.

    As in CIFAR-C, whole pixels are cut out, so for a small factor it is not quite the middle.
    """
    if factor == 1:
        return pixels
    rows, columns = (_magnifying(side, factor) for side in pixels.shape[1:3])
    count, height, width, channels = pixels.shape
    tall = (rows @ pixels.reshape(count, height, -1)).reshape(pixels.shape)
    return (columns @ tall.reshape(-1, width, channels)).reshape(pixels.shape)


def _magnifying(side: int, factor: float) -> np.ndarray:
    """What of each pixel of a row goes into each of the magnified row, float32 `[side, side]`."""
    cut = math.ceil(side / factor)
    size = round(cut * factor)
    start, trim = (side - cut) // 2, (size - side) // 2
    places = start + (trim + np.arange(side)) * (cut - 1) / max(size - 1, 1)
    return np.maximum(0, 1 - np.abs(places[:, np.newaxis] - np.arange(side))).astype(np.float32)


def _interpolated(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values between pixels, linear in both directions; beyond its edges an image is mirrored.

    # Arguments
        pixels: floats `[n, h, w, c]`.
        places: (row, column), floats `[n, h, w, 2]`.
    """
    before = np.floor(places).astype(int)
    after = (places - before)[..., np.newaxis].astype(np.float32)
    every = np.arange(len(pixels))[:, np.newaxis, np.newaxis]
    total = np.zeros_like(pixels)
    for down in (0, 1):
        rows = _mirrored(before[..., 0] + down, pixels.shape[1])
        of_row = after[..., 0, :] if down else 1 - after[..., 0, :]
        for right in (0, 1):
            columns = _mirrored(before[..., 1] + right, pixels.shape[2])
            of_column = after[..., 1, :] if right else 1 - after[..., 1, :]
            total += of_row * of_column * pixels[every, rows, columns]
    return total


def _mirrored(indices: np.ndarray, side: int) -> np.ndarray:
    """Indices of a row that goes on mirrored, without its last pixel twice."""
    last = max(side - 1, 1)
    return (last - np.abs(indices % (2 * last) - last)) % side


def _plasma(
    random: np.random.Generator, count: int, height: int, width: int, roughness: float
) -> np.ndarray:
    """Maps of heights from 0 to 1 by the diamond-square algorithm, float32 `[count, h, w]`.

    Each point is the mean of four that are known and a random number; these have the range
    `roughness**-2` of those before whenever the points get twice as dense. The edges join.
    """
    side = 1 << max(1, math.ceil(math.log2(max(height, width))))
    drawn = 2 * random.random((count, side, side), np.float32) - 1
    heights = np.zeros_like(drawn)
    step, range_ = side, 1.0
    while step > 1:
        known, between = slice(0, None, step), slice(step // 2, None, step)
        corners = heights[:, known, known]
        across, down = corners + np.roll(corners, -1, 2), corners + np.roll(corners, -1, 1)
        middles = (across + np.roll(across, -1, 1)) / 4 + range_ * drawn[:, between, between]
        heights[:, between, between] = middles
        above, left = middles + np.roll(middles, 1, 1), middles + np.roll(middles, 1, 2)
        heights[:, known, between] = (across + above) / 4 + range_ * drawn[:, known, between]
        heights[:, between, known] = (down + left) / 4 + range_ * drawn[:, between, known]
        step, range_ = step // 2, range_ / roughness**2
    low, high = (edge(heights, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    return ((heights - low) / (high - low))[:, :height, :width]
