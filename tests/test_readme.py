"""The README's Python examples, on the files of the demo."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.cli import main
from larq_ensemble.convert import inspect_file
from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.demo import digits as demo
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block

ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo_folder(digits, monkeypatch, tmp_path) -> Path:
    """Where the demo has run, on 200 images and a network of one block."""
    train, test = digits
    few = dataclasses.replace(
        DATASETS["digits"], read=lambda folder: (train.first(200), test.first(50))
    )
    small = Architecture(residual_block, (4, 8), (0, 1))
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setitem(DATASETS._entries, "digits", few)
        patch.setitem(MODELS._entries, "resnet20", small)
        for name, value in (("MEMBERS", 2), ("PRETRAIN_EPOCHS", 1), ("RETRAIN_EPOCHS", 1)):
            patch.setattr(demo, name, value)
        with pytest.raises(SystemExit) as ended:
            main(["demo"])
        assert not ended.value.code
    return tmp_path


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


def test_the_examples_go_on_from_the_demo(demo_folder):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, train, convert, predict = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)

    # Two members and an epoch: what takes time here is building and tracing.
    train = train.replace("members=4", "members=2").replace("epochs=5", "epochs=1")
    train = f"{begin}print(tf.keras.Model.__module__)\n{train}"
    # In one process, which saves to import TensorFlow once more; neither sees the other's names.
    output = run(f"for program in {[train, convert]!r}: exec(program, {{}})", demo_folder)
    assert output.startswith("tf_keras.")
    size, ratio = re.search(r"^(\d+) bytes, ([\d.]+) times", output, re.MULTILINE).groups()
    assert int(size) == (demo_folder / "ensemble.tflite").stat().st_size
    assert 1 <= float(ratio) < 5  # of so small a network most bytes are the graph
    predicted = run(predict.replace("members=4", "members=2"), demo_folder)

    both, first = (np.array(re.findall(r"\d+", line), int) for line in predicted.splitlines())
    images = sorted((demo_folder / "runs/demo/images").iterdir())
    expected = keras_classes(demo_folder / "runs/demo/ensemble", images)
    # A sign that float rounding flips may change a class.
    assert np.sum(both == expected["ensemble"]) >= len(images) - 1
    assert np.sum(first == expected["member_0"]) >= len(images) - 1

    # The demo's own file knows what `calibrate` asks for.
    metadata = inspect_file(demo_folder / "runs/demo/ensemble.tflite").metadata
    assert metadata["validation_split"] == {"seed": 0, "share": 0.1}


def keras_classes(path: Path, images: list[Path]) -> dict[str, np.ndarray]:
    """Classes of PNG files by each output of a saved ensemble."""
    from PIL import Image

    from larq_ensemble import load_ensemble

    pixels = np.stack([np.asarray(Image.open(image)) for image in images])[..., None]
    ensemble = load_ensemble(path)
    outputs = ensemble.predict((pixels / 255 - 0.3054) / 0.3758, verbose=0)
    return {name: values.argmax(axis=1) for name, values in zip(ensemble.output_names, outputs)}
