"""Reading and checking the `.tflite` file of an ensemble, without TensorFlow.

Interpreters are C++ code that trusts the file: a damaged file may crash the process. So this
module checks the file first: its checksum, every offset in it, its graphs operator by operator
(`larq_ensemble.tflite.verifier`), and that they fit the metadata.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import is_run
from larq_ensemble.pretrained.catalog import or_a_name, tflite_path
from larq_ensemble.runtime.metadata import ENTRY, EnsembleMetadata
from larq_ensemble.tflite.flatbuffer import (
    ALIGNMENT,
    IDENTIFIER,
    DamagedError,
    Flatbuffer,
    Table,
    parsing,
)
from larq_ensemble.tflite.model import Graph, Model, Tensor
from larq_ensemble.tflite.reader import read_model
from larq_ensemble.tflite.verifier import verify

_DIGEST_KEY = b'"sha256":"'
_DIGEST_LENGTH = 64
#: Signature keys of the shared trunk and of the rest of a member (`rest_{i}` in some layouts).
TRUNK, REST = "prefix", "rest"


@dataclass(frozen=True)
class Subgraph:
    """A graph of the file.

    # Arguments
        index: its number in the file.
        inputs, outputs: the position of each in the interpreter, by its name in the signature.
    """

    index: int
    inputs: dict[str, int]
    outputs: dict[str, int]

    @classmethod
    def of(cls, index: int, graph: Graph) -> Subgraph:
        """A graph of the file that has a signature.

        The converter chooses the order of inputs (`member` often comes first). Only the
        SignatureDef says which tensor has which name.
        """
        assert graph.signature is not None
        inputs, outputs = (
            {name: listed.index(tensor) for name, tensor in named.items()}
            for named, listed in (
                (graph.signature.inputs, graph.inputs),
                (graph.signature.outputs, graph.outputs),
            )
        )
        return cls(index, inputs, outputs)


@dataclass(frozen=True)
class EnsembleFile:
    """A converted ensemble whose file has been checked.

    # Arguments
        data: the bytes of the file.
        metadata: the file's metadata.
        graphs: the complete graphs, from the image to the logits: one, or in the layout
            `"subgraphs"` one per member. Inputs are `image`, and in the layout `"indexed"` also
            `member`. Outputs are `logits`, or in the layout `"branches"` `logits_0`, `logits_1`
            and so on.
        trunk: the graph of the shared trunk, from `image` to `features_0` and so on; `None` if the
            file has none.
        rests: for each of `graphs`, the part after the trunk.
        has_groups: whether a binary convolution has groups.
        has_binary_operators: whether it has operators of Larq Compute Engine; else all are builtin
            ones.
    """

    data: bytes
    metadata: EnsembleMetadata
    graphs: tuple[Subgraph, ...]
    trunk: Subgraph | None = None
    rests: tuple[Subgraph, ...] = ()
    has_groups: bool = False
    has_binary_operators: bool = True

    @property
    def member_graphs(self) -> tuple[Subgraph, ...]:
        """The graphs to run for each member: after the trunk if there is one, else complete."""
        return self.rests or self.graphs


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Reads any `.tflite` file, by its path or by the name of a network of the package.

    # Raises
        EnsembleError: if the file is missing, can't be read, or is no TFLite flatbuffer.
    """
    try:
        data = Path(tflite_path(path)).read_bytes()
    except OSError as error:
        check_no_run(path)
        raise EnsembleError(
            f"Can't read the model {str(path)!r}: {error.strerror}. Give the path of a file that "
            f"`larq-ensemble convert` wrote, {or_a_name()}."
        ) from error
    if data[4:8] != IDENTIFIER:
        reason = "it is empty" if not data else "it doesn't start like a TFLite flatbuffer"
        raise EnsembleError(
            f"{str(path)!r} is no .tflite model ({reason}). "
            "Give the path of a file that `larq-ensemble convert` wrote."
        )
    return data


def check_no_run(path: str | os.PathLike[str]) -> None:
    """# Raises
    EnsembleError: if `path` is the directory of a run, where a file is needed.
    """
    if is_run(path):
        raise EnsembleError(
            f"{str(path)!r} is a run: convert it first, by `larq-ensemble convert`, and give the "
            "file that this writes."
        )


def is_tflite(path: str | os.PathLike[str]) -> bool:
    """Whether a path is to a TFLite flatbuffer, by the file's name or what it begins with."""
    if Path(path).suffix == ".tflite":
        return True
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(8)[4:] == IDENTIFIER


def read_ensemble(path: str | os.PathLike[str]) -> EnsembleFile:
    """Reads and checks the file of a converted ensemble.

    # Raises
        EnsembleError: as `read_bytes`, and if the file is damaged or holds no ensemble.
    """
    return checked_ensemble(read_bytes(path), repr(str(path)))


def checked_ensemble(data: bytes, name: str = "The model") -> EnsembleFile:
    """Checks the bytes of a converted ensemble.

    # Arguments
        data: a TFLite flatbuffer.
        name: what an error calls it.

    # Raises
        EnsembleError: if it is damaged or no ensemble.
    """
    with parsing(name):
        blob = _metadata_blob(_root(data))
        is_whole = blob is not None and _digest_matches(data, blob)
    if blob is None:
        raise EnsembleError(
            f"{name} is a TFLite model but no ensemble of this package. "
            "Give a file that `larq-ensemble convert` wrote."
        )
    if not is_whole:
        raise EnsembleError(f"{name} is damaged: its checksum is wrong. Copy or convert it again.")
    metadata = _metadata(data, blob, name)
    model = read_model(data, name)
    verify(model, metadata.members, name)
    file = _with_roles(data, metadata, model)
    # The complete graphs come first, so that tools that run the first graph run a member.
    parts = () if file is None else (*file.graphs, *filter(None, [file.trunk]), *file.rests)
    if file is None or [part.index for part in parts] != [*range(len(model.graphs))]:
        raise EnsembleError(
            f"{name} doesn't have the graphs that its metadata describe: "
            f"{metadata.members} members in the layout {metadata.layout!r}, "
            f"{metadata.classes} classes, input {list(metadata.input_shape)}. Convert it again."
        )
    operators = {op.name for graph in model.graphs for op in graph.operators}
    return replace(
        file,
        has_groups=_has_groups(model),
        has_binary_operators=any(name.startswith("Lce") for name in operators),
    )


def _has_groups(model: Model) -> bool:
    """Whether the filters of a binary convolution have fewer packed channels than its input."""
    return any(
        filters.shape[-1] < x.shape[-1]
        for graph in model.graphs
        for op in graph.operators
        if op.name == "LceBconv2d"
        for x, filters in [op.operands[:2]]
    )


def with_one_subgraph(data: bytes, index: int) -> bytes:
    """Hides all graphs of a file but one, and all signatures but that of this graph.

    The other bytes stay in place: only the vectors of subgraphs and signatures shrink to one entry.

    # Arguments
        data: a file that `read_ensemble` accepted.
        index: the number of the graph.
    """
    root = _root(data)
    shorter = bytearray(data)
    signatures = root["signatureDefs"]
    signature = [table["subgraphIndex"] for table in signatures].index(index)
    signatures[signature].overwrite("subgraphIndex", 0, shorter)
    for name, entry in (("subgraphs", index), ("signatureDefs", signature)):
        start, _ = root.span(name)
        at = start + 4 * entry
        (offset,) = struct.unpack_from("<I", data, at)
        # The vector's length, and the offset of the table from its only entry.
        struct.pack_into("<II", shorter, start - 4, 1, at + offset - start)
    return bytes(shorter)


def _with_roles(data: bytes, metadata: EnsembleMetadata, model: Model) -> EnsembleFile | None:
    """The graphs by their purpose; `None` if they are not those of the metadata."""
    outputs_of_all = sum(len(graph.outputs) for graph in model.graphs)
    if metadata.layout != "indexed" and metadata.members > outputs_of_all:
        return None
    members, numbered = range(metadata.members), metadata.layout == "subgraphs"
    keys = [f"member_{member}" for member in members] if numbered else ["serving_default"]
    rest_keys = [f"{REST}_{member}" for member in members] if numbered else [REST]
    logits = [f"logits_{member}" for member in members]
    image = Tensor((1, *metadata.input_shape), "float32")
    inputs = {"image": image}
    if metadata.layout == "indexed":
        inputs["member"] = Tensor((1,), "int32")
    row = Tensor((1, metadata.classes), "float32")
    outputs = dict.fromkeys(logits if metadata.layout == "branches" else ["logits"], row)
    found = {
        graph.signature.key: (Subgraph.of(index, graph), graph.signature)
        for index, graph in enumerate(model.graphs)
        if graph.signature is not None
    }
    has_trunk = TRUNK in found
    if set(found) != {*keys, *([TRUNK, *rest_keys] if has_trunk else [])}:
        return None
    complete = [found[key] for key in keys]
    if not all(
        _are(signature.inputs, inputs) and _are(signature.outputs, outputs)
        for _, signature in complete
    ):
        return None
    graphs = tuple(graph for graph, _ in complete)
    if not has_trunk:
        return EnsembleFile(data, metadata, graphs)
    (trunk, prefix), rests = found[TRUNK], [found[key] for key in rest_keys]
    known = {**prefix.outputs, **inputs}
    if not _are(prefix.inputs, {"image": image}) or not all(
        _are(signature.inputs, {name: known.get(name) for name in signature.inputs})
        and _are(signature.outputs, outputs)
        for _, signature in rests
    ):
        return None
    return EnsembleFile(data, metadata, graphs, trunk, tuple(graph for graph, _ in rests))


def _are(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor | None]) -> bool:
    """Whether tensors have the names, shapes and types that are expected."""
    if tensors.keys() != expected.keys():
        return False
    pairs = [(tensors[name], other) for name, other in expected.items()]
    return all(
        other is not None and (tensor.shape, tensor.dtype) == (other.shape, other.dtype)
        for tensor, other in pairs
    )


def seal(data: bytes) -> bytes:
    """Writes the checksum of a finished ensemble file into its metadata.

    # Arguments
        data: a flatbuffer whose metadata has any `sha256`, as `EnsembleMetadata.to_json` writes.

    # Returns
        The file; only the 64 characters of the checksum differ from `data`.
    """
    blob = _metadata_blob(_root(data))
    if blob is None:
        raise ValueError(f"the flatbuffer has no metadata entry {ENTRY!r}")
    at = _digest_position(data, blob)
    return data[:at] + _digest(data, at).encode() + data[at + _DIGEST_LENGTH :]


def with_metadata(data: bytes, metadata: EnsembleMetadata) -> bytes:
    """Replaces the metadata of a finished ensemble file.

    The converter writes the metadata last, so their length may change while nothing else moves.

    # Returns
        A file with a new checksum, equal to `data` up to the metadata.

    # Raises
        EnsembleError: if the file is damaged, or the metadata are not at its end.
    """
    with parsing():
        blob = _metadata_blob(_root(data))
    if blob is None or data[blob[1] :].strip(b"\0"):
        raise EnsembleError(
            "The file's metadata can't be changed in place: convert the run again, with the "
            "installed version."
        )
    content = metadata.to_json()
    file = data[: blob[0] - 4] + struct.pack("<I", len(content)) + content
    return seal(file + b"\0" * (-len(file) % ALIGNMENT))


def metadata_of(data: bytes, name: str = "The model") -> EnsembleMetadata | None:
    """The metadata of a file; `None` if the file holds no ensemble.

    # Arguments
        data: a file read by `read_bytes`.
        name: what an error calls it.

    # Raises
        EnsembleError: if the file is damaged or the metadata are not valid.
    """
    with parsing(name):
        blob = _metadata_blob(_root(data))
    return None if blob is None else _metadata(data, blob, name)


def _metadata(data: bytes, blob: tuple[int, int], name: str) -> EnsembleMetadata:
    try:
        return EnsembleMetadata.from_json(data[blob[0] : blob[1]])
    except EnsembleError as error:
        raise EnsembleError(f"{name}: {error}") from error


def _root(data: bytes) -> Table:
    return Flatbuffer(data).root("Model")


def _digest(data: bytes, at: int) -> str:
    state = hashlib.sha256(data[:at])
    state.update(b"0" * _DIGEST_LENGTH)
    state.update(data[at + _DIGEST_LENGTH :])
    return state.hexdigest()


def _digest_position(data: bytes, blob: tuple[int, int]) -> int:
    # The digest is the last key, and no class name can hold it, because JSON escapes quotes.
    at = data.rfind(_DIGEST_KEY, *blob)
    if at < 0 or at + len(_DIGEST_KEY) + _DIGEST_LENGTH > blob[1]:
        raise DamagedError("its checksum is missing")
    return at + len(_DIGEST_KEY)


def _digest_matches(data: bytes, blob: tuple[int, int]) -> bool:
    at = _digest_position(data, blob)
    return data[at : at + _DIGEST_LENGTH] == _digest(data, at).encode()


def _metadata_blob(root: Table) -> tuple[int, int] | None:
    """Start and end of the ensemble's metadata in the file; `None` if there are none."""
    buffers = root["buffers"]
    for entry in root["metadata"]:
        if entry["name"] == ENTRY.encode():
            if entry["buffer"] >= len(buffers):
                raise DamagedError(f"it has no buffer {entry['buffer']}")
            start, length = buffers[entry["buffer"]].span("data")
            return start, start + length
    return None
