"""The commands on networks of the package, in one process where TensorFlow is not installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larq_ensemble import pretrained
from larq_ensemble.cli import main
from larq_ensemble.pretrained.samples import read_samples, sample_names
from larq_ensemble.runtime import EnsembleInterpreter

MISSING = ("tensorflow", "tf_keras", "keras", "larq", "tensorflow_datasets", "sklearn")
SESSION = f"""
import json, sys
sys.modules.update(dict.fromkeys({MISSING}))  # `None`: an import raises an error
from larq_ensemble.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
"""
NAMES = pretrained.names()
ENSEMBLES = [name for name in NAMES if pretrained.shipped(name).card["members"] > 2][:1]
#: Data sets of which there are both a network and images.
SHOWN = [
    dataset
    for dataset in sample_names()
    if dataset in {pretrained.shipped(name).card["data"]["name"] for name in NAMES}
]


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> tuple[Path, str]:
    """A folder in which the commands ran, and what they printed."""
    folder = tmp_path_factory.mktemp("pretrained")
    photo = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    name = NAMES[0]
    commands = [
        ["pretrained", "--json", "all.json"],
        ["pretrained", name, "--json", "card.json"],
        ["pretrained", name, "--out", "network.tflite"],
        ["predict", name, "photo.png", "--top", "2", "--json", "predicted.json"],
        ["inspect", name, "--json", "inspected.json"],
        *(["convert", ensemble, "--members", "2", "--out", "cut.tflite"] for ensemble in ENSEMBLES),
        *(
            ["convert", "cut.tflite", "--members", "1", "--target", "lce", "--out", "one.tflite"]
            for _ in ENSEMBLES
        ),
        *(["demo", "--dataset", dataset, "--json", "demo.json"] for dataset in SHOWN[:1]),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SESSION, json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_what_there_is(session):
    folder, out = session
    assert [card["name"] for card in read(folder, "all.json")["networks"]] == NAMES
    network = pretrained.shipped(NAMES[0])
    assert read(folder, "card.json") == network.card
    assert f"# {NAMES[0]}\n" in out
    assert (folder / "network.tflite").read_bytes() == network.tflite.read_bytes()


def test_a_name_where_a_file_is_taken(session):
    folder, out = session
    assert re.search(rf"^{NAMES[0]}, \d+ of \d+ members, on ", out, re.MULTILINE)
    (prediction,) = read(folder, "predicted.json")["predictions"]
    names = pretrained.shipped(NAMES[0]).card["data"]["class_names"]
    assert [choice["name"] in names for choice in prediction["top"]] == [True, True]
    inspected = read(folder, "inspected.json")
    assert inspected["bytes"] == pretrained.shipped(NAMES[0]).card["files"]["tflite"]["bytes"]
    assert inspected["binary_filter_copies"] == 1


@pytest.mark.skipif(not SHOWN, reason="no network for the samples")
@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_cut_of_a_network_is_one_of_its_file(name, session):
    """Its first members as they are, calibrated."""
    folder, _ = session
    images = read_samples(pretrained.shipped(name).card["samples"]["dataset"]).images[:4]
    cut, whole = (
        EnsembleInterpreter(path, members=2, kernel="builtin").predict(images)
        for path in (folder / "cut.tflite", name)
    )
    np.testing.assert_array_equal(cut, whole)
    assert EnsembleInterpreter(folder / "cut.tflite").metadata.temperatures
    # The file's own target changes nothing.
    assert EnsembleInterpreter(folder / "one.tflite").max_members == 1


def test_the_demo_of_a_trained_network(session):
    folder, out = session
    result, dataset = read(folder, "demo.json"), SHOWN[0]
    network = pretrained.shipped(result["network"])
    samples, recorded = read_samples(dataset), network.card["samples"]["predictions"]
    assert result["images"] == len(samples.labels)
    assert result["tflite_bytes"] == (folder / result["tflite"]).stat().st_size
    for row, predicted in zip(result["by_members"], recorded, strict=True):
        right = 100 * np.mean(np.array(predicted) == samples.labels)
        assert row["top1"] == pytest.approx(right, abs=5)  # rounding may flip a sign
    files = sorted((folder / f"runs/demo-{dataset}/images").iterdir())
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), samples.images[0])
    assert samples.class_names[samples.labels[0]] in files[0].name
    picture = Image.open(folder / result["picture"])
    assert picture.width > 8 * 96
    colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {(0, 100, 0), (178, 34, 34)} <= colours  # right ones and wrong ones
    assert f"first 1 of {network.card['members']} members" in out


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["pretrained", "none"], 1, "Unknown pretrained network 'none'. Known: "),
        (["pretrained", "--out", "x.tflite"], 2, "--out needs the NAME"),
        (["predict", "none", "x.png"], 1, NAMES[0]),
        (["inspect", "none"], 1, NAMES[0]),
        (["calibrate", NAMES[0]], 1, "comes with the package, calibrated"),
        (["evaluate", "none"], 1, NAMES[0]),
        (["convert", "none", "--out", "x.tflite"], 1, NAMES[0]),
        *(
            (["convert", name, "--members", "1", *option, "--out", "x.tflite"], 2, option[0])
            for name in ENSEMBLES
            for option in (["--dataset", "cifar100"], ["--normalization", "raw"])
        ),
        (["demo", "--network", NAMES[0]], 2, "--network has no effect on digits"),
        (["demo", "--data-dir", "x"], 2, "--data-dir has no effect on digits"),
        (["demo", "--dataset", "cifar100", "--seed", "1"], 2, "--seed has no effect on cifar100"),
        (["demo", "--dataset", "cifar100", "--network", "none"], 1, "Unknown pretrained network"),
    ],
)
def test_mistakes(arguments, status, error, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == status
    message = capsys.readouterr().err
    assert error in message
    assert len(message.splitlines()) == 1
