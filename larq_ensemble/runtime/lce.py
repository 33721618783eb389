"""Running a file with Larq Compute Engine (LCE), without TensorFlow.

`open_interpreter` gives the interpreter for a file's layout. `load_extension` loads LCE's compiled
module by its path, because `import larq_compute_engine` imports TensorFlow.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError, UnknownNameError, first_line
from larq_ensemble.runtime.file import EnsembleFile, Subgraph, with_one_subgraph

#: LCE's two fast kernels of binary convolutions. Their results are equal; only inside control
#: flow, which our graphs don't have, the indirect one is wrong. Binary convolutions with groups run
#: with the indirect one alone.
KERNELS = ("indirect", "default")

_EXTENSION = "larq_compute_engine.tflite.python.interpreter_wrapper_lite"
_TESTED = "0.16.0"
#: Processors that LCE has wheels for, by system.
_PROCESSORS = {
    "Linux": ("x86_64",),
    "Windows": ("amd64", "x86_64"),
    "Darwin": ("x86_64", "arm64"),
}
_ROUNDS = 3


class MemberInterpreter(ABC):
    """Runs members of a file, whatever its layout is.

    # Arguments
        file: the ensemble.
        threads: threads of a convolution.
        kernel: of binary convolutions, one of `KERNELS`.

    # Attributes
        one_by_one: whether a member can run without the others.
        threads, kernel: the arguments.

    No state is kept from one run of a graph to the next, and each run is safe (`_GraphRunner`). So
    threads may share this object, and use what `start` returned at any time and in any order.

    # Raises
        EnsembleError: if Larq Compute Engine can't be loaded, or refuses the model.
    """

    one_by_one = True

    def __init__(self, file: EnsembleFile, threads: int, kernel: str) -> None:
        self.threads = threads
        self.kernel = kernel
        self._file = file

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
        return _GraphRunner(self._file, graph, self.threads, self.kernel)


class OneByOneInterpreter(MemberInterpreter):
    """Runs the trunk, if the file has one, and then one graph for all members or one per member.

    LCE's interpreter runs only the first subgraph of a model and keeps a copy of the model. So each
    graph gets its own interpreter at its first run, which takes the memory of the file and of an
    arena. In the layout `"indexed"` all members use one graph.
    """

    def __init__(self, file: EnsembleFile, threads: int, kernel: str) -> None:
        super().__init__(file, threads, kernel)
        self._trunk = None if file.trunk is None else self._runner(file.trunk)
        self._members = [self._runner(graph) for graph in file.member_graphs]
        for runner in filter(None, [self._trunk, self._members[0]]):
            runner.open()

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

    def __init__(self, file: EnsembleFile, threads: int, kernel: str) -> None:
        super().__init__(file, threads, kernel)
        self._members = self._runner(file.graphs[0])
        self._members.open()

    def start(self, image: np.ndarray) -> Callable[[int], np.ndarray]:
        outputs = self._members.run({"image": image})
        return lambda member: outputs[f"logits_{member}"]


class _GraphRunner:
    """One graph in LCE's interpreter, with inputs and outputs by name.

    A run copies the inputs, computes, and copies the outputs, without Python's global lock in
    between, so a lock makes it one step: threads take turns. The interpreter is opened at the first
    run, and again in a copy, an unpickled object, and a forked process whose parent used threads:
    they are not in the child, which would wait for them forever.

    # Arguments
        file: the ensemble.
        graph: one of its graphs.
        threads, kernel: as for `MemberInterpreter`.
    """

    def __init__(self, file: EnsembleFile, graph: Subgraph, threads: int, kernel: str) -> None:
        self._file, self._graph = file, graph
        self._threads, self._kernel = threads, kernel
        self._inputs = sorted(graph.inputs, key=graph.inputs.__getitem__)
        self._close()

    def _close(self) -> None:
        self._model: Any = None
        self._lock = threading.Lock()
        _RUNNERS.add(self)

    def open(self) -> None:
        """Opens the interpreter, which `run` does otherwise.

        # Raises
            EnsembleError: as `load_model`.
        """
        data = with_one_subgraph(self._file.data, self._graph.index)
        self._model = load_model(data, self._threads, self._kernel)

    def run(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._lock:
            if self._model is None:
                self.open()
            try:
                outputs = self._model.predict([values[name] for name in self._inputs])
            except (RuntimeError, MemoryError) as error:
                raise EnsembleError(
                    f"Larq Compute Engine can't run the model ({_reason(error)}): convert it again "
                    "with the installed version."
                ) from error
        return {name: outputs[place] for name, place in self._graph.outputs.items()}

    def after_fork(self) -> None:
        """Makes the runner fit for the child of a fork."""
        was_running = self._lock.locked()
        if was_running or self._threads > 1:
            # Its destructor would wait for the parent's threads, so it must never be called.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._model))
            self._close()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_model", "_lock")}

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


def open_interpreter(file: EnsembleFile, threads: int, kernel: str | None) -> MemberInterpreter:
    """Opens the interpreter for a file's layout.

    # Arguments
        file: the ensemble.
        threads: threads of a convolution.
        kernel: one of `KERNELS`; `None`: the faster one, which is measured, of those that can run
            the file. It depends on the processor and the network: on ARM, `"indirect"` needs a
            quarter fewer instructions for a ResNet-20, but twice as many for a ReActNet-10 on
            32x32 images.

    # Raises
        UnknownNameError: for another kernel.
        EnsembleError: if the kernel can't run the file, or if Larq Compute Engine can't be loaded,
            or refuses the model.
    """
    if kernel is not None and kernel not in KERNELS:
        raise UnknownNameError("kernel", kernel, KERNELS)
    kind, possible = _LAYOUTS[file.metadata.layout], kernels_of(file)
    if kernel is not None and kernel not in possible:
        raise EnsembleError(
            f"`kernel` {kernel!r} can't run this file, whose binary convolutions have groups: use "
            f"{possible[0]!r}, or leave it out."
        )
    if kernel is not None:
        return kind(file, threads, kernel)
    candidates = [kind(file, threads, name) for name in possible]
    if len(candidates) == 1:
        return candidates[0]
    image = np.zeros((1, *file.metadata.input_shape), np.float32)

    def seconds(candidate: MemberInterpreter) -> float:
        start = time.perf_counter()
        candidate.logits(image, [0])
        return time.perf_counter() - start

    for candidate in candidates:
        seconds(candidate)  # the first run packs the filters
    # Alternate and take the minimum, since other load on the machine only adds time.
    rounds = [[seconds(candidate) for candidate in candidates] for _ in range(_ROUNDS)]
    return candidates[int(np.min(rounds, axis=0).argmin())]


def kernels_of(file: EnsembleFile) -> tuple[str, ...]:
    """Those of `KERNELS` that can run a file."""
    return ("indirect",) if file.has_groups else KERNELS


def load_model(data: bytes, threads: int, kernel: str) -> Any:
    """Opens LCE's interpreter of a model's first subgraph.

    # Arguments
        data: the model.
        threads: threads of a convolution.
        kernel: one of `KERNELS`.

    # Raises
        EnsembleError: if Larq Compute Engine can't be loaded, or refuses the model.
    """
    extension = load_extension()
    reference, xnnpack = False, False
    try:
        return extension.LiteInterpreter(data, threads, reference, kernel == "indirect", xnnpack)
    # A TypeError of the binding prints its arguments, and so the whole file.
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise EnsembleError(
            f"Larq Compute Engine refuses the model ({_reason(error)}): convert it again with the "
            "installed version."
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"


def load_extension() -> ModuleType:
    """Loads LCE's compiled module without importing `larq_compute_engine`.

    # Raises
        EnsembleError: if LCE isn't installed, if this version of it keeps the module elsewhere, or
            for NumPy 2.
    """
    if _EXTENSION in sys.modules:
        return sys.modules[_EXTENSION]
    if int(np.__version__.split(".")[0]) >= 2:
        raise EnsembleError(
            f"Larq Compute Engine needs NumPy 1, found {np.__version__}: "
            'install it with `pip install "numpy<2"`.'
        )
    path = _extension_path()
    spec = importlib.util.spec_from_file_location(_EXTENSION, path)
    if spec is None or spec.loader is None:
        raise EnsembleError(f"Larq Compute Engine's {path.name!r} is no module for this Python.")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:  # another processor, an old C library
        raise EnsembleError(
            f"Larq Compute Engine can't be loaded ({first_line(error)}): {_advice()}."
        ) from error
    # A second load in one process, by an import of LCE itself, would fail.
    sys.modules[_EXTENSION] = module
    return module


def _extension_path() -> Path:
    """The file of LCE's compiled module."""
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None:
        raise not_installed()
    for folder in package.submodule_search_locations or []:
        for path in Path(folder, "tflite", "python").glob("interpreter_wrapper_lite*"):
            return path
    raise EnsembleError(
        f"Larq Compute Engine {_installed_version()} has no module `interpreter_wrapper_lite` "
        f"where this package expects it: {_advice()}."
    )


def not_installed() -> EnsembleError:
    """The error for a Python without LCE; it says whether there is a wheel to install."""
    return EnsembleError(f"Larq Compute Engine is not installed: {_advice()}.")


def _advice() -> str:
    """How to get LCE here: its wheels are for some Pythons and processors only."""
    system, processor = platform.system(), platform.machine().lower()
    is_for_processor = processor in _PROCESSORS.get(system, ())
    if is_for_processor and (3, 10) <= sys.version_info < (3, 13):
        return f"install it with `pip install larq-compute-engine=={_TESTED}`"
    wheels = "It has wheels for Python 3.10 to 3.12 on Linux and Windows (x86_64) and macOS"
    if not is_for_processor:
        return (
            f"it has no wheel for {system} on {processor}. {wheels}. Elsewhere, build it from "
            "https://github.com/larq/compute-engine or run the file from C++, as the deployment "
            "guide shows"
        )
    return (
        f"it has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}. {wheels}: "
        "use one of these versions of Python"
    )


def _installed_version() -> str:
    import importlib.metadata  # only for the message, because it is slow to import

    try:
        return importlib.metadata.version("larq-compute-engine")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
