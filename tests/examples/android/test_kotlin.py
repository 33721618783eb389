"""The Kotlin classes of examples/android against Python: `make test-android` installs a compiler.

They are compiled for the JVM, against stand-ins for LiteRT's and Android's classes that run no
network: what is tested is which signatures get which inputs, and all that the example computes
itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.convert import convert_file
from larq_ensemble.runtime.cascade import calibrated_prediction, run_cascade
from larq_ensemble.runtime.file import metadata_of, seal
from larq_ensemble.runtime.images import fit_image

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data"
#: Android's JSON classes, in Debian's package libandroid-json-org-java.
JSON = Path("/usr/share/java/json-android.jar")
LAYOUTS = ("indexed", "subgraphs", "branches", "version_1", "compact")
M, CLASSES = 3, 5

#: Signatures and their inputs for two members, by the file.
RAN = {
    "indexed": ["prefix image", "rest features_0 member", "rest features_0 member"],
    "subgraphs": ["prefix image", "rest_0 features_0", "rest_1 features_0"],
    "branches": ["serving_default image"],
    "version_1": ["serving_default image member", "serving_default image member"],
    "compact": ["prefix image", "rest features_0 member", "rest features_0 member"],
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example and its stand-ins, compiled."""
    if not shutil.which("kotlinc") or not JSON.exists():
        pytest.skip("no Kotlin compiler: `make test-android` installs one")
    program = tmp_path_factory.mktemp("kotlin") / "example.jar"
    sources = [ROOT / "examples/android/src", Path(__file__).with_name("fake")]
    subprocess.run(
        ["kotlinc", "-cp", JSON, *sources, "-include-runtime", "-d", program], check=True
    )
    return program


def answers(program: Path, folder: Path, questions: list[str]) -> list[str]:
    """The lines that the program prints."""
    asked = folder / "questions.txt"
    asked.write_text("\n".join(questions))
    path = f"{program}:{JSON}"
    command = ["java", "-cp", path, "ensemble.MainKt", str(asked)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def with_table(file: Path) -> np.ndarray:
    """Writes the logits of a file's members beside it; float32 `[M, classes]`."""
    logits = np.random.default_rng(0).normal(0, 2, (M, CLASSES)).round(2)
    Path(f"{file}.json").write_text(json.dumps(logits.tolist()))
    return logits.astype(np.float32)


def with_scheme(file: Path, scheme: str) -> None:
    """Exchanges the scheme of a file, whose name has to be longer than the new one."""
    old = b'"scheme":"voting",'
    data = file.read_bytes()
    assert old in data
    # The bytes that the new name needs are taken from a field that the example doesn't read.
    start = data.index(b'"tools":{')
    end = data.index(b"}", start) + 2
    new = old.replace(b"voting", scheme.encode())
    rest = end - start - (len(new) - len(old))
    assert rest >= 0
    at = data.index(old)
    assert at < start
    moved = data[:at] + new + data[at + len(old) : start] + b" " * rest + data[end:]
    assert len(moved) == len(data)
    file.write_bytes(seal(moved))


def test_members_are_run_and_combined_as_in_python(program: Path, tmp_path: Path) -> None:
    questions, expected = [], []
    for name in LAYOUTS:
        file = tmp_path / f"{name}.tflite"
        convert_file(DATA / f"{name}.tflite", file)
        logits = with_table(file)
        metadata = metadata_of(file.read_bytes())
        assert metadata is not None
        questions.append(f"predict {file} 2 false 1")
        expected += [f"ran {line}" for line in RAN[name]]
        expected.append(
            calibrated_prediction(
                logits[:2, np.newaxis], metadata.scheme, metadata.weights, metadata.temperatures
            )[0]
        )
    found = answers(program, tmp_path, questions)
    assert len(found) == len(expected)
    for line, value in zip(found, expected):
        if isinstance(value, str):
            assert line == value
        else:
            kind, members, klass, name, *probabilities = line.split()
            assert (kind, members, int(klass)) == ("predicted", "2", value.argmax())
            assert name in ("null", "ant", "bee", "cat", "dog", "eel")
            np.testing.assert_allclose(np.array(probabilities, float), value, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["voting", "fusion", "boosting", "hard_voting"])
def test_the_cascade_stops_where_python_stops(scheme: str, program: Path, tmp_path: Path) -> None:
    file = tmp_path / "compact.tflite"
    convert_file(DATA / "compact.tflite", file)
    if scheme != "voting":
        with_scheme(file, scheme)
    logits = with_table(file)
    metadata = metadata_of(file.read_bytes())
    assert metadata is not None
    assert metadata.scheme == scheme
    cascade = metadata.cascade
    assert cascade is not None
    scales = [0.1, 0.5, 1.0, 2.0, 5.0]
    predicted = run_cascade(
        cascade,
        lambda member, which: np.outer(np.array(scales, np.float32)[which], logits[member]),
        lambda rows: calibrated_prediction(rows, scheme, metadata.weights, metadata.temperatures),
        images=len(scales),
        classes=CLASSES,
        members=M,
    )
    lines = answers(program, tmp_path, [f"predict {file} {M} true {scale}" for scale in scales])
    found = [line.split() for line in lines if line.startswith("predicted")]
    assert [int(each[1]) for each in found] == predicted.members.tolist()
    np.testing.assert_allclose(
        [np.array(each[4:], float) for each in found], predicted.probabilities, rtol=1e-4
    )


def test_another_rule_of_the_cascade_is_refused(program: Path, tmp_path: Path) -> None:
    file = tmp_path / "compact.tflite"
    convert_file(DATA / "compact.tflite", file)
    with_table(file)
    file.write_bytes(seal(file.read_bytes().replace(b'"log_margin"', b'"log_morgen"')))
    (line,) = answers(program, tmp_path, [f"predict {file} {M} false 1"])
    assert line == "refused This class doesn't know the rule of the cascade: log_morgen."


def test_images_become_the_pixels_of_python(program: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    questions, expected = [], []
    for number, (size, shape) in enumerate(
        [((9, 13), (8, 8, 3)), ((40, 17), (8, 8, 1)), ((8, 8), (8, 8, 3)), ((5, 4), (12, 28, 3))]
    ):
        pixels = draw.integers(0, 256, (*size, 3))
        red, green, blue = np.moveaxis(pixels, -1, 0)
        argb = (255 << 24 | red << 16 | green << 8 | blue).astype(np.uint32).astype(np.int32)
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(argb.ravel().tolist()))
        questions.append(f"fit {file} {size[1]} {size[0]} {' '.join(map(str, shape))}")
        expected.append(fit_image(Image.fromarray(pixels.astype(np.uint8)), shape))
    for line, value in zip(answers(program, tmp_path, questions), expected, strict=True):
        found = np.array(line.split()[1:], float).reshape(value.shape)
        # One more or less where Pillow resizes the axes in another order.
        assert np.abs(found - value).max() <= 1


def test_wrong_files_and_numbers_are_refused(program: Path, tmp_path: Path) -> None:
    file = tmp_path / "indexed.tflite"
    convert_file(DATA / "indexed.tflite", file)
    with_table(file)
    (tmp_path / "text").write_text("no file of TFLite")
    questions = [
        f"predict {DATA / 'indexed.tflite'} 1 false 1",
        f"predict {tmp_path / 'text'} 1 false 1",
        f"predict {file} 4 false 1",
        f"predict {file} 3 true 1",
    ]
    lce, text, members, adaptive = answers(program, tmp_path, questions)
    assert lce.startswith("refused This file has operators of Larq Compute Engine")
    assert text == "refused This is no .tflite file."
    assert members == "refused members must be from 1 to 3"
    assert adaptive.startswith("refused The file has no thresholds")
