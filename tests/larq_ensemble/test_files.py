"""A file is whole, or it is what it was before."""

from __future__ import annotations

import dataclasses

import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import replacing, write_csv, write_text


def test_the_target_appears_when_the_block_has_ended(tmp_path) -> None:
    path = tmp_path / "new" / "model.keras"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".keras"
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8(tmp_path) -> None:
    write_text(tmp_path / "a", "3×3\n")
    assert (tmp_path / "a").read_bytes() == b"3\xc3\x973\n"


def test_a_folder_that_cannot_be(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnsembleError, match=r"Can't create the folder .*file"):
        write_text(tmp_path / "file" / "a", "x")


def test_objects_become_rows(tmp_path):
    @dataclasses.dataclass
    class Row:
        name: str
        top1: float | None

    write_csv(tmp_path / "rows.csv", [Row("fusion, M = 4", 51.5), Row("none", None)])
    assert (tmp_path / "rows.csv").read_text() == 'name,top1\n"fusion, M = 4",51.5\nnone,\n'
