"""Makes a folder of small images to try the tutorial with: a folder for each of three classes.

    python examples/make_photos.py photos --images 300

They stand in for photos: the subject (a ball, a crate or a fence) has any place, size and colour,
and there are gradients of light, clutter and noise. The seed and its number determine an image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 96  # pixels; the tutorial resizes them
_NOISE = 12.0  # standard deviation, of 255

Draw = Callable[[ImageDraw.ImageDraw, np.random.Generator], None]


def ball(draw: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    """A disc."""
    radius = random.integers(SIZE // 5, SIZE // 3)
    x, y = random.integers(radius, SIZE - radius, 2)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour(random))


def crate(draw: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    """A turned square with a cross on it."""
    side = random.integers(SIZE // 4, SIZE // 2)
    x, y = random.integers(side * 3 // 4, SIZE - side * 3 // 4, 2)
    turn = random.uniform(0, np.pi / 2) + np.arange(4) * np.pi / 2
    corners = [(x + side * 0.7 * np.cos(each), y + side * 0.7 * np.sin(each)) for each in turn]
    draw.polygon(corners, fill=colour(random))
    line = colour(random)
    for begin, end in (corners[::2], corners[1::2]):
        draw.line((*begin, *end), fill=line, width=3)


def fence(draw: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    """Parallel bars across the image."""
    gap, width = random.integers(10, 18), random.integers(3, 7)
    lean, fill = random.integers(-20, 20), colour(random)
    for x in range(random.integers(0, gap) - 20, SIZE + 20, gap):
        draw.line((x, 0, x + lean, SIZE), fill=fill, width=int(width))


CLASSES: dict[str, Draw] = {"ball": ball, "crate": crate, "fence": fence}


def colour(random: np.random.Generator) -> tuple[int, int, int]:
    """Any colour that is not dark."""
    red, green, blue = random.integers(60, 256, 3)
    return int(red), int(green), int(blue)


def photo(name: str, random: np.random.Generator) -> Image.Image:
    """An image of a class, RGB [SIZE, SIZE]."""
    left, right = random.uniform(0, 160, (2, 3))
    light = left + (right - left) * np.linspace(0, 1, SIZE)[:, np.newaxis]  # [SIZE, 3]
    image = Image.fromarray(np.broadcast_to(light, (SIZE, SIZE, 3)).astype(np.uint8))
    if random.integers(2):
        image = image.transpose(Image.Transpose.ROTATE_90)
    draw = ImageDraw.Draw(image)
    for _ in range(4):  # clutter
        draw.line([int(each) for each in random.integers(0, SIZE, 4)], fill=colour(random))
    CLASSES[name](draw, random)
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1)))
    noisy = np.asarray(image, np.float64) + random.normal(0, _NOISE, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def make_photos(folder: Path, images: int, seed: int = 0) -> None:
    """Writes `images` JPEG files of each class to a folder of its name."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            random = np.random.default_rng([seed, label, number])
            photo(name, random).save(folder / name / f"{name}{number:04}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=300, help="of each class (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_photos(arguments.folder, arguments.images, arguments.seed)


if __name__ == "__main__":
    main()
