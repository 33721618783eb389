"""Metadata survive a round trip through JSON, and bad values are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.cascade import Cascade
from larq_ensemble.runtime.metadata import VERSION, EnsembleMetadata

VALUES: dict[str, Any] = {
    "scheme": "fusion",
    "members": 2,
    "classes": 3,
    "input_shape": (32, 24, 3),
    "class_names": ("cat", 'a "quoted" name', "Fähre 🚢"),
    "dataset": "pets",
    "run_hash": "ab" * 32,
    "theory_parts": {"shared_conv": 100, "member_norm": 20},
    "tools": {"larq-ensemble": "0.1.0"},
    "temperatures": (1.25, 1.0),
    "cascade": Cascade((0.75,)),
    "top1": (60.5, 100),
    "instructions": {"Cortex-A76, LiteRT": {"image": 360_000, "member": 2_000_000}},
    "data_origin": {"images": {"image_size": [32, 24], "test_share": 0.2}, "fingerprint": "cd"},
    "validation_split": {"seed": 3, "share": 0.1, "limit_train": 1000},
}


def test_json_round_trip() -> None:
    metadata = EnsembleMetadata(**VALUES)
    assert EnsembleMetadata.from_json(metadata.to_json()) == metadata
    assert metadata.theory_bytes == 120


def test_metadata_of_the_first_members() -> None:
    parts = {"shared_stem": 100, "member_heads": 30}
    values = {**VALUES, "members": 3, "theory_parts": parts, "weights": (0.5, 2.0, 1.0),
              "temperatures": (1.0, 1.5, 2.0), "cascade": Cascade((0.5, None)),
              "top1": (60.0, 61.5, 62.0)}  # fmt: skip
    metadata = EnsembleMetadata(**values).first(2)
    assert metadata.temperatures == (1.0, 1.5)
    assert metadata.cascade == Cascade((0.5,))
    assert metadata.top1 == (60.0, 61.5)
    assert metadata.instructions == VALUES["instructions"]
    assert EnsembleMetadata(**values).first(1).cascade == Cascade(())
    assert metadata.members == 2
    assert metadata.weights == (0.5, 2.0)
    assert metadata.theory_parts == {"shared_stem": 100, "member_heads": 20}
    assert metadata.class_names == VALUES["class_names"]
    for members in (0, 4, True, "2"):
        with pytest.raises(EnsembleError, match=r"`members` must be .* from 1 to 3, got"):
            EnsembleMetadata(**values).first(members)
    assert EnsembleMetadata(**values).first(np.uint8(2)) == metadata


def test_lower_bound_of_the_first_of_members_with_equal_values() -> None:
    parts = {"shared_stem": 100, "member_heads": 20, "member_norm": 6}
    values = {**VALUES, "members": 3, "theory_parts": parts, "top1": None, "temperatures": None,
              "weights": None, "cascade": None,
              "theory_parts_of_first": {"member_heads": (10, 10, 20)}}  # fmt: skip
    metadata = EnsembleMetadata(**values)
    assert EnsembleMetadata.from_json(metadata.to_json()) == metadata
    assert metadata.first(2).theory_parts == {
        "shared_stem": 100, "member_heads": 10, "member_norm": 4
    }  # fmt: skip
    assert metadata.first(2).theory_parts_of_first == {"member_heads": (10, 10)}
    assert metadata.first(1).theory_parts_of_first == {}
    assert metadata.first(3) == metadata
    wrong: list[object] = [(10, 20), (10, 10, 30), (10, -1, 20), (30, 10, 20), [10, 10, 20]]
    for of_first in (
        *({"member_heads": sizes} for sizes in [*wrong, (10, 10.5, 20), None]),
        {"shared_stem": (0, 0, 100)},
    ):
        with pytest.raises(EnsembleError, match="`theory_parts_of_first` must be 3 rising numbers"):
            EnsembleMetadata(**{**values, "theory_parts_of_first": of_first})


def test_empty_fields_are_not_written() -> None:
    values = json.loads(EnsembleMetadata(**VALUES).to_json())
    assert values["version"] == VERSION == 2
    assert values["class_names"][2] == "Fähre 🚢"
    assert values["theory_bytes"] == 120
    assert "dataset" not in json.loads(EnsembleMetadata(**{**VALUES, "dataset": None}).to_json())


def test_files_for_lce_say_nothing_of_their_target() -> None:
    """As all files did before there were others, so that they stay equal to the byte."""
    values = json.loads(EnsembleMetadata(**VALUES).to_json())
    assert not {"target", "filters"} & values.keys()
    stock = EnsembleMetadata(**VALUES, target="litert", filters="1bit")
    assert EnsembleMetadata.from_json(stock.to_json()) == stock
    values = json.loads(stock.to_json())
    assert (values["target"], values["filters"]) == ("litert", "1bit")
    assert [*values][-2:] == ["sha256", "theory_bytes"]


@given(names=st.lists(st.text(), min_size=3, max_size=3))
def test_any_class_names(names: list[str]) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError:  # lone surrogates are no text
        return
    metadata = EnsembleMetadata(**{**VALUES, "class_names": tuple(names)})
    assert EnsembleMetadata.from_json(metadata.to_json()).class_names == tuple(names)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("members", 0),
        ("members", True),
        ("members", "2"),
        ("classes", -1),
        ("input_shape", (32, 32)),
        ("input_shape", (32, 0, 3)),
        ("input_shape", 32),
        ("class_names", ("cat",)),
        ("class_names", ("cat", "dog", 3)),
        ("dataset", 5),
        ("layout", None),
        ("heads", "float64"),
        ("heads", None),
        ("precision", "int8"),
        ("target", "tpu"),
        ("target", None),
        ("filters", "int8"),  # of a file for LCE
        ("columns", {"batch_norm": 0}),
        ("columns", {"batch_norm": 1.5}),
        ("theory_parts", {"shared_conv": "many"}),
        ("tools", ["larq"]),
        ("sha256", 0),
        ("weights", (1.0,)),
        ("weights", (1.0,) * 9),
        ("weights", "ab"),
        ("temperatures", (1.0,)),
        ("temperatures", (1.0, 0.0)),
        ("validation_split", {"seed": "3"}),
        ("data_origin", None),
        ("top1", (60.5,)),
        ("top1", (60.5, 100.1)),
        ("top1", (60.5, None)),
        ("instructions", {"A76": 1}),
        ("instructions", {"A76": {"image": 1}}),
        ("instructions", {"A76": {"image": 1, "member": -1}}),
        ("data_origin", {"fingerprint": "cd"}),
        ("data_origin", {"images": "all", "fingerprint": "cd"}),
    ],
)
def test_bad_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(EnsembleError, match=rf"`{name}` must be .*Received: "):
        EnsembleMetadata(**{**VALUES, name: value})
    document = {**json.loads(EnsembleMetadata(**VALUES).to_json()), name: value}
    with pytest.raises(EnsembleError, match=rf"`{name}`"):
        EnsembleMetadata.from_json(json.dumps(document).encode())


def test_a_threshold_for_each_member_but_the_last() -> None:
    for thresholds in [(), (1.0, 2.0)]:
        with pytest.raises(EnsembleError, match="`cascade` must be a rule with 1 thresholds"):
            EnsembleMetadata(**{**VALUES, "cascade": Cascade(thresholds)})
    assert EnsembleMetadata(**{**VALUES, "cascade": Cascade((None,))}).to_json()


@pytest.mark.parametrize("scheme", ["nonsense", ["fusion"], None])
def test_unknown_schemes_are_refused(scheme: Any) -> None:
    with pytest.raises(EnsembleError, match=r"Unknown scheme.*fusion"):
        EnsembleMetadata(**{**VALUES, "scheme": scheme})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "must be a JSON object"),
        (b"{}", "lacks classes, input_shape, members, scheme, version"),
        (b'{"version": 3, "scheme": "of the future"}', "newer larq-ensemble"),
    ],
)
def test_other_json_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        EnsembleMetadata.from_json(data)


def test_unknown_fields_are_ignored() -> None:
    document = {**json.loads(EnsembleMetadata(**VALUES).to_json()), "colour": "green"}
    loaded = EnsembleMetadata.from_json(json.dumps(document).encode())
    assert loaded == EnsembleMetadata(**VALUES)
