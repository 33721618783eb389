"""A file is whole, or it is what it was before."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import (
    check_output,
    check_output_folder,
    is_same_file,
    replacing,
    user_path,
    write_csv,
    write_text,
)


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
    # A file name that is no UTF-8, as Python holds it.
    write_text(tmp_path / "a", os.fsdecode(b"\xff"))
    assert (tmp_path / "a").read_bytes() == b"\xff"


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


def test_a_link_stays_and_its_target_is_replaced(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.json").write_text("old")
    link, dangling = tmp_path / "link.json", tmp_path / "dangling.json"
    link.symlink_to("real/a.json")
    dangling.symlink_to("real/b.json")
    for path in (link, dangling):
        with replacing(path) as temporary:
            # On the target's disk, where a rename is atomic.
            assert temporary.parent == tmp_path / "real"
            temporary.write_text("new")
        assert path.is_symlink()
    assert [file.read_text() for file in (tmp_path / "real").iterdir()] == ["new", "new"]


def test_the_folder_of_what_a_link_names_is_made(tmp_path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to("missing/folder/a.json")
    check_output(link)
    write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "missing" / "folder" / "a.json").read_text() == "new"


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o640])
def test_mode_and_owner_are_kept(tmp_path, mode: int) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    owner = (12345, 54321) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(path, *owner)
    path.chmod(mode)
    with replacing(path) as temporary:
        # Nobody else can read what is being written.
        assert stat.S_IMODE(temporary.stat().st_mode) == mode
        temporary.write_text("new")
    status = path.stat()
    assert path.read_text() == "new"
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, *owner)


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path) -> None:
    umask = os.umask(0o027)
    try:
        write_text(tmp_path / "a.json", "new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_a_device_is_written_to_not_replaced() -> None:
    check_output(os.devnull)
    write_text(os.devnull, "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this device")
def test_a_full_device_is_one_error() -> None:
    with pytest.raises(EnsembleError, match=r"Can't write '/dev/full' \(No space left on device\)"):
        write_text("/dev/full", "x")


def test_a_named_pipe_and_an_open_file_are_written_to(tmp_path) -> None:
    fifo = tmp_path / "results"
    os.mkfifo(fifo)
    check_output(fifo)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_text()), daemon=True)
    reader.start()
    write_text(fifo, "through\n")
    reader.join(10)
    assert found == ["through\n"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)

    # A shell's `> log`: what stands in it already stays, and so does the file.
    with open(tmp_path / "log", "w") as log:
        log.write("before\n")
        log.flush()
        write_text(f"/dev/fd/{log.fileno()}", "result\n")
        log.write("after\n")
    assert (tmp_path / "log").read_text() == "before\nresult\nafter\n"


def test_a_mount_point_is_written_in_place(tmp_path, monkeypatch) -> None:
    """As `docker run -v $PWD/a.json:/a.json` makes one: it can't be renamed over."""
    path = tmp_path / "a.json"
    path.write_text("old")
    inode = path.stat().st_ino

    def busy(*paths) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    write_text(path, "new")
    assert (path.read_text(), path.stat().st_ino) == ("new", inode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_name_is_no_problem(tmp_path) -> None:
    path = tmp_path / ("é" * 125 + ".json")  # 255 bytes, the most that a name may have
    write_text(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_the_error_names_the_file_that_was_asked_for(tmp_path) -> None:
    def write_like_hdf5() -> None:
        with replacing(tmp_path / "a.h5") as temporary:
            raise OSError(errno.ENOSPC, f"can't extend '{temporary}'")

    with pytest.raises(EnsembleError) as raised:
        write_like_hdf5()
    assert str(raised.value).count("a.h5") == 2
    assert ".a-" not in str(raised.value)


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder into which nobody may write: root, who runs tests in containers, may anywhere."""
    folder = tmp_path / "closed"
    folder.mkdir()
    make, access = os.open, os.access

    def refuse(path, *arguments, **named):
        if os.fspath(path).startswith(str(folder)):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return make(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(
        os, "access", lambda path, mode: os.fspath(path) != str(folder) and access(path, mode)
    )
    return folder


def test_a_closed_folder_is_refused_before_the_work(closed) -> None:
    for check, path in (
        (check_output, closed / "a.json"),
        (check_output, closed / "new" / "a.json"),
        (check_output_folder, closed),
        (check_output_folder, closed / "new"),
    ):
        with pytest.raises(EnsembleError, match=r"`out` '.*closed.* can't be written \(.*denied"):
            check(path, "out")
    assert not list(closed.iterdir())


def test_a_file_in_a_closed_folder_is_written_in_place(closed) -> None:
    path = closed / "a.json"
    path.write_text("old")
    check_output(path)
    write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("check", [check_output, check_output_folder])
def test_a_check_leaves_nothing(tmp_path, check) -> None:
    check(tmp_path / "new" / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "expected"),
    [("~", ""), ("~/a/", "a"), (Path("~/a"), "a"), ("~no-such-user/a", None), ("a/~", None)],
)
def test_the_home_in_a_path(tmp_path, monkeypatch, path, expected) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path(path) == (Path(path) if expected is None else tmp_path / expected)


def test_an_output_folder_named_like_the_home_of_nobody(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_output_folder("~no-such-user/a") == Path("~no-such-user/a")


def test_outputs_that_cannot_be(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnsembleError, match=r"`out` '.*' can't be written \(it is a directory\)"):
        check_output(tmp_path, "out")
    with pytest.raises(EnsembleError, match=r"`path` 'new/' can't be written \(it is a di"):
        check_output("new/")
    with pytest.raises(EnsembleError, match=r"`path` '' can't be written \(the name is empty\)"):
        check_output("")
    with pytest.raises(EnsembleError, match=r"`out` is empty"):
        check_output_folder("")
    with pytest.raises(EnsembleError, match=r"`out` '.*file' is a file: give the name of a folder"):
        check_output_folder(tmp_path / "file", "out")
    for check in (check_output, check_output_folder):
        with pytest.raises(EnsembleError, match=r"can't be written \('.*file' is no folder\)"):
            check(tmp_path / "file" / "a")


def test_a_loop_of_links_is_refused(tmp_path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(EnsembleError, match="Too many levels of symbolic links"):
        check_output(tmp_path / "a")


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path) -> None:
    for check in (check_output, check_output_folder):
        with pytest.raises(EnsembleError, match=r"`out` '.*' can't be written \(.*name too long"):
            check(tmp_path / ("x" * 300), "out")


def test_one_file_by_two_names(tmp_path) -> None:
    (tmp_path / "link").symlink_to("a")
    assert is_same_file(tmp_path / "link", tmp_path / "." / "a")
    assert not is_same_file(tmp_path / "b", tmp_path / "a")
