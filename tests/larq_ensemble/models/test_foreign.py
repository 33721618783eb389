"""Networks that are not ours: from a function, a Keras file or a Keras model."""

import json
import sys

import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models.foreign import architecture_digest, foreign_network, is_foreign
from larq_ensemble.models.keras_files import load_keras_file

MODULE = """
from larq_ensemble.keras import keras


class Unregistered(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def _classifier(x, image, classes=3):
    return keras.Model(image, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


def plain():
    image = keras.Input((4, 4, 1))
    return _classifier(keras.layers.ReLU()(image), image)


def fitting(input_shape, classes, slope=0.1):
    image = keras.Input(input_shape)
    return _classifier(keras.layers.LeakyReLU(slope)(image), image, classes)


def with_lambda():
    image = keras.Input((4, 4, 1))
    return _classifier(keras.layers.Lambda(lambda x: x * 3)(image), image)


def unregistered():
    image = keras.Input((4, 4, 1))
    return _classifier(Unregistered()(image), image)


def with_more(depth):
    pass


def no_model():
    return 3


def broken():
    return undefined_name
"""
SIZES = {"input_shape": (4, 4, 1), "classes": 3}


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """`foreign_module` in the working directory."""
    (tmp_path / "foreign_module.py").write_text(MODULE)
    (tmp_path / "half_written.py").write_text("import sys\nx = (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("foreign_module", None)


def test_what_names_a_network_that_is_not_ours():
    for network in ("a.keras", "a/b.h5", "C.hdf5", "module:function", keras.Sequential()):
        assert is_foreign(network)
    assert not is_foreign("resnet20")
    with pytest.raises(EnsembleError, match=r"Unknown model 'resnet99'. Known: .*FILE.keras.*res"):
        is_foreign("resnet99")


def test_a_function_is_called_with_those_of_the_sizes_that_it_takes():
    network, record = foreign_network("foreign_module:plain", **SIZES)
    assert network.output_shape == (None, 3)
    assert {**record, "digest": ""} == {
        "name": "plain", "input_shape": [4, 4, 1], "classes": 3, "source": "foreign_module:plain",
        "digest": "",
    }  # fmt: skip
    network, _ = foreign_network("foreign_module:fitting", input_shape=(5, 6, 3), classes=7)
    assert (network.input_shape, network.output_shape) == ((None, 5, 6, 3), (None, 7))


def test_the_digest_is_that_of_the_architecture_whatever_layers_are_called():
    import foreign_module

    first, again = foreign_module.fitting((4, 4, 1), 3), foreign_module.fitting((4, 4, 1), 3)
    assert first.layers[1].name != again.layers[1].name
    assert architecture_digest(first) == architecture_digest(again)
    others = [
        foreign_module.plain(),
        foreign_module.fitting((4, 4, 1), 2),
        foreign_module.fitting((4, 4, 1), 3, slope=0.2),
    ]
    assert len({architecture_digest(model) for model in [first, *others]}) == 4


def test_the_digest_does_not_depend_on_the_version_of_keras(monkeypatch):
    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    digest, text = architecture_digest(model), json.loads(model.to_json())
    assert text["keras_version"] == keras.__version__
    other = json.dumps({**text, "keras_version": "2.99.0"})
    monkeypatch.setattr(model, "to_json", lambda: other)
    assert architecture_digest(model) == digest


def test_a_file_is_told_from_another_by_its_content(tmp_path):
    import foreign_module

    records = []
    for name in ("one.keras", "two.keras"):
        foreign_module.plain().save(name)
        records.append(foreign_network(name, **SIZES)[1])
    assert records[0]["source"] == str(tmp_path / "one.keras")
    assert records[0]["digest"] != records[1]["digest"]  # of other weights


@pytest.mark.parametrize(
    ("network", "sizes", "message"),
    [
        ("missing_module:f", {}, "importing 'missing_module' failed with \"No module named"),
        ("half_written:f", {}, r"importing 'half_written' failed with .*half_written.py"),
        (":f", {}, "importing '' failed"),
        ("foreign_module:f", {}, "has no function 'f', .* Its functions: plain, fitting, with_l"),
        ("foreign_module:keras", {}, "has no function 'keras'"),
        ("foreign_module:with_more", {}, "needs the argument 'depth': it is called with"),
        ("foreign_module:no_model", {}, "must return a tf.keras model, got int"),
        ("foreign_module:broken", {}, r"undefined_name.*foreign_module.py, line \d+"),
        (
            "foreign_module:unregistered",
            {},
            r"unregistered' .* \(Unregistered\): each function or cl",
        ),
        (
            "foreign_module:plain",
            {"classes": 4},
            "'foreign_module:plain' has 3 outputs, but the dat",
        ),
        (
            "foreign_module:plain",
            {"input_shape": (8, 8, 1)},
            r"'foreign_module:plain' takes images of \(4, 4, 1\), but .* \(8, 8, 1\)",
        ),
        ("missing.keras", {}, "`model` 'missing.keras' is no file"),
        ("~no-such-user/a.keras", {}, "`model` '~no-such-user/a.keras' is no file"),
        (3, {}, "`model` must be a name, FILE.keras, FILE.h5, module:function or a tf.keras model"),
    ],
)
def test_what_can_not_be_used_is_refused_before_training(network, sizes, message):
    with pytest.raises(EnsembleError, match=message):
        foreign_network(network, **{**SIZES, **sizes})


def test_weights_in_bfloat16_are_refused_before_the_training():
    """Keras would write them into the run, and could not read them."""
    image = keras.Input((4, 4, 1))
    x = keras.layers.Dense(3, dtype="bfloat16")(keras.layers.Flatten()(image))
    with pytest.raises(EnsembleError, match=r"weights in bfloat16.*'mixed_bfloat16'"):
        foreign_network(keras.Model(image, x), input_shape=(4, 4, 1), classes=3)


def test_code_in_files_is_not_run():
    """Keras has a safe mode for `.keras` files only."""
    import foreign_module

    model = foreign_module.with_lambda()
    with pytest.raises(EnsembleError, match=r"`model` .* its layer 'lambda.*' .*module:function"):
        foreign_network(model, **SIZES)
    for name in ("code.keras", "code.h5"):
        model.save(name)
        with pytest.raises(EnsembleError, match=f"'{name}' has a Lambda layer, whose code would"):
            load_keras_file(name)
    # A module that the user names is the user's.
    foreign_network("foreign_module:with_lambda", **SIZES)


def test_a_file_with_a_class_of_nobody(tmp_path):
    import foreign_module

    for name in ("own.keras", "own.h5"):
        foreign_module.unregistered().save(name)
        with pytest.raises(EnsembleError, match=f"'{name}' has 'Unregistered', which nothing"):
            load_keras_file(name)
