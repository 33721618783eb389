"""Image files of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """`put(name, size=(height, width))` writes an image of noise into `tmp_path / "photos"`."""
    random = np.random.default_rng(0)

    def write(name: str, size: tuple[int, int] = (6, 5), mode: str = "RGB", **named: Any) -> Path:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = size if mode == "L" else (*size, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path, **named)
        return path

    return write


@pytest.fixture
def photos(tmp_path: Path, put: Put) -> Path:
    """Ten cats and ten dogs."""
    for name in ("cat", "dog"):
        for number in range(10):
            put(f"{name}/{number}.png")
    return tmp_path / "photos"
