"""Which Keras is used, and what importing the package costs: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from larq_ensemble.legacy_keras import quiet_start


def run(program: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: v for name, v in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
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
    from larq_ensemble.keras import keras

    assert keras.Model.__module__.startswith("tf_keras.")


def test_tensorflow_and_keras_3_may_be_imported_first() -> None:
    """Names bound to TensorFlow's lazy loader, attributes and submodules: all are Keras 2 then."""
    done = run(
        "import keras as keras_3\n"
        "import tensorflow as tf\n"
        "from tensorflow import keras as bound\n"
        "import larq_ensemble\n"
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
        "    print(error)"
    )
    assert done.stdout.startswith("`backbone` holds an object of Keras 3 (Sequential)"), done.stderr


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
