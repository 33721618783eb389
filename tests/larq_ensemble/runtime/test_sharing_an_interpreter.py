"""One interpreter in several threads, after a fork, copied, pickled, and in a spawned process."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime import threads as threads_module
from larq_ensemble.runtime.backends import delegate, lce

DATA = Path(__file__).parents[2] / "data"


def has_delegate() -> bool:
    try:
        delegate.load(threads=1)
    except EnsembleError:
        return False
    return True


needs_delegate = pytest.mark.skipif(not has_delegate(), reason="no delegate was built")
FILES = pytest.mark.parametrize(
    ("name", "kernel"),
    [
        *((name, "default") for name in ("indexed", "subgraphs", "branches")),  # on LCE
        *(("indexed", "builtin"), ("subgraphs", "builtin")),  # on LiteRT
        pytest.param("indexed", "delegate", marks=needs_delegate),
    ],
)
KERNELS = pytest.mark.parametrize(
    "kernel", ["default", "builtin", pytest.param("delegate", marks=needs_delegate)]
)
IMAGES = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "processors", lambda: 2)


def opened(name: str, kernel: str = "builtin", **options: object) -> EnsembleInterpreter:
    return EnsembleInterpreter(DATA / f"{name}.tflite", kernel=kernel, **options)


@FILES
def test_threads_may_share_an_interpreter(name: str, kernel: str) -> None:
    """Without turns 50 to 100 of these 400 images got another image's logits."""
    shared = opened(name, kernel)
    expected = opened(name, kernel).predict_logits(IMAGES)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: shared.predict_logits(image)[:, 0], IMAGES))
    np.testing.assert_array_equal(np.stack(found, axis=1), expected)


def test_threads_may_share_a_cascade() -> None:
    """While one thread sets the number of members, too: it counts from the next call on."""
    shared, alone = opened("compact"), opened("compact")
    allowed = {}
    for alone.members in (1, 2, 3):
        allowed[alone.members] = alone.predict_adaptive(IMAGES)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            shared.members = shared.members % 3 + 1

    changing = threading.Thread(target=change)
    changing.start()
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(shared.predict_adaptive, np.split(IMAGES, 40)))
    stop.set()
    changing.join()
    for i, part in enumerate(parts):
        which = slice(10 * i, 10 * i + 10)
        assert any(
            np.array_equal(part.probabilities, of_m.probabilities[which])
            and np.array_equal(part.members, of_m.members[which])
            for of_m in allowed.values()
        )


@FILES
def test_what_start_returned_stays_with_its_image(name: str, kernel: str) -> None:
    """Half-finished cascades of several images don't mix."""
    interpreter = opened(name, kernel)._interpreter
    first, second = (
        interpreter.start(image[np.newaxis].astype(np.float32)) for image in IMAGES[:2]
    )
    found = [[logits(member)[0] for logits in (first, second)] for member in (2, 0, 1)]
    expected = opened(name, kernel).predict_logits(IMAGES[:2])
    np.testing.assert_array_equal(found, expected[[2, 0, 1]])


def in_a_fork(action: Callable[[], bool]) -> int:
    """The status of a forked process in which `action` ran: 0 if it returned true."""
    child = os.fork()
    if not child:
        signal.alarm(20)  # kills the child if it hangs
        os._exit(not action())
    return os.waitpid(child, 0)[1]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")


@needs_fork
@FILES
@pytest.mark.parametrize("threads", [1, 2])
def test_after_a_fork_both_processes_predict(name: str, kernel: str, threads: int) -> None:
    """The child has none of the threads that its parent's interpreter waits for."""
    ensemble = opened(name, kernel, threads=threads)
    expected = ensemble.predict(IMAGES[:3])
    same = lambda: np.array_equal(ensemble.predict(IMAGES[:3]), expected)  # noqa: E731
    assert in_a_fork(same) == 0
    # And in the child of a child, and in the parent still.
    assert in_a_fork(lambda: in_a_fork(same) == 0) == 0
    assert same()


@needs_fork
@KERNELS
def test_a_fork_in_the_middle_of_a_run(kernel: str) -> None:
    """The thread that holds the turn is not in the child, so the turn must not be awaited."""
    ensemble = opened("indexed", kernel)
    expected = ensemble.predict(IMAGES[:1])
    with ensemble._interpreter._members[0]._lock:
        status = in_a_fork(lambda: np.array_equal(ensemble.predict(IMAGES[:1]), expected))
    assert status == 0


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda ensemble: pickle.loads(pickle.dumps(ensemble))]
)
@FILES
def test_copies_run_the_file_as_it_was_read(
    tmp_path: Path,
    name: str,
    kernel: str,
    copied: Callable[[EnsembleInterpreter], EnsembleInterpreter],
) -> None:
    path = shutil.copy(DATA / f"{name}.tflite", tmp_path)
    ensemble = EnsembleInterpreter(path, members=2, threads=2, kernel=kernel)
    expected = ensemble.predict(IMAGES[:3])
    Path(path).unlink()
    other = copied(ensemble)
    assert (other.members, other.threads, other.kernel) == (2, 2, kernel)
    assert other.backend == ensemble.backend
    assert other.metadata == ensemble.metadata
    np.testing.assert_array_equal(other.predict(IMAGES[:3]), expected)
    other.members = 1
    assert ensemble.members == 2


def test_a_spawned_process_predicts() -> None:
    """What `multiprocessing` does on macOS and Windows; the method of an object is the job."""
    ensemble = opened("indexed", members=2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(ensemble.predict, (IMAGES[:2],)).get(timeout=60)
    np.testing.assert_array_equal(found, ensemble.predict(IMAGES[:2]))


@pytest.mark.parametrize("threads", [3, 256, 3_000_000_000, np.int64(10**12)])
def test_more_threads_than_processors_are_bounded(threads: int) -> None:
    with pytest.warns(
        UserWarning, match=rf"`threads` is {threads}, .* 2 processors: .*`threads=2`"
    ):
        ensemble = opened("indexed", threads=threads)
    assert ensemble.threads == 2


@pytest.mark.parametrize("threads", [np.int32(2), np.uint8(1)])
def test_integers_of_numpy_are_integers(threads: np.integer) -> None:
    ensemble = opened("indexed", threads=threads, members=np.uint8(2))
    assert (type(ensemble.threads), type(ensemble.members)) == (int, int)
    assert ensemble.predict_logits(IMAGES[:1], members=np.int16(1)).shape[0] == 1


def test_an_error_of_the_binding_is_one_short_line() -> None:
    """Its TypeError shows the arguments, so the whole file."""
    data = (DATA / "indexed.tflite").read_bytes()
    with pytest.raises(EnsembleError) as raised:
        lce.load_model(data, 3_000_000_000, "default")
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)
