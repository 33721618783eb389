import os
import subprocess
import sys

import numpy as np
import pytest

from larq_ensemble import locks
from larq_ensemble.data import encoded
from larq_ensemble.data.cache import NoRoomError, cached, entry_name
from larq_ensemble.data.opening import open_dataset
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.progress import listening

IMAGES = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)


def chunks():
    yield IMAGES[:3], {"labels": np.arange(3), "names": np.array(["a", "b", "c"])}
    yield IMAGES[3:], {"labels": np.arange(2), "names": np.array(["long", ""])}


def never():
    raise AssertionError("The images were read again.")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "larq-ensemble"


def test_an_entry_is_made_once(folder):
    for make in (chunks, never):
        entry = cached("set", "key", IMAGES.nbytes, make)
        assert np.array_equal(entry.images, IMAGES)
        assert isinstance(entry.images, np.memmap)
        assert entry.columns["labels"].tolist() == [0, 1, 2, 0, 1]
        assert entry.columns["names"].tolist() == ["a", "b", "c", "long", ""]
    assert sorted(path.name for path in folder.rglob("*")) == ["columns.npz", "images.raw", "set"]
    entry = cached("set", "other key", 0, lambda: [(IMAGES[:1], {})])
    assert np.array_equal(entry.images, IMAGES[:1])
    assert [path.name for path in folder.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "images.raw").write_bytes(b"short"),
        lambda path: (path / "images.raw").unlink(),
        lambda path: (path / "columns.npz").write_bytes(b"x"),
        lambda path: (path / "columns.npz").unlink(),
    ],
)
def test_a_damaged_entry_is_made_again(folder, damage):
    cached("set", "key", 0, chunks)
    damage(folder / "set")
    assert np.array_equal(cached("set", "key", 0, chunks).images, IMAGES)
    assert np.array_equal(cached("set", "key", 0, never).images, IMAGES)


@pytest.mark.parametrize("error", [KeyboardInterrupt, EnsembleError])
def test_an_interrupt_leaves_nothing(folder, error):
    def interrupted():
        yield from chunks()
        raise error

    with pytest.raises(error):
        cached("set", "key", 0, interrupted)
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(folder):
    program = """
import os, numpy as np
from larq_ensemble.data.cache import cached
def chunks():
    yield np.zeros((1, 2, 2, 3), np.uint8), {}
    os._exit(9)
cached("set", "key", 0, chunks)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    (left,) = folder.iterdir()
    assert left.name.startswith(".set-")

    def other_process():
        yield from chunks()
        cached("set", "key", 0, chunks)

    assert np.array_equal(cached("set", "key", 0, other_process).images, IMAGES)
    assert [path.name for path in folder.iterdir()] == ["set"]


def test_what_a_process_is_about_to_move_stays(folder, monkeypatch):
    """It releases its lock just when another process, which saw the lock, looks for leftovers."""
    written = folder / ".set-written"
    written.mkdir(parents=True)
    (written / "images.raw").write_bytes(b"images")
    acquire, holding = locks._acquire, locks.locked(written)
    holding.__enter__()

    def released_meanwhile(file):
        monkeypatch.setattr(locks, "_acquire", acquire)
        holding.__exit__(None, None, None)
        acquire(file)

    monkeypatch.setattr(locks, "_acquire", released_meanwhile)
    cached("set", "key", 0, chunks)
    assert sorted(path.name for path in written.iterdir()) == ["images.raw"]


def test_processes_that_write_one_entry_at_once(folder):
    program = """
import numpy as np
from larq_ensemble.data.cache import cached
print("ready", flush=True)
input()
def chunks():
    yield np.ones((1, 2, 2, 3), np.uint8), {}
for entry in range(60):
    assert cached(f"set{entry}", "key", 0, chunks).images.sum() == 12
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) for _ in range(2)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate()
        assert not errors
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"set{i}" for i in range(60))


@pytest.mark.parametrize("place", ["", "file"])
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    size = 0 if place else 10**20
    with pytest.raises(NoRoomError, match="make room there, or set"):
        cached("set", "key", size, chunks)


def test_without_the_variable_it_is_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for value in ("", "relative/is/ignored"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        cached("set", "key", 0, chunks)
        assert (tmp_path / ".cache/larq-ensemble/set").is_dir()


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr("pathlib.Path.home", no_home)
    with pytest.raises(NoRoomError, match="Could not determine"):
        cached("set", "key", 0, chunks)


def test_names_of_entries():
    name = entry_name("a/b \udcff 64x64", "/path", (1, 2))
    assert name.startswith("a-b-64x64-")
    assert name != entry_name("a/b \udcff 64x64", "/other path", (1, 2))


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_of_encoded_images_are_of_their_classes(photos, label):
    """Some data sets have -1 for images without a label."""
    files = [photos / f"cat/{number}.png" for number in range(3)]
    images = encoded.EncodedImages(
        what="images",
        entry="labels",
        key=str(label),
        count=3,
        class_names=["cat", "dog"],
        images=lambda: map(encoded.Encoded, files, ["train"] * 3, [0, 1, label]),
        name=str,
    )
    with pytest.raises(EnsembleError, match=f"must be from 0 to 1. Received: {label}"):
        images.read((6, 5, 3), ImageOptions(test_share=0))


def test_a_folder_is_decoded_once_and_tells_how_far_it_is(photos, monkeypatch):
    told = []
    with listening(lambda work: told.append((work.what, work.done, work.total))):
        open_dataset(f"folder:{photos}")
    assert told[-1] == ("reading images", 20, 20)
    assert {done for what, done, _ in told if what == "reading images"} == {0, 16, 20}
    monkeypatch.setattr(encoded, "read_image", lambda *_: never())
    first = open_dataset(f"folder:{photos}").constants()
    # A file that changed in place is decoded again, and one that was only read is not.
    path = photos / "cat/1.png"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns + 10**9, status.st_mtime_ns))
    assert open_dataset(f"folder:{photos}").constants() == first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    with pytest.raises(AssertionError, match="read again"):
        open_dataset(f"folder:{photos}")
