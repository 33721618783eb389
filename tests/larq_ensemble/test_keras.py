"""Which Keras is used, and what importing the package costs: each in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from larq_ensemble import tensorflow_start
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.keras import keras
from larq_ensemble.models.keras_layers import KerasLayers
from larq_ensemble.network.architectures.reactnet import react_block
from larq_ensemble.network.architectures.resnet import resnet
from larq_ensemble.tensorflow_start import ONEDNN, quiet_start


def run(
    program: str, *, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    ours = ("TF_USE_LEGACY_KERAS", "TF_ENABLE_ONEDNN_OPTS")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**inherited, **environment},
    )


def test_importing_the_package_is_light() -> None:
    done = run(
        "import sys, larq_ensemble\n"
        "assert {'account', 'build_ensemble'} <= set(dir(larq_ensemble))\n"
        "larq_ensemble.account\n"
        "print({'tensorflow', 'numpy', 'tf_keras'} & set(sys.modules))"
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(("level", "printed"), [("3", ""), ("2", "a note")])
def test_what_tensorflow_prints_while_it_is_imported(level, printed, monkeypatch, capfd) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with quiet_start():
        os.write(2, b"a note")
    os.write(2, b" and more")
    assert capfd.readouterr().err == f"{printed} and more"


def test_an_unknown_name_is_an_attribute_error() -> None:
    done = run("import larq_ensemble; larq_ensemble.nothing")
    assert "AttributeError: module 'larq_ensemble' has no attribute 'nothing'" in done.stderr


def test_importing_the_package_before_tensorflow_chooses_keras_2() -> None:
    done = run("import os, larq_ensemble; print(os.environ['TF_USE_LEGACY_KERAS'])")
    assert done.stdout == "1\n", done.stderr
    assert keras.Model.__module__.startswith("tf_keras.")


@pytest.mark.parametrize(
    ("system", "machine", "environment", "modules", "expected"),
    [
        ("linux", "x86_64", {}, {}, "1"),
        ("linux", "x86_64", {ONEDNN: "0"}, {}, "0"),
        ("linux", "x86_64", {}, {"tensorflow": None}, None),
        ("linux", "aarch64", {}, {}, None),
        ("win32", "x86_64", {}, {}, None),
    ],
)
def test_onednn_is_asked_for_unless_it_is_decided(
    system, machine, environment, modules, expected, monkeypatch
) -> None:
    monkeypatch.setattr(tensorflow_start, "sys", SimpleNamespace(platform=system, modules=modules))
    monkeypatch.setattr(tensorflow_start.platform, "machine", lambda: machine)
    monkeypatch.setattr(tensorflow_start.os, "environ", environment)
    tensorflow_start.prefer_onednn()
    assert environment.get(ONEDNN) == expected


def test_importing_the_package_asks_for_onednn() -> None:
    done = run("import os, larq_ensemble; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))")
    measured = (sys.platform, platform.machine()) == ("linux", "x86_64")
    assert done.stdout == ("1\n" if measured else "None\n"), done.stderr


def test_tensorflow_and_keras_3_may_be_imported_first(tmp_path) -> None:
    """Names bound to TensorFlow's lazy loader, attributes and submodules: all are Keras 2 then.

    To load an ensemble needs no other import, not even for the layers of ReActNet, which are ours.
    Runs are read by the same function.
    """
    image = keras.Input((8, 8, 3))
    options = {"classes": 3, "dropout": 0, "stages": [4], "blocks": [1], "block": react_block}
    ensemble = build_ensemble(
        keras.Model(image, resnet(KerasLayers(), image, **options)), 2, scheme="nested_fusion"
    )
    ensemble.compile("adam")
    ensemble.save(tmp_path / "a.keras")
    done = run(
        "import keras as keras_3\n"
        "import tensorflow as tf\n"
        "from tensorflow import keras as bound\n"
        "import larq_ensemble\n"
        "ensemble = larq_ensemble.load_ensemble('a.keras')\n"
        "print(ensemble.members, ensemble.scheme.name, ensemble.is_traced)\n"
        "from tensorflow.keras import layers\n"
        "from larq_ensemble.keras import keras, lq\n"
        "assert issubclass(lq.layers.QuantConv2D, layers.Layer)\n"
        "for taken in (bound.layers.Layer, tf.keras.layers.Layer, layers.Layer):\n"
        "    assert taken is keras.layers.Layer is not keras_3.layers.Layer\n"
        "assert tf.optimizers.Adam is keras.optimizers.Adam\n"
        "inner = keras_3.Sequential([keras_3.Input((3,)), keras_3.layers.Dense(2)])\n"
        "try:\n"
        "    larq_ensemble.build_ensemble(inner, 2)\n"
        "except larq_ensemble.EnsembleError as error:\n"
        "    print(error)",
        folder=tmp_path,
    )
    loaded, refused = done.stdout.splitlines() or [done.stderr, ""]
    assert loaded == "2 nested_fusion True"
    assert refused.startswith("`backbone` holds an object of Keras 3 (Sequential)")


def test_keras_3_in_use_raises_one_clear_error() -> None:
    done = run(
        "import larq_ensemble\n"
        "import tensorflow as tf\n"
        "tf.keras.Model\n"
        "import larq_ensemble.runtime\n"
        "import larq_ensemble.keras",
        TF_USE_LEGACY_KERAS="0",
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: `tf.keras` has been used as Keras 3 in this process")
    assert "leave TF_USE_LEGACY_KERAS=0 out" in message
    assert "write `import larq_ensemble` in the first line" in message
