"""What firmware calls: errors, combinations, the cascade, names; and that it is clean C."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.convert.targets.c.plan import Elementwise, Map, Multiply, Plan, Store, Value
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.convert.targets.c.scratch import scratch_bytes
from larq_ensemble.convert.targets.c.source import arena_bytes, c_sources
from larq_ensemble.errors import EnsembleError
from larq_ensemble.pretrained.catalog import tflite_path
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.cascade import Cascade, calibrated_prediction, run_cascade
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.runtime.metadata import EnsembleMetadata

from ....c_compiler import SANITIZERS, compile_c
from .execution import Execution
from .programs import Program

MEMBERS, CLASSES = 4, 5
OK, BAD_ARENA, BAD_ARGUMENT, NOT_BEGUN, NO_MEMBER_LEFT = 0, -1, -2, -3, -4
FACTORS = np.random.default_rng(5).normal(size=(MEMBERS, CLASSES)).astype(np.float32) / 20


def tiny_plan() -> Plan:
    """A member's logits are the five numbers of the image times its own factors."""
    image = Map(1, 1, CLASSES, "uint8", shared=True)
    logits = Map(1, 1, CLASSES, "float32", shared=False, offset=0)
    factors = Value(FACTORS, "float32", "head", by_member=True)
    step = Elementwise(
        height=1,
        width=1,
        channels=CLASSES,
        epilogue=(Multiply(factors), Store(logits)),
        shared=False,
        layer="head",
        input=image,
    )
    return Plan(MEMBERS, image, logits, [step], [24], 24 + scratch_bytes(step))


def test_arrays_and_functions_have_names_of_their_own(tmp_path: Path) -> None:
    """Arrays are named after purposes, which may be called as steps are."""
    plan = tiny_plan()
    multiply, store = plan.steps[0].epilogue
    values = [
        dataclasses.replace(multiply.value, data=data, purpose="elementwise")
        for data in (FACTORS, FACTORS[::-1])
    ]
    epilogue = (*map(Multiply, values), store)
    plan.steps = [dataclasses.replace(plan.steps[0], epilogue=epilogue)]
    program = Program(tmp_path, plan, metadata())
    image = np.arange(1, CLASSES + 1, dtype=np.uint8)
    expected = image * FACTORS[1] * FACTORS[::-1][1]
    np.testing.assert_allclose(program.logits(image, 1), expected, rtol=1e-5)


def metadata(**fields: object) -> EnsembleMetadata:
    values = {
        "scheme": "fusion",
        "members": MEMBERS,
        "classes": CLASSES,
        "input_shape": (1, 1, CLASSES),
        "temperatures": (1.7, 1.0, 0.8, 2.5),
        "cascade": Cascade((1.5, None, 0.4)),
        "weights": (0.5, 0.25, 2.0, 1.0),
        **fields,
    }
    return EnsembleMetadata(**values)  # type: ignore[arg-type]


def random_images(n: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (n, CLASSES)).astype(np.uint8)


@pytest.mark.parametrize("scheme", ["fusion", "boosting", "voting", "hard_voting"])
def test_predictions_are_those_of_the_runtime(tmp_path: Path, scheme: str) -> None:
    about = metadata(scheme=scheme)
    if scheme == "voting":  # and without what is optional
        about = dataclasses.replace(about, weights=None, temperatures=None)
    if scheme == "hard_voting":  # a single member always votes alike
        about = dataclasses.replace(about, cascade=Cascade((None, 0.9, 0.4)))
    program = Program(tmp_path, tiny_plan(), about)
    images = random_images(20)
    logits = images[np.newaxis] * FACTORS[:, np.newaxis]

    def probabilities_of(some: np.ndarray) -> np.ndarray:
        return calibrated_prediction(some, scheme, about.weights, about.temperatures)

    assert about.cascade is not None
    adaptive = run_cascade(
        about.cascade,
        lambda member, indices: logits[member, indices],
        probabilities_of,
        images=len(images),
        classes=CLASSES,
        members=MEMBERS,
    )
    assert len(set(adaptive.members)) > 1
    got = np.empty(CLASSES, np.float32)
    for number, image in enumerate(images):
        assert program.call("begin", image) == OK
        for count in range(1, MEMBERS + 1):
            expected = probabilities_of(logits[:count])[number]
            assert program.call("next", got) == count
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
        assert program.call("next", got) == NO_MEMBER_LEFT
        assert program.call("predict", image, 2, got) == 2
        expected = probabilities_of(logits[:2])[number]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
        members = program.call("predict_adaptive", image, MEMBERS, got)
        assert members == adaptive.members[number]
        np.testing.assert_allclose(got, adaptive.probabilities[number], rtol=1e-5, atol=1e-7)


def test_any_member_in_any_order_does_not_disturb_the_combination(tmp_path: Path) -> None:
    about = metadata(temperatures=None, cascade=None, weights=None)
    program = Program(tmp_path, tiny_plan(), about)
    (image,) = random_images(1)
    got, other = np.empty((2, CLASSES), np.float32)
    assert program.call("begin", image) == OK
    assert program.call("next", got) == 1
    for member in (3, 1, 3):
        assert program.call("member", member, other) == OK
        np.testing.assert_allclose(other, image * FACTORS[member], rtol=1e-6)
    assert program.call("next", got) == 2
    expected = calibrated_prediction((image * FACTORS[:2])[:, np.newaxis], "fusion", None, None)
    np.testing.assert_allclose(got, expected[0], rtol=1e-5)
    assert not hasattr(program.library, "ensemble_predict_adaptive")
    assert program.macros["ENSEMBLE_HAS_CASCADE"] == "0"
    assert program.macros["ENSEMBLE_KEEPS_IMAGE"] == "1"


def test_wrong_calls_are_errors(tmp_path: Path) -> None:
    program = Program(tmp_path, tiny_plan(), metadata())
    (image,) = random_images(1)
    got = np.empty(CLASSES, np.float32)
    assert program.call("member", 0, got) == NOT_BEGUN
    assert program.call("next", got) == NOT_BEGUN
    assert program.call("begin", None) == BAD_ARGUMENT
    assert program.call("begin", image) == OK
    assert program.call("begin", None) == BAD_ARGUMENT
    assert program.call("next", got) == NOT_BEGUN  # and not a member on the image before
    assert program.call("begin", image) == OK
    assert program.call("member", MEMBERS, got) == BAD_ARGUMENT
    assert program.call("member", 0, None) == BAD_ARGUMENT
    assert program.call("next", None) == BAD_ARGUMENT
    for function in ("predict", "predict_adaptive"):
        assert program.call(function, image, 0, got) == BAD_ARGUMENT
        assert program.call(function, image, MEMBERS + 1, got) == BAD_ARGUMENT
        assert program.call(function, image, 1, None) == BAD_ARGUMENT
        assert program.call(function, None, 1, got) == BAD_ARGUMENT
    program.arena = program.arena[4:]
    assert program.call("begin", image) == BAD_ARENA
    assert program.call("next", got) == BAD_ARENA
    assert program.library.ensemble_begin(None, None) == BAD_ARENA


def test_names_reach_c_as_they_are(tmp_path: Path) -> None:
    names = ("café", 'a "quoted" \\ one', "what??/", "ensemble_x 7", "100 %")
    files = c_sources(tiny_plan(), metadata(class_names=names), "my_net")
    assert files.keys() == {"my_net.h", "my_net.c"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert text.isascii()
    (tmp_path / "main.c").write_text(
        '#include "my_net.h"\n#include <stdio.h>\n'
        "static const char *const names[] = MY_NET_CLASS_NAMES;\n"
        "int main(void) {\n  static uint64_t arena[MY_NET_ARENA_BYTES / 8];\n"
        "  static const uint8_t image[MY_NET_CHANNELS];\n"
        "  for (int k = 0; k < MY_NET_CLASSES; k++) puts(names[k]);\n"
        "  return my_net_begin(arena, image);\n}\n"
    )
    program = compile_c(tmp_path, "main.c", "my_net.c", "-lm")
    output = subprocess.run([program], check=True, capture_output=True).stdout
    assert output.decode().splitlines() == list(names)


@pytest.mark.parametrize("name", ["", "2nd", "my-net", "a b", "math", "String", "errno", "_net"])
def test_names_that_c_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(EnsembleError, match="`name` must be"):
        c_sources(tiny_plan(), metadata(), name)


def test_no_function_of_its_own_can_have_the_name_of_one_for_firmware() -> None:
    """As `run_member` would in `--name run`."""
    file = read_ensemble(tflite_path("cifar10-deploynet9-nested8"))
    text = c_sources(plan_ensemble(file), file.metadata)["ensemble.c"]
    functions = re.findall(r"^(?:static|HELPER) [^;={]*?(\w+)\(", text, re.MULTILINE)
    assert "softmax" in functions
    suffixes = ("_begin", "_member", "_next", "_predict", "_predict_adaptive")
    assert not [function for function in functions if function.endswith(suffixes)]


def test_a_header_of_another_export_is_an_error(tmp_path: Path) -> None:
    """Else an arena may be too small."""
    for name, text in c_sources(tiny_plan(), metadata(), "my_net").items():
        (tmp_path / name).write_text(text)
    compile_c(tmp_path, "my_net.c", "-fsyntax-only")
    header = tmp_path / "my_net.h"
    header.write_text(re.sub(r"(#define MY_NET_ARENA_BYTES) \d+", r"\1 8", header.read_text()))
    with pytest.raises(subprocess.CalledProcessError):
        compile_c(tmp_path, "my_net.c", "-fsyntax-only")


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_old_cpp_takes_the_header(tmp_path: Path) -> None:
    files = c_sources(tiny_plan(), metadata(class_names=tuple("abcde")))
    (tmp_path / "ensemble.h").write_text(files["ensemble.h"])
    (tmp_path / "main.cc").write_text(
        '#include "ensemble.h"\nconst char *const names[] = ENSEMBLE_CLASS_NAMES;\n'
    )
    strict = ["-std=c++98", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run(["c++", *strict, tmp_path / "main.cc"], check=True)


@pytest.mark.parametrize(
    ("name", "activations"),
    [
        ("cifar10-deploynet9-nested8", "float32"),
        ("cifar10-deploynet9-nested8", "float16"),
        ("cifar100-deploynet8-nested8", "float32"),  # compact; its shortcuts repeat channels
    ],
)
def test_a_shipped_network_answers_as_the_runtime_does(
    tmp_path: Path, name: str, activations: str
) -> None:
    """Floats are added in another order, so a sign flips now and then, and with it all after it."""
    path = tflite_path(name)
    file = read_ensemble(path)
    plan = plan_ensemble(file, activations=activations)
    program = Program(tmp_path, plan, file.metadata)
    assert int(program.macros["ENSEMBLE_ARENA_BYTES"]) == arena_bytes(plan)
    images = sample_images()
    if activations == "float32":
        expected = EnsembleInterpreter(path).predict_logits(images)[4]
    else:  # other signs than with float32, so NumPy rounds, too
        execution = Execution(plan)
        rows = []
        for image in images:
            execution.begin(image)
            rows.append(execution.member(4))
        expected = np.array(rows)
    got = np.array([program.logits(image, 4) for image in images])
    differences = np.abs(got - expected).max(axis=1)
    assert np.median(differences) < 1e-4
    np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))


def sample_images() -> np.ndarray:
    """The photos that come with the package, uint8 `[n, 32, 32, 3]`."""
    from larq_ensemble import pretrained

    sheet = np.asarray(Image.open(Path(pretrained.__file__).parent / "images" / "cifar100.png"))
    rows, columns = (size // 32 for size in sheet.shape[:2])
    tiles = sheet[: rows * 32, : columns * 32, :3].reshape(rows, 32, columns, 32, 3)
    return np.ascontiguousarray(tiles.swapaxes(1, 2).reshape(-1, 32, 32, 3)[:8])


def test_lines_are_short() -> None:
    file = read_ensemble(tflite_path("cifar10-deploynet9-nested8"))
    texts = c_sources(plan_ensemble(file), file.metadata)
    assert max(len(line) for text in texts.values() for line in text.splitlines()) <= 100


SANITIZED = """
#include <stdlib.h>
#include "ensemble.h"

int main(void) {
  static const uint8_t image[ENSEMBLE_HEIGHT * ENSEMBLE_WIDTH * ENSEMBLE_CHANNELS] = {1, 2, 3};
  void *arena = malloc(ENSEMBLE_ARENA_BYTES);
  float *out = malloc(ENSEMBLE_CLASSES * sizeof *out);
  for (size_t i = 0; i < ENSEMBLE_ARENA_BYTES; i++) ((uint8_t *)arena)[i] = 0xa5;
  int result = ensemble_begin(arena, image);
  for (unsigned m = 0; m < ENSEMBLE_MEMBERS; m++) result |= ensemble_member(arena, m, out);
  result |= ensemble_predict(arena, image, ENSEMBLE_MEMBERS, out) != ENSEMBLE_MEMBERS;
  free(out);
  free(arena);
  return result;
}
"""


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Nothing is read or written outside the arena, a block of its own."""
    from .test_steps import MEMBERS, plan_of_everything

    about = EnsembleMetadata(scheme="fusion", members=MEMBERS, classes=4, input_shape=(6, 5, 3))
    for name, text in c_sources(plan_of_everything(), about).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(SANITIZED)
    program = compile_c(tmp_path, "main.c", "ensemble.c", "-O0", *SANITIZERS, "-lm")
    subprocess.run([program], check=True)
