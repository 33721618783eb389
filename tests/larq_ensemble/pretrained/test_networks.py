"""What is in the package agrees with its cards, whatever the networks are. Needs no TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from larq_ensemble import EnsembleError, EnsembleInterpreter, pretrained
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.graph import Content
from larq_ensemble.pretrained import cards, catalog
from larq_ensemble.pretrained.cards import bytes_by_members, markdown, overview
from larq_ensemble.pretrained.catalog import FOLDER, backbone_of
from larq_ensemble.pretrained.samples import Samples, read_samples, sample_names, write_samples
from larq_ensemble.pretrained.weights import Signs
from larq_ensemble.runtime.combination import combine

ROOT = Path(__file__).parents[3]
NAMES = pretrained.names()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_there_are_networks_and_they_are_small():
    assert NAMES
    files = [*FOLDER.iterdir(), *(FOLDER.parent / "images").iterdir()]
    assert {path.stem for path in FOLDER.iterdir()} == set(NAMES)
    assert sum(path.stat().st_size for path in files) < 3_100_000


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_those_of_the_card(name):
    network = pretrained.shipped(name)
    card, stored = network.card, network.weights
    assert card["name"] == name
    for kind, path in (("tflite", network.tflite), ("weights", network.weights_path)):
        assert card["files"][kind]["bytes"] == path.stat().st_size
        assert card["files"][kind]["sha256"] == digest(path)
    assert card["model"] == stored.config["model"]
    assert card["run_hash"] == stored.run_hash
    assert network.has_single == (stored.single() is not None)
    assert card["ensemble"].get("backbone") == stored.config["ensemble"].get("backbone")
    assert stored.config["ensemble"].get("members", 1) == card["members"]
    assert len(card["accuracy"]["by_members"]) == len(bytes_by_members(card)) == card["members"]
    assert bytes_by_members(card)[-1] == network.tflite.stat().st_size
    for row in card["accuracy"]["by_members"]:
        # Wilson's interval: where the test of the true share against the found one stands on 5 %.
        share, n = row["top1"] / 100, card["accuracy"]["images"]
        for end in (row["low"] / 100, row["high"] / 100):
            assert abs(share - end) == pytest.approx(
                norm.ppf(0.975) * np.sqrt(end * (1 - end) / n), rel=1e-6
            )


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_those_of_the_network_each_shared_one_once(name):
    network = pretrained.shipped(name)
    stored, model = network.weights, network.card["model"]
    graph = trace_model(
        model["name"],
        **{key: model[key] for key in ("input_shape", "classes", "width", "revision")},
    )
    binary = {
        layer.name: item.count
        for layer in graph
        for item in layer.stored
        if item.content is Content.BINARY_FILTER
    }
    for layer, count in binary.items():
        array = stored.arrays[f"{layer}/kernel"]
        assert isinstance(array, Signs)
        copies = network.card["members"] if layer in stored.own else 1
        assert np.prod(array.shape) == count * copies
    mirror = {"mirror"} if network.card["ensemble"].get("mirror") else set()
    assert stored.own <= set(graph.layers) | mirror
    for layer in mirror:  # every second member sees the mirrored image
        columns = np.tile(np.arange(model["input_shape"][1]), (network.card["members"], 1))
        columns[1::2] = columns[1::2, ::-1]
        np.testing.assert_array_equal(stored.arrays[f"{layer}/columns"], columns)
    for key, array in stored.arrays.items():
        if key.partition("/")[0] in stored.own:
            assert array.shape[0] == network.card["members"]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_predicts_what_the_card_recorded(name):
    network = pretrained.shipped(name)
    card, file = network.card, EnsembleInterpreter(name)
    assert file.max_members == card["members"]
    assert list(file.class_names) == card["data"]["class_names"]
    assert file.metadata.run_hash == network.weights.run_hash
    if (recorded := card["samples"]) is None:
        return
    samples = read_samples(recorded["dataset"])
    logits = file.predict_logits(samples.images)
    for count in {1, card["members"]}:
        weights = file.weights and file.weights[:count]
        predicted = combine(logits[:count], file.scheme, weights).argmax(axis=1)
        expected = np.array(recorded["predictions"][count - 1])
        # Another processor rounds otherwise, which may flip a sign.
        assert (predicted == expected).mean() > 0.95
        # And the network is not broken: far above chance, on images that are no worse than others.
        top1 = card["accuracy"]["by_members"][count - 1]["top1"]
        right = (predicted == samples.labels).mean() * 100
        assert right > top1 - 30


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_are_rendered_from_the_cards(name):
    card = pretrained.shipped(name).card
    page = (ROOT / "docs" / "pretrained" / f"{name}.md").read_text(encoding="utf-8")
    assert page == markdown(card)
    index = (ROOT / "docs" / "pretrained" / "index.md").read_text(encoding="utf-8")
    assert f"({name}.md)" in index
    top1 = f"{card['accuracy']['by_members'][-1]['top1']:.1f} %"
    (row,) = (line for line in index.splitlines() if line.startswith(f"| [{name}]"))
    assert top1 in row
    told = [network_text(name), json.dumps(pretrained.shipped(name).weights.config)]
    assert not re.search(r"/(root|home|tmp|work)/", "".join(told))  # no place on a machine


def test_the_table_of_the_readme_is_that_of_the_cards():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(.+)`\]\(docs/pretrained/.+\.md\) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) > 1
    for name, cells in rows:
        card = pretrained.shipped(name).card
        top1 = [f"{row['top1']:.1f} %" for row in card["accuracy"]["by_members"]]
        size = [f"{size:,}" for size in bytes_by_members(card)]
        two, every = (f"{top1[m]}, {size[m]}" for m in (1, -1))
        assert cells == f"{top1[0]} | {two} | M = {card['members']}: {every}"


def network_text(name: str) -> str:
    return pretrained.shipped(name).card_path.read_text(encoding="utf-8")


def test_the_overview_has_a_row_for_each():
    columns, rows = overview([pretrained.shipped(name).card for name in NAMES])
    assert [row[0] for row in rows] == NAMES
    assert all(len(row) == len(columns) for row in rows)


def test_a_path_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = NAMES[0]
    assert pretrained.found(name) == pretrained.shipped(name)
    assert pretrained.tflite_path(name) == pretrained.shipped(name).tflite
    Path(name).mkdir()
    assert pretrained.found(name) is None
    assert pretrained.tflite_path(name) == name
    assert pretrained.tflite_path("none.tflite") == "none.tflite"


def test_a_card_without_an_entry_is_damaged(tmp_path):
    network = pretrained.Shipped("some", tmp_path)
    card = dict(pretrained.shipped(NAMES[0]).card)
    card.pop("accuracy")
    network.card_path.write_text(json.dumps(card))
    with pytest.raises(EnsembleError, match=r"lacks 'accuracy': install larq-ensemble again"):
        _ = network.card


def test_unknown_names_tell_the_known_ones():
    with pytest.raises(EnsembleError, match=f"pretrained network 'none'. Known: .*{NAMES[0]}"):
        pretrained.shipped("none")
    with pytest.raises(EnsembleError, match=f"Can't read the model 'none'.*{NAMES[0]}"):
        EnsembleInterpreter("none")
    with pytest.raises(EnsembleError, match="`weights` 'mnist' has no network 'deploynet9'"):
        backbone_of("deploynet9", "mnist")
    for name in NAMES:
        with pytest.raises(EnsembleError, match=f"'{name}' is of the network .*, not 'resnet18'"):
            backbone_of("resnet18", name)


def listed(monkeypatch, tmp_path, *networks: tuple[str, float, int, bool]) -> None:
    """Lists (name, width, members, has a single network) besides what it listed before."""
    for name, width, members, has_single in networks:
        card = json.loads((FOLDER / f"{NAMES[0]}.json").read_text(encoding="utf-8"))
        stage = {**card["training"][-1], "ensemble": {"keep_pretrained": has_single}}
        card |= {"name": name, "members": members, "training": [stage]}
        card |= {"model": {"name": "net", "width": width}, "data": {"name": "mnist"}}
        (tmp_path / f"{name}.json").write_text(json.dumps(card))
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    monkeypatch.setattr(catalog, "Shipped", functools.partial(pretrained.Shipped, folder=tmp_path))


def test_an_ensemble_of_one_member_is_no_single_network():
    card = {"kind": "ensemble", "members": 1, "training": [{"ensemble": {}}]}
    assert not cards.has_single(card)
    assert cards.has_single({**card, "kind": "backbone"})


def test_a_single_network_may_come_in_an_ensemble(monkeypatch, tmp_path):
    listed(monkeypatch, tmp_path, ("a", 1.0, 8, True), ("b", 0.5, 4, True), ("c", 1.0, 8, False))
    assert backbone_of("net", "mnist").name == "a"
    assert backbone_of("net", "mnist", 0.5).name == "b"
    assert backbone_of("net", "b").name == "b"
    with pytest.raises(EnsembleError, match=r"'net' of `width` 2\.0: give 0\.5 or 1\."):
        backbone_of("net", "mnist", 2.0)
    with pytest.raises(EnsembleError, match=r"'mnist' has no network 'x'.*: a \(of 'net'\), b "):
        backbone_of("x", "mnist")
    with pytest.raises(EnsembleError, match=r"'c' .* doesn't keep .*`load_ensemble\('c'\)` makes"):
        backbone_of("net", "c")
    with pytest.raises(EnsembleError, match=r"not 'x': `build_model\('net', weights='b'\)`"):
        backbone_of("x", "b")
    listed(monkeypatch, tmp_path, ("d", 1.0, 2, True))
    with pytest.raises(EnsembleError, match=r"several .* 'net' of width 1\.0: give .* one, a, d"):
        backbone_of("net", "mnist")
    listed(monkeypatch, tmp_path, ("e", 1.0, 1, True))
    assert backbone_of("net", "mnist").name == "e"


def test_a_network_of_another_width_only(monkeypatch, tmp_path):
    listed(monkeypatch, tmp_path, ("b", 0.5, 4, True))
    with pytest.raises(EnsembleError, match=r"of `width` 1\.0: give 0\.5\."):
        backbone_of("net", "mnist")


@pytest.mark.parametrize("dataset", sample_names())
def test_samples(dataset, tmp_path):
    samples = read_samples(dataset)
    assert samples.images.shape == (48, 32, 32, 3)
    assert samples.images.std(axis=(1, 2, 3)).min() > 1  # none is blank
    assert 0 <= samples.labels.min() <= samples.labels.max() < len(samples.class_names)
    assert "Krizhevsky" in samples.origin
    # Tiles are where they belong.
    marked = np.zeros((16, 2, 3, 3), np.uint8) + np.arange(16, dtype=np.uint8)[:, None, None, None]
    marked[..., 0] += np.arange(6, dtype=np.uint8).reshape(2, 3) * 20
    write_samples(Samples("x", marked, np.arange(16), ("a",), ""), tmp_path, columns=8)
    again = read_samples("x", tmp_path)
    np.testing.assert_array_equal(again.images, marked)
