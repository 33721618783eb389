"""Reading and checking the `.tflite` file of an ensemble, without TensorFlow.

LCE's interpreter is C++ code that trusts the file: a damaged file may crash the process. So this
module checks the file first: its checksum, every offset that it follows, and that the graphs fit
the layout. It reads the flatbuffer without generated code.

# References
    - [FlatBuffer internals](https://flatbuffers.dev/internals/)
    - [TFLite schema](https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs)
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.metadata import ENTRY, EnsembleMetadata

IDENTIFIER = b"TFL3"
#: Alignment of constants in bytes: TFLite and XNNPACK read them with vector instructions.
ALIGNMENT = 16
_DIGEST_KEY = b'"sha256":"'
_DIGEST_LENGTH = 64
#: Fields of the root table, as byte offsets in its vtable.
_SUBGRAPHS, _SIGNATURES = 8, 18
#: Fields of a SignatureDef.
_SIGNATURE_KEY, _SUBGRAPH_INDEX = 8, 12
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
    """

    data: bytes
    metadata: EnsembleMetadata
    graphs: tuple[Subgraph, ...]
    trunk: Subgraph | None = None
    rests: tuple[Subgraph, ...] = ()

    @property
    def member_graphs(self) -> tuple[Subgraph, ...]:
        """The graphs to run for each member: after the trunk if there is one, else complete."""
        return self.rests or self.graphs


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Reads any `.tflite` file.

    # Raises
        EnsembleError: if the file is missing, can't be read, or is no TFLite flatbuffer.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EnsembleError(
            f"Can't read the model {str(path)!r}: {error.strerror}. "
            "Give the path of a file that `larq-ensemble convert` wrote."
        ) from error
    if data[4:8] != IDENTIFIER:
        reason = "it is empty" if not data else "it doesn't start like a TFLite flatbuffer"
        raise EnsembleError(
            f"{str(path)!r} is no .tflite model ({reason}). "
            "Give the path of a file that `larq-ensemble convert` wrote."
        )
    return data


def read_ensemble(path: str | os.PathLike[str]) -> EnsembleFile:
    """Reads and checks the file of a converted ensemble.

    # Raises
        EnsembleError: as `read_bytes`, and if the file is damaged or holds no ensemble.
    """
    data = read_bytes(path)
    try:
        root = _Table.root(data)
        blob = _metadata_blob(root)
        if blob is None:
            raise EnsembleError(
                f"{str(path)!r} is a TFLite model but no ensemble of this package. "
                "Give a file that `larq-ensemble convert` wrote."
            )
        if not _digest_matches(data, blob):
            raise EnsembleError(
                f"{str(path)!r} is damaged: its checksum is wrong. Copy or convert it again."
            )
        signatures = _signatures(root)
        graphs = len(root.tables(_SUBGRAPHS))
    except (struct.error, _OutOfBounds, UnicodeDecodeError) as error:
        raise EnsembleError(
            f"{str(path)!r} is damaged: it ends early or points outside itself. "
            "Copy or convert it again."
        ) from error
    start, end = blob
    metadata = EnsembleMetadata.from_json(data[start:end])
    file = _with_roles(data, metadata, signatures)
    # The complete graphs come first, so that tools that run the first graph run a member.
    parts = () if file is None else (*file.graphs, *filter(None, [file.trunk]), *file.rests)
    if file is None or [part.index for part in parts] != [*range(graphs)]:
        raise EnsembleError(
            f"{str(path)!r} doesn't have the layout {metadata.layout!r} that its metadata name. "
            "Convert it again."
        )
    return file


def with_one_subgraph(data: bytes, index: int) -> bytes:
    """Hides all graphs of a file but one, and all signatures but that of this graph.

    The other bytes stay in place: only the vectors of subgraphs and signatures shrink to one entry.

    # Arguments
        data: a file that `read_ensemble` accepted.
        index: the number of the graph.
    """
    root = _Table.root(data)
    shorter = bytearray(data)
    signatures = root.tables(_SIGNATURES)
    signature = [table.uint32(_SUBGRAPH_INDEX) for table in signatures].index(index)
    signatures[signature].overwrite_uint32(_SUBGRAPH_INDEX, 0, shorter)
    for slot, entry in ((_SUBGRAPHS, index), (_SIGNATURES, signature)):
        start, _ = root.vector(slot, 4)
        at = start + 4 * entry
        (offset,) = struct.unpack_from("<I", data, at)
        # The vector's length, and the offset of the table from its only entry.
        struct.pack_into("<II", shorter, start - 4, 1, at + offset - start)
    return bytes(shorter)


def _with_roles(
    data: bytes, metadata: EnsembleMetadata, signatures: dict[str, Subgraph]
) -> EnsembleFile | None:
    """The graphs by their purpose; `None` if they are not those of the layout."""
    members, numbered = range(metadata.members), metadata.layout == "subgraphs"
    keys = [f"member_{member}" for member in members] if numbered else ["serving_default"]
    rest_keys = [f"{REST}_{member}" for member in members] if numbered else [REST]
    inputs = {"image", "member"} if metadata.layout == "indexed" else {"image"}
    outputs = {"logits"}
    if metadata.layout == "branches":
        outputs = {f"logits_{member}" for member in members}
    has_trunk = TRUNK in signatures
    if set(signatures) != {*keys, *([TRUNK, *rest_keys] if has_trunk else [])}:
        return None
    graphs = tuple(signatures[key] for key in keys)
    if any((set(graph.inputs), set(graph.outputs)) != (inputs, outputs) for graph in graphs):
        return None
    if not has_trunk:
        return EnsembleFile(data, metadata, graphs)
    trunk, rests = signatures[TRUNK], tuple(signatures[key] for key in rest_keys)
    known = inputs | set(trunk.outputs)
    if set(trunk.inputs) != {"image"} or not all(
        set(rest.inputs) <= known and set(rest.outputs) == outputs for rest in rests
    ):
        return None
    return EnsembleFile(data, metadata, graphs, trunk, rests)


def seal(data: bytes) -> bytes:
    """Writes the checksum of a finished ensemble file into its metadata.

    # Arguments
        data: a flatbuffer whose metadata has any `sha256`, as `EnsembleMetadata.to_json` writes.

    # Returns
        The file; only the 64 characters of the checksum differ from `data`.
    """
    blob = _metadata_blob(_Table.root(data))
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
        EnsembleError: if the metadata are not at the end.
    """
    blob = _metadata_blob(_Table.root(data))
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
    try:
        blob = _metadata_blob(_Table.root(data))
    except (struct.error, _OutOfBounds) as error:
        raise EnsembleError(
            f"{name} is damaged: it ends early or points outside itself. Copy or convert it again."
        ) from error
    return None if blob is None else EnsembleMetadata.from_json(data[blob[0] : blob[1]])


def _digest(data: bytes, at: int) -> str:
    state = hashlib.sha256(data[:at])
    state.update(b"0" * _DIGEST_LENGTH)
    state.update(data[at + _DIGEST_LENGTH :])
    return state.hexdigest()


def _digest_position(data: bytes, blob: tuple[int, int]) -> int:
    # The digest is the last key, and no class name can hold it, because JSON escapes quotes.
    at = data.rfind(_DIGEST_KEY, *blob)
    if at < 0 or at + len(_DIGEST_KEY) + _DIGEST_LENGTH > blob[1]:
        raise _OutOfBounds
    return at + len(_DIGEST_KEY)


def _digest_matches(data: bytes, blob: tuple[int, int]) -> bool:
    at = _digest_position(data, blob)
    return data[at : at + _DIGEST_LENGTH] == _digest(data, at).encode()


def _metadata_blob(root: _Table) -> tuple[int, int] | None:
    """Start and end of the ensemble's metadata in the file; `None` if there are none."""
    buffers = root.tables(12)
    for entry in root.tables(16):
        if entry.string(4) == ENTRY.encode():
            index = entry.uint32(6)
            if index >= len(buffers):
                raise _OutOfBounds
            return buffers[index].vector(4, 1)
    return None


def _signatures(root: _Table) -> dict[str, Subgraph]:
    """The graphs that have a signature, by its key.

    The converter chooses the order of inputs (`member` often comes first). Only the SignatureDef
    says which tensor has which name.
    """
    graphs, found = root.tables(_SUBGRAPHS), {}
    for signature in root.tables(_SIGNATURES):
        index = signature.uint32(_SUBGRAPH_INDEX)
        if index >= len(graphs):
            raise _OutOfBounds
        sides = []
        for names_slot, tensors_slot in ((4, 6), (6, 8)):
            tensors = graphs[index].uint32s(tensors_slot)
            named = {
                entry.string(4).decode(): entry.uint32(6) for entry in signature.tables(names_slot)
            }
            if set(named.values()) != set(tensors):
                raise _OutOfBounds
            sides.append({name: tensors.index(tensor) for name, tensor in named.items()})
        found[signature.string(_SIGNATURE_KEY).decode()] = Subgraph(index, *sides)
    return found


class _OutOfBounds(Exception):
    """The file points outside itself."""


class _Table:
    """A flatbuffer table at byte `at`. A slot is the byte offset of a field in the vtable."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        (back,) = self._read("<i", at)
        self._vtable = at - back
        (self._vtable_size,) = self._read("<H", self._vtable)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        (at,) = struct.unpack_from("<I", data)
        return cls(data, at)

    def _read(self, kind: str, at: int) -> tuple[int, ...]:
        # A negative offset would count from the end.
        if at < 0:
            raise _OutOfBounds
        return struct.unpack_from(kind, self._data, at)

    def _field(self, slot: int) -> int | None:
        if slot + 2 > self._vtable_size:
            return None
        (offset,) = self._read("<H", self._vtable + slot)
        return self._at + offset if offset else None

    def uint32(self, slot: int) -> int:
        at = self._field(slot)
        return 0 if at is None else self._read("<I", at)[0]

    def overwrite_uint32(self, slot: int, value: int, copy: bytearray) -> None:
        """Overwrites a field in a copy of the data; a field with its default has no bytes."""
        at = self._field(slot)
        if at is not None:
            struct.pack_into("<I", copy, at, value)

    def vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        """Start and end of a vector's items, in bytes; equal if the field is missing."""
        at = self._field(slot)
        if at is None:
            return 0, 0
        at += self._read("<I", at)[0]
        start = at + 4
        end = start + self._read("<I", at)[0] * item_bytes
        if end > len(self._data):
            raise _OutOfBounds
        return start, end

    def string(self, slot: int) -> bytes:
        start, end = self.vector(slot, 1)
        return self._data[start:end]

    def uint32s(self, slot: int) -> tuple[int, ...]:
        start, end = self.vector(slot, 4)
        return self._read(f"<{(end - start) // 4}I", start)

    def tables(self, slot: int) -> list[_Table]:
        start, end = self.vector(slot, 4)
        positions = range(start, end, 4)
        return [_Table(self._data, at + self._read("<I", at)[0]) for at in positions]
