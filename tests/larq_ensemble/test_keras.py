"""Which Keras is used, and what importing the package costs: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def run(program: str) -> subprocess.CompletedProcess:
    environment = {name: v for name, v in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )


def test_importing_the_package_is_light() -> None:
    done = run(
        "import sys, larq_ensemble\n"
        "assert {'account', 'build_ensemble'} <= set(dir(larq_ensemble))\n"
        "larq_ensemble.account\n"
        "print({'tensorflow', 'numpy', 'tf_keras'} & set(sys.modules))"
    )
    assert done.stdout == "set()\n", done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    done = run("import larq_ensemble; larq_ensemble.nothing")
    assert "AttributeError: module 'larq_ensemble' has no attribute 'nothing'" in done.stderr


def test_importing_the_package_before_tensorflow_chooses_keras_2() -> None:
    done = run("import os, larq_ensemble; print(os.environ['TF_USE_LEGACY_KERAS'])")
    assert done.stdout == "1\n", done.stderr
    from larq_ensemble.keras import keras

    assert keras.Model.__module__.startswith("tf_keras.")


def test_keras_3_first_raises_one_clear_error() -> None:
    done = run("import tensorflow as tf; tf.keras.Model\nimport larq_ensemble.keras")
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: `tf.keras` is Keras 3 in this process")
    assert "TF_USE_LEGACY_KERAS=1" in message
