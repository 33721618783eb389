"""Checkpoints of one variable, in folders of all names, damaged in all ways."""

import resource
import shutil

import pytest

from larq_ensemble.checkpoints import Checkpoints, writing
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import tf

NAMES = ["run[1]", "a\\b", "a*b?", "mit Leerzeichen, ü", "~", "x" * 200, "{a}", "%s #1"]


@pytest.fixture
def value():
    return tf.Variable(0.0)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save_all(folder, value, numbers):
    checkpoints = Checkpoints(folder, value=value)
    for number in numbers:
        value.assign(tf.fill(value.shape, float(number)))
        checkpoints.save(number)
    return checkpoints


@pytest.mark.parametrize("name", NAMES)
def test_any_path_will_do(tmp_path, value, name, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    checkpoints = save_all(type(tmp_path)(name) / "checkpoints", value, (1, 2, 3, 10))
    monkeypatch.chdir("/")  # the path was relative
    assert checkpoints.numbers() == [3, 10]  # the others are deleted
    assert names(tmp_path / name / "checkpoints") == [
        "checkpoint",
        *(f"ckpt-{n}.{kind}" for n in (10, 3) for kind in ("data-00000-of-00001", "index")),
    ]
    value.assign(0)
    assert checkpoints.restore() == 10
    assert value.numpy() == 10


@pytest.mark.parametrize(
    "text", [None, "", "model_ch", 'model_checkpoint_path: "ckpt-7"', "\0\xff", "[]"]
)
def test_the_index_file_is_not_needed(tmp_path, value, text):
    checkpoints = save_all(tmp_path, value, (1, 2))
    index = tmp_path / "checkpoint"
    index.unlink() if text is None else index.write_text(text)
    value.assign(0)
    assert checkpoints.restore() == 2
    assert value.numpy() == 2


@pytest.mark.parametrize("kind", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("size", [0, 1, 0.5, None])
def test_the_newest_readable_one_is_restored(tmp_path, value, kind, size):
    checkpoints = save_all(tmp_path, value, (1, 2))
    path = tmp_path / f"ckpt-2.{kind}"
    whole = path.read_bytes()
    if size is None:
        path.unlink()
    else:
        path.write_bytes(whole[: int(size * len(whole)) if size == 0.5 else size])
    assert checkpoints.restore() == 1
    assert value.numpy() == 1
    checkpoints.save(2)
    value.assign(0)
    assert checkpoints.restore() == 2


def test_a_checkpoint_of_another_state_is_one_error(tmp_path, value):
    """Such as one without the scale of the loss, which is now part of an optimizer."""
    save_all(tmp_path / "checkpoints", value, (1,))
    more = Checkpoints(tmp_path / "checkpoints", value=value, scale=tf.Variable(0.0))
    with pytest.raises(EnsembleError, match=r"lack a part .*another version of larq-ensemble"):
        more.restore()


def test_checkpoints_of_tensorflow_s_manager_are_read_and_ours_by_its_tools(tmp_path, value):
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(value=value), tmp_path, max_to_keep=2)
    for number in (1, 2, 3):
        value.assign(tf.fill(value.shape, float(number)))
        manager.save(checkpoint_number=number)
    value.assign(0)
    assert Checkpoints(tmp_path, value=value).restore() == 3
    assert value.numpy() == 3
    save_all(tmp_path, value, (4,))
    assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "ckpt-4")


def test_only_our_own_leftovers_are_removed(tmp_path, value):
    save_all(tmp_path, value, (1,))
    ours = ["checkpoint.tmp0a1b", ".checkpoint-0123abcd", "ckpt-2.data-00000-of-00001"]
    ours += ["ckpt-2.index.tempstate123", "ckpt-2.data-00000-of-00001.tempstate99"]
    theirs = ["checkpoint.tmp", "notes.txt", "ckpt-best.h5", ".checkpoint-mine"]
    for name in ours + theirs:
        (tmp_path / name).write_text("x")
    (tmp_path / "ckpt-2_temp").mkdir()
    (tmp_path / "ckpt-2_temp" / "part").write_text("x")
    save_all(tmp_path, value, (3,))
    kept = [f"ckpt-{n}.{kind}" for n in (1, 3) for kind in ("data-00000-of-00001", "index")]
    assert names(tmp_path) == sorted(["checkpoint", *kept, *theirs])


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    value = tf.Variable(tf.ones(100_000))
    checkpoints = save_all(tmp_path, value, (1,))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(EnsembleError) as error:
            save_all(tmp_path, value, (2,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value).startswith(f"Can't write to {str(tmp_path)!r} (File too large)")
    assert checkpoints.restore() == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "a/ckpt-2; No space left on device"),
        tf.errors.InternalError(None, None, "a/ckpt-2; No space left on device"),
    ],
)
def test_errors_of_all_writers_are_one_line(error):
    message = r"Can't write to 'a' \(No space left on device\)"
    with pytest.raises(EnsembleError, match=message), writing("a"):
        raise error


def test_a_directory_that_is_gone_is_named(tmp_path, value):
    """Deleted within an epoch, after its directory was looked for: nothing is still there."""
    (tmp_path / "run").mkdir()
    checkpoints = save_all(tmp_path / "run" / "checkpoints", value, (1,))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(EnsembleError, match=r"The directory '.*run' is gone: it was deleted or"):
        checkpoints.save(2)
    log = tmp_path / "run" / "log.csv"
    with pytest.raises(EnsembleError, match=r"The directory '.*run' is gone"), writing(log):
        log.write_text("epoch")
    assert not (tmp_path / "run").exists()
