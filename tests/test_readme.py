"""The README's Python examples, on the files of the demo, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]

# The demo with 200 images and a network of a few channels: what it leaves has the same form.
SMALL_DEMO = """
import dataclasses
from larq_ensemble import demo
from larq_ensemble.cli import main
from larq_ensemble.data.datasets import DATASETS, Split
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block

def first_images(folder, read=DATASETS["digits"].read):
    train, test = read(folder)
    return Split(train.images[:200], train.labels[:200]), Split(test.images[:50], test.labels[:50])

DATASETS._entries["digits"] = dataclasses.replace(DATASETS["digits"], read=first_images)
MODELS._entries["resnet20"] = Architecture(residual_block, (4, 8), (1, 1))
demo.MEMBERS, demo.PRETRAIN_EPOCHS, demo.RETRAIN_EPOCHS = 2, 1, 1
main(["demo"])
"""


def run(program: str, folder: Path) -> str:
    """The standard output of a Python program that runs in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{program}\n{done.stderr}"
    return done.stdout


def test_the_examples_go_on_from_the_demo(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    train, convert, predict = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)

    run(SMALL_DEMO, tmp_path)
    # Two members and an epoch: what takes time here is building and tracing.
    run(train.replace("members=4", "members=2").replace("epochs=5", "epochs=1"), tmp_path)
    size, ratio = re.match(r"(\d+) bytes, ([\d.]+) times", run(convert, tmp_path)).groups()
    assert int(size) == (tmp_path / "ensemble.tflite").stat().st_size
    assert 1 <= float(ratio) < 5  # of so small a network most bytes are the graph
    predicted = run(predict.replace("members=4", "members=2"), tmp_path)

    both, first = (np.array(re.findall(r"\d+", line), int) for line in predicted.splitlines())
    images = sorted((tmp_path / "runs/demo/images").iterdir())
    expected = keras_classes(tmp_path / "ensemble.keras", images)
    # A sign that float rounding flips may change a class.
    assert np.sum(both == expected["ensemble"]) >= len(images) - 1
    assert np.sum(first == expected["member_0"]) >= len(images) - 1


def keras_classes(path: Path, images: list[Path]) -> dict[str, np.ndarray]:
    """Classes of PNG files by each output of the saved Keras model."""
    from PIL import Image

    from larq_ensemble import load_ensemble

    pixels = np.stack([np.asarray(Image.open(image)) for image in images])[..., None]
    ensemble = load_ensemble(path)
    outputs = ensemble.predict((pixels / 255 - 0.3054) / 0.3758, verbose=0)
    return {name: values.argmax(axis=1) for name, values in zip(ensemble.output_names, outputs)}
