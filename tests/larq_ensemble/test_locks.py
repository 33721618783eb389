"""Locks of folders, with other processes that hold them and that are killed."""

import os
import signal
import subprocess
import sys

import pytest

from larq_ensemble import locks
from larq_ensemble.errors import EnsembleError
from larq_ensemble.locks import check_unlocked, locked, resumable

HOLD = """
import sys, time
from pathlib import Path
from larq_ensemble.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_folder_has_one_holder(tmp_path):
    with locked(tmp_path):
        message = rf"`out` '{tmp_path}' is being written by process {os.getpid()} on .*: wait"
        with pytest.raises(EnsembleError, match=message), locked(tmp_path):
            pass
        with pytest.raises(EnsembleError, match=message):
            check_unlocked(tmp_path)
        (tmp_path / "other").mkdir()
        with locked(tmp_path / "other"):
            pass
    check_unlocked(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]  # nothing is left behind


def test_the_lock_of_a_killed_process_does_not_block(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(EnsembleError, match=f"written by process {process.pid} on"):
            check_unlocked(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / locks.LOCK).exists()
    check_unlocked(tmp_path)
    with locked(tmp_path):
        pass


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    """A process opens the file, then its holder removes it, then a third one locks a new file."""
    acquire, removed = locks._acquire, []

    def removing_once(file):
        acquire(file)
        if not removed:
            removed.append(os.unlink(tmp_path / locks.LOCK))

    monkeypatch.setattr(locks, "_acquire", removing_once)
    with locked(tmp_path), pytest.raises(EnsembleError, match="is being written"):
        check_unlocked(tmp_path)
    assert len(removed) == 1


def test_a_folder_that_is_write_protected(tmp_path, monkeypatch):
    def refuse(*_, **__):  # root may write to any folder
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locks, "open", refuse, raising=False)
    message = r"`out` .* can't be written to \(Permission denied\): choose another"
    with pytest.raises(EnsembleError, match=message), locked(tmp_path):
        pass


def test_a_folder_that_is_gone(tmp_path):
    message = r"`folder` .* can't be written to \(No such file"
    with pytest.raises(EnsembleError, match=message), locked(tmp_path / "gone", "folder"):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locked(tmp_path):
        pass


def test_resumable_work(tmp_path):
    def work(**options):
        settings = {"size": options.pop("size", 1)}
        names = {"what": "job", "file": "job.json", "files": ("job.json", "part.npy")}
        return resumable(tmp_path / "job", settings, way_out="begin anew", **names, **options)

    with work() as folder:
        (folder / "1").mkdir()
        (folder / "1" / ".part-0123abcd.npy").touch()  # as `replacing` leaves it when it is killed
        (folder / "1" / "part.npy").touch()
    with work() as folder:
        assert sorted(path.name for path in folder.rglob("*")) == [
            ".lock", "1", "job.json", "part.npy",
        ]  # fmt: skip
        with pytest.raises(EnsembleError, match="is being written by"), work():
            pass
    with pytest.raises(EnsembleError, match="`size` = 1, not 2"), work(size=2):
        pass
    with work(size=1, newer=("size",)):
        pass
    with pytest.raises(EnsembleError, match="`size` = 1, not 2"), work(size=2, newer=("size",)):
        pass
    (folder / "job.json").write_text("{}")  # as a version wrote it that had no size
    with work(size=2, newer=("size",)):
        pass
    with pytest.raises(EnsembleError, match="`size` = None, not 2"), work(size=2):
        pass
    with pytest.raises(EnsembleError, match="holds a job already"), work(resume=False):
        pass
    (folder / "job.json").unlink()
    with pytest.raises(EnsembleError, match=r"holds other files, but no job \(job.json\)"), work():
        pass
