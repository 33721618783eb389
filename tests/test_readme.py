"""The README's Python examples run as they stand, one after the other, on a few random images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run_and_hand_over_their_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 32, 32, 3), np.uint8)
    Image.fromarray(pixels[0]).save("photo.png")
    names = {"images": pixels.astype(np.float32) / 255, "labels": generator.integers(0, 100, 8)}
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        # Fewer epochs and members, because building the graphs is what takes time here.
        example = re.sub(r"epochs=\d+", "epochs=1, verbose=0", example)
        exec(re.sub(r"members=4", "members=2", example), names)
    assert names["probabilities"].shape == (1, 100)
    assert np.isclose(names["probabilities"].sum(), 1, atol=1e-5)
    assert names["report"].ratio < 1.2
    assert names["ensemble"].members == 1
