"""Running the members of a file, whatever its layout is and whatever back end runs its graphs.

`open_interpreter` gives the interpreter for a file's layout.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.backends.backend import BINDING_ERRORS, Backend, Run
from larq_ensemble.runtime.backends.choice import to_try
from larq_ensemble.runtime.file import EnsembleFile, Subgraph, with_one_subgraph

_ROUNDS = 3
#: The preferred kernel's time counts as this much of it, so that where kernels tie, the choice
#: doesn't change from run to run.
_PREFERENCE = 0.95


class MemberInterpreter(ABC):
    """Runs members of a file, whatever its layout is.

    # Arguments
        file: the ensemble.
        threads: threads of a convolution.
        backend: what runs the graphs.
        kernels: of binary convolutions, some of the back end's: the first that takes a graph runs
            it.

    # Attributes
        one_by_one: whether a member can run without the others.
        threads, backend: the arguments.

    No state is kept from one run of a graph to the next, and each run is safe (`_GraphRunner`). So
    threads may share this object, and use what `start` returned at any time and in any order.

    # Raises
        EnsembleError: if the back end can't be loaded, or refuses the model.
    """

    one_by_one = True

    def __init__(
        self, file: EnsembleFile, threads: int, backend: Backend, kernels: Sequence[str]
    ) -> None:
        self.threads = threads
        self.backend = backend
        self._file, self._kernels = file, kernels

    @property
    @abstractmethod
    def kernel(self) -> str:
        """The kernel that runs the first member."""

    @abstractmethod
    def start(self, image: np.ndarray) -> Callable[[int], np.ndarray]:
        """Runs the shared trunk on an image.

        # Arguments
            image: float32 `[1, height, width, channels]`, values 0..255.

        # Returns
            A function from a member's number to its logits for the image, float32 `[1, classes]`.
        """

    def logits(self, image: np.ndarray, members: Sequence[int]) -> np.ndarray:
        """The logits of some members for an image.

        # Arguments
            image: as for `start`.
            members: numbers of the members, from 0 on.

        # Returns
            float32 `[len(members), classes]`.
        """
        member_logits = self.start(image)
        return np.concatenate([member_logits(member) for member in members])

    def _runner(self, graph: Subgraph) -> _GraphRunner:
        return _GraphRunner(self._file, graph, self.threads, self.backend, self._kernels)


class OneByOneInterpreter(MemberInterpreter):
    """Runs the trunk, if the file has one, and then one graph for all members or one per member.

    Interpreters run the first subgraph of a model, and prepare all of them. So each graph gets its
    own interpreter at its first run, of a model that has this graph only. In the layout
    `"indexed"` all members use one graph.
    """

    def __init__(
        self, file: EnsembleFile, threads: int, backend: Backend, kernels: Sequence[str]
    ) -> None:
        super().__init__(file, threads, backend, kernels)
        self._trunk = None if file.trunk is None else self._runner(file.trunk)
        self._members = [self._runner(graph) for graph in file.member_graphs]
        for runner in filter(None, [self._trunk, self._members[0]]):
            runner.open()

    @property
    def kernel(self) -> str:
        return self._members[0].kernel

    def start(self, image: np.ndarray) -> Callable[[int], np.ndarray]:
        known = {"image": image}
        if self._trunk is not None:
            known.update(self._trunk.run(known))

        def member_logits(member: int) -> np.ndarray:
            inputs = {**known, "member": np.array([member], np.int32)}
            runner = self._members[member if len(self._members) > 1 else 0]
            return runner.run(inputs)["logits"]

        return member_logits


class BranchesInterpreter(MemberInterpreter):
    """Runs one graph with an output for each member: every call computes all members."""

    one_by_one = False

    def __init__(
        self, file: EnsembleFile, threads: int, backend: Backend, kernels: Sequence[str]
    ) -> None:
        super().__init__(file, threads, backend, kernels)
        self._members = self._runner(file.graphs[0])
        self._members.open()

    @property
    def kernel(self) -> str:
        return self._members.kernel

    def start(self, image: np.ndarray) -> Callable[[int], np.ndarray]:
        outputs = self._members.run({"image": image})
        return lambda member: outputs[f"logits_{member}"]


class _GraphRunner:
    """One graph in an interpreter of a back end, with inputs and outputs by name.

    A run copies the inputs, computes, and copies the outputs. The computation releases Python's
    global lock, so a lock makes all of it one step: threads take turns. The interpreter is opened
    at the first run, and again in a copy, an unpickled object, and a forked process whose parent
    used threads: they are not in the child, which would wait for them forever.

    # Arguments
        file: the ensemble.
        graph: one of its graphs.
        threads, backend, kernels: as for `MemberInterpreter`.

    # Attributes
        kernel: the one that runs the graph, or will be tried first.
    """

    def __init__(
        self,
        file: EnsembleFile,
        graph: Subgraph,
        threads: int,
        backend: Backend,
        kernels: Sequence[str],
    ) -> None:
        self._file, self._graph = file, graph
        self._threads, self._backend, self._kernels = threads, backend, kernels
        self.kernel = kernels[0]
        self._inputs = sorted(graph.inputs, key=graph.inputs.__getitem__)
        self._close()

    def _close(self) -> None:
        self._run: Run | None = None
        self._lock = threading.Lock()
        _RUNNERS.add(self)

    def open(self) -> None:
        """Opens the interpreter, which `run` does otherwise.

        # Raises
            EnsembleError: of the last kernel, if none takes the graph.
        """
        data = with_one_subgraph(self._file.data, self._graph.index)
        *others, last = self._kernels
        for self.kernel in others:
            try:
                self._run = self._backend.open(data, self._threads, self.kernel)
                return
            except EnsembleError:
                continue
        self._run, self.kernel = self._backend.open(data, self._threads, last), last

    def run(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._lock:
            if self._run is None:
                self.open()
            assert self._run is not None
            try:
                outputs = self._run([values[name] for name in self._inputs])
            except BINDING_ERRORS as error:
                raise self._backend.failure(error) from error
        return {name: outputs[place] for name, place in self._graph.outputs.items()}

    def after_fork(self) -> None:
        """Makes the runner fit for the child of a fork."""
        was_running = self._lock.locked()
        if was_running or self._threads > 1:
            # Its destructor would wait for the parent's threads, so it must never be called.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._run))
            self._close()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_run", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._close()


_RUNNERS: weakref.WeakSet[_GraphRunner] = weakref.WeakSet()


def _after_fork() -> None:
    for runner in list(_RUNNERS):
        runner.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


_LAYOUTS: dict[str, type[MemberInterpreter]] = {
    "indexed": OneByOneInterpreter,
    "subgraphs": OneByOneInterpreter,
    "branches": BranchesInterpreter,
}


def open_interpreter(
    file: EnsembleFile, threads: int, backend: str | None = None, kernel: str | None = None
) -> MemberInterpreter:
    """Opens the interpreter for a file's layout.

    # Arguments
        file: the ensemble.
        threads: threads of a convolution.
        backend: `"litert"` or `"lce"`; `None`: the first of them that is installed and takes the
            file.
        kernel: of binary convolutions, one of the back end's; `None`: the fastest, which is
            measured, of those that can run the file. It depends on the processor and the network:
            on ARM, `"indirect"` needs a quarter fewer instructions for a ResNet-20 than
            `"default"`, but twice as many for a ReActNet-10 on 32x32 images.

    # Raises
        UnknownNameError: for another back end or kernel.
        EnsembleError: if the kernel can't run the file, or if no back end can be loaded, or they
            refuse the model.
    """
    refusals = []
    for candidate in to_try(backend, kernel):
        try:
            return _opened(file, threads, candidate, kernel)
        except EnsembleError as error:
            refusals.append(error)
    raise refusals[0]


def _opened(
    file: EnsembleFile, threads: int, backend: Backend, kernel: str | None
) -> MemberInterpreter:
    """Opens a file with a back end, with a kernel or the fastest."""
    kind = _LAYOUTS[file.metadata.layout]
    if kernel is not None:
        backend.check_kernel(kernel, file)
        return kind(file, threads, backend, [kernel])
    kernels = backend.kernels_of(file)
    candidates: dict[str, MemberInterpreter] = {}
    for name in kernels:
        if name not in candidates:
            # A graph that this kernel doesn't take is run by another one.
            found = kind(file, threads, backend, sorted(kernels, key=lambda other: other != name))
            candidates.setdefault(found.kernel, found)
    first, *others = candidates.values()
    return _fastest([first, *others], file) if others else first


def _fastest(candidates: Sequence[MemberInterpreter], file: EnsembleFile) -> MemberInterpreter:
    """The first candidate, or one that is clearly faster."""
    image = np.zeros((1, *file.metadata.input_shape), np.float32)

    def seconds(candidate: MemberInterpreter) -> float:
        start = time.perf_counter()
        candidate.logits(image, [0])
        return time.perf_counter() - start

    for candidate in candidates:
        seconds(candidate)  # the first run packs the filters
    # Alternate and take the minimum, since other load on the machine only adds time.
    rounds = [[seconds(candidate) for candidate in candidates] for _ in range(_ROUNDS)]
    times = np.min(rounds, axis=0)
    times[0] *= _PREFERENCE
    return candidates[int(times.argmin())]
