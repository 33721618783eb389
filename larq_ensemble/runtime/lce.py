"""Running a file with Larq Compute Engine (LCE), without TensorFlow.

`open_interpreter` gives the interpreter for a file's layout. `load_extension` loads LCE's compiled
module by its path, because `import larq_compute_engine` imports TensorFlow.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError, UnknownNameError, first_line
from larq_ensemble.runtime.file import EnsembleFile, Subgraph, with_one_subgraph

#: LCE's two fast kernels of binary convolutions. Their results are equal; only inside control
#: flow, which our graphs don't have, the indirect one is wrong.
KERNELS = ("indirect", "default")

_EXTENSION = "larq_compute_engine.tflite.python.interpreter_wrapper_lite"
_TESTED = "0.16.0"
_ROUNDS = 3


class MemberInterpreter(ABC):
    """Runs members of a file, whatever its layout is.

    # Arguments
        file: the ensemble.
        threads: threads of a convolution.
        kernel: of binary convolutions, one of `KERNELS`.

    # Attributes
        one_by_one: whether a member can run without the others.
        kernel: the argument.

    # Raises
        EnsembleError: if Larq Compute Engine can't be loaded, or refuses the model.
    """

    one_by_one = True

    def __init__(self, file: EnsembleFile, threads: int, kernel: str) -> None:
        self.kernel = kernel
        self._file = file
        self._threads = threads

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

    def _open(self, graph: Subgraph) -> _NamedModel:
        data = with_one_subgraph(self._file.data, graph.index)
        return _NamedModel(load_model(data, self._threads, self.kernel), graph)


class OneByOneInterpreter(MemberInterpreter):
    """Runs the trunk, if the file has one, and then one graph for all members or one per member.

    LCE's interpreter runs only the first subgraph of a model and keeps a copy of the model. So each
    graph gets its own interpreter at its first run, which takes the memory of the file and of an
    arena. In the layout `"indexed"` all members use one graph.
    """

    def __init__(self, file: EnsembleFile, threads: int, kernel: str) -> None:
        super().__init__(file, threads, kernel)
        self._trunk = None if file.trunk is None else self._open(file.trunk)
        self._models = {0: self._open(file.member_graphs[0])}

    def start(self, image: np.ndarray) -> Callable[[int], np.ndarray]:
        known = {"image": image}
        if self._trunk is not None:
            known.update(self._trunk.run(known))

        def member_logits(member: int) -> np.ndarray:
            inputs = {**known, "member": np.array([member], np.int32)}
            return self._model(member).run(inputs)["logits"]

        return member_logits

    def _model(self, member: int) -> _NamedModel:
        graphs = self._file.member_graphs
        place = member if len(graphs) > 1 else 0
        if place not in self._models:
            self._models[place] = self._open(graphs[place])
        return self._models[place]


class BranchesInterpreter(MemberInterpreter):
    """Runs one graph with an output for each member: every call computes all members."""

    one_by_one = False

    def __init__(self, file: EnsembleFile, threads: int, kernel: str) -> None:
        super().__init__(file, threads, kernel)
        self._model = self._open(file.graphs[0])

    def start(self, image: np.ndarray) -> Callable[[int], np.ndarray]:
        outputs = self._model.run({"image": image})
        return lambda member: outputs[f"logits_{member}"]


class _NamedModel:
    """LCE's interpreter of one graph, with inputs and outputs by name."""

    def __init__(self, model: Any, graph: Subgraph) -> None:
        self._model = model
        self._inputs = sorted(graph.inputs, key=graph.inputs.__getitem__)
        self._outputs = graph.outputs

    def run(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            outputs = self._model.predict([values[name] for name in self._inputs])
        except (RuntimeError, MemoryError) as error:
            raise EnsembleError(
                f"Larq Compute Engine can't run the model ({first_line(error)}): convert it again."
            ) from error
        return {name: outputs[place] for name, place in self._outputs.items()}


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
        kernel: one of `KERNELS`; `None`: the faster one, which is measured. It depends on the
            processor and the network: on ARM, `"indirect"` needs a quarter fewer instructions for
            a ResNet-20, but twice as many for a ReActNet-10 on 32x32 images.

    # Raises
        UnknownNameError: for another kernel.
        EnsembleError: if Larq Compute Engine can't be loaded, or refuses the model.
    """
    if kernel is not None and kernel not in KERNELS:
        raise UnknownNameError("kernel", kernel, KERNELS)
    kind = _LAYOUTS[file.metadata.layout]
    if kernel is not None:
        return kind(file, threads, kernel)
    candidates = [kind(file, threads, name) for name in KERNELS]
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


def load_model(data: bytes, threads: int, kernel: str) -> Any:
    """Opens LCE's interpreter of a model's first subgraph.

    # Arguments
        data: the model.
        threads: threads of a convolution.
        kernel: one of `KERNELS`.

    # Raises
        EnsembleError: if Larq Compute Engine can't be loaded, or refuses the model.
    """
    reference, xnnpack = False, False
    try:
        return load_extension().LiteInterpreter(
            data, threads, reference, kernel == "indirect", xnnpack
        )
    except (RuntimeError, MemoryError) as error:
        raise EnsembleError(
            f"Larq Compute Engine refuses the model ({error}): convert it again with the "
            "installed version."
        ) from error


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
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # A second load in one process, by an import of LCE itself, would fail.
    sys.modules[_EXTENSION] = module
    return module


def _extension_path() -> Path:
    """The file of LCE's compiled module."""
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None:
        raise EnsembleError(
            "Larq Compute Engine is not installed: install it with "
            f"`pip install larq-compute-engine=={_TESTED}` (Python 3.10 to 3.12)."
        )
    for folder in package.submodule_search_locations or []:
        for path in Path(folder, "tflite", "python").glob("interpreter_wrapper_lite*"):
            return path
    raise EnsembleError(
        f"Larq Compute Engine {_installed_version()} has no module `interpreter_wrapper_lite` "
        "where this package expects it: install the tested version with "
        f"`pip install larq-compute-engine=={_TESTED}`."
    )


def _installed_version() -> str:
    import importlib.metadata  # only for the message, because it is slow to import

    try:
        return importlib.metadata.version("larq-compute-engine")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
