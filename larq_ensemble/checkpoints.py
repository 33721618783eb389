"""Checkpoints of a training: the newest two, found by their names.

`tf.train.CheckpointManager` knows its checkpoints from an index file only, and begins anew without
it. It deletes old ones by a glob pattern made from their path, which matches nothing if the path
has a `[` in it; TensorFlow's readers do the same. The files are TensorFlow's, for its tools, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.files import gone, remove_leftovers, write_text
from larq_ensemble.keras import tf

#: What TensorFlow raises where hosts compute together and one of them has ended.
HOST_LOST = (tf.errors.AbortedError, tf.errors.UnavailableError)
_KEPT = 2
_GLOB = "[]*?" if os.sep == "\\" else "[]*?\\"
_INDEX = re.compile(r"ckpt-(\d+)\.index")
# What TensorFlow writes before it renames, to be removed after a kill.
_UNFINISHED = re.compile(r"ckpt-\d+_temp.*|ckpt-\d+\..*tempstate\d+|checkpoint\.tmp[0-9a-f]+")


class Checkpoints:
    """The numbered checkpoints of a folder, `ckpt-N`.

    # Arguments
        folder: of the checkpoints; created with the first one, its parent has to exist.
        state: what a checkpoint holds, as for `tf.train.Checkpoint`.
    """

    def __init__(self, folder: Path, **state: Any) -> None:
        self.folder = folder.absolute()
        self._checkpoint = tf.train.Checkpoint(**state)
        self._restored: int | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None

    def numbers(self) -> list[int]:
        """The numbers of the checkpoints there, readable or not, in order."""
        if not self.folder.is_dir():
            return []
        found = (_INDEX.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def restore(self) -> int | None:
        """Restores the newest readable checkpoint: a full disk may have truncated the last one.

        # Returns
            Its number; `None` if there are no checkpoints.

        # Raises
            EnsembleError: if none of them can be read, or it lacks a part of the state.
        """
        numbers = self.numbers()
        for number in reversed(numbers):
            prefix = self._readable_prefix(number)
            if _readable(prefix):
                self._read(prefix)
                self._restored = number
                return number
        if numbers:
            raise EnsembleError(
                f"None of the checkpoints in {str(self.folder)!r} can be read: they are truncated "
                "or damaged. Restore them from a copy, or train again in another directory."
            )
        return None

    def _read(self, prefix: str) -> None:
        try:
            self._checkpoint.read(prefix).assert_existing_objects_matched()
        except AssertionError as error:
            raise EnsembleError(
                f"The checkpoints in {str(self.folder)!r} lack a part of what this training needs "
                "to go on: another version of larq-ensemble, or of its packages, wrote them. Go on "
                "with that version, or train again in another directory."
            ) from error

    def _readable_prefix(self, number: int) -> str:
        """The prefix of a checkpoint for TensorFlow, which takes what it reads for a glob pattern.

        If it would read another file, it gets a copy. The copy stays as long as this object, since
        variables that do not exist yet are read when they are created.
        """
        prefix = str(self.folder / f"ckpt-{number}")
        if not any(character in prefix for character in _GLOB):
            return prefix
        self._copy = tempfile.TemporaryDirectory(prefix="larq-ensemble-")
        for path in self.folder.iterdir():
            if path.name.startswith(f"ckpt-{number}."):
                shutil.copy(path, self._copy.name)
        return os.path.join(self._copy.name, f"ckpt-{number}")

    def save(self, number: int) -> None:
        """Saves a checkpoint, then deletes all but the newest two.

        # Raises
            EnsembleError: if it can't be written. The ones before stay.
        """
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            self._remove_unfinished()
            self._checkpoint.write(str(self.folder / f"ckpt-{number}"))
            self._keep_newest(number)

    def tidy(self) -> None:
        """Removes what a killed process left: files that it had not finished, or not yet deleted.

        Only one process may do so, after `restore` and before it saves.
        """
        if self._restored is not None:
            with writing(self.folder):
                self._remove_unfinished()
                self._keep_newest(self._restored)

    def _keep_newest(self, number: int) -> None:
        """Deletes all but the newest two and the given one, which can be read."""
        numbers = self.numbers()
        kept = [each for each in numbers if each in numbers[-_KEPT:] or each >= number]
        write_text(  # for TensorFlow's tools
            self.folder / "checkpoint",
            f'model_checkpoint_path: "ckpt-{number}"\n'
            + "".join(f'all_model_checkpoint_paths: "ckpt-{each}"\n' for each in kept),
        )
        for old in set(numbers).difference(kept):
            self._delete(old)

    def _delete(self, number: int) -> None:
        # The index first: without it the data are no checkpoint.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.suffix != ".index"):
            if path.name.startswith(f"ckpt-{number}."):
                path.unlink(missing_ok=True)

    def _remove_unfinished(self) -> None:
        numbers = {f"ckpt-{number}" for number in self.numbers()}
        for path in self.folder.iterdir():
            data = re.fullmatch(r"(ckpt-\d+)\.data-.*", path.name)
            if _UNFINISHED.fullmatch(path.name) or (data and data[1] not in numbers):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_leftovers(self.folder, ["checkpoint"])


@contextlib.contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Turns the errors of writers, Python's and TensorFlow's, into one that names the place.

    # Arguments
        place: a file or folder in the directory of the training.

    # Raises
        EnsembleError: in place of an `OSError` or an error of TensorFlow.
    """
    try:
        yield
    except HOST_LOST:  # by saving a variable that has a part on each host
        raise
    except (OSError, tf.errors.OpError, EnsembleError) as error:
        if not (directory := Path(place).parent).is_dir():
            raise gone(directory) from error
        if isinstance(error, EnsembleError):
            raise
        # TensorFlow's read "PATH; No space left on device [Op:SaveV2]".
        reason = getattr(error, "strerror", None) or first_line(error).rpartition("; ")[2]
        reason = reason.partition(" [Op:")[0]
        raise EnsembleError(
            f"Can't write to {str(place)!r} ({reason}): make room there or allow it, then resume. "
            "What was saved before is still there."
        ) from error


def _readable(prefix: str) -> bool:
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError):
        return False
    return True
