"""Reading what the runtime needs out of a `.tflite` file, every access checked against its end.

LCE's interpreter is C++ that trusts the file: a damaged one may end the process. So the file is
looked through here first, without TensorFlow and without generated code, and its checksum is
compared; what passes can be handed on.

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
#: TFLite and XNNPACK read constants in vector registers: their start must be a multiple of this.
ALIGNMENT = 16
_DIGEST_KEY = b'"sha256":"'
_DIGEST_LENGTH = 64
#: Where the root table has them, as byte offsets in its vtable.
_SUBGRAPHS, _SIGNATURES = 8, 18
#: Where a SignatureDef has them.
_SIGNATURE_KEY, _SUBGRAPH_INDEX = 8, 12
#: Signature of what is computed once an image, and the start of those of what is left to do then.
PREFIX, REST = "prefix", "rest"


@dataclass(frozen=True)
class Subgraph:
    """A graph of the file with the names of its inputs and outputs.

    # Arguments
        index: its number in the file.
        inputs, outputs: position of each by its name, in the order of the interpreter.
    """

    index: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class EnsembleFile:
    """A converted ensemble, found whole.

    # Arguments
        data: the bytes of the file.
        metadata: what the file says of itself.
        graphs: from the image to the logits: one, or in the layout `"subgraphs"` one a member.
            Inputs are `image` and in the layout `"indexed"` also `member`, outputs `logits` or in
            the layout `"branches"` a `logits_0` and so on for each member.
        prefix: what is the same for all members, from `image` to some `features_0` and so on;
            `None` if the file has no such graph.
        rests: what is left of each of `graphs` behind the prefix.
    """

    data: bytes
    metadata: EnsembleMetadata
    graphs: tuple[Subgraph, ...]
    prefix: Subgraph | None = None
    rests: tuple[Subgraph, ...] = ()

    @property
    def member_graphs(self) -> tuple[Subgraph, ...]:
        """What has to run for each member, behind the prefix where there is one."""
        return self.rests or self.graphs


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a `.tflite` file of whatever origin.

    # Raises
        EnsembleError: if there is no such file, it can't be read, or it is no TFLite flatbuffer.
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
        EnsembleError: as `read_bytes`, and if the file is damaged, or a model of other origin.
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
    file = _arranged(data, metadata, signatures)
    # The complete graphs come first, so that tools which run the first graph run a member.
    parts = () if file is None else (*file.graphs, *filter(None, [file.prefix]), *file.rests)
    if file is None or [part.index for part in parts] != [*range(graphs)]:
        raise EnsembleError(
            f"{str(path)!r} doesn't have the layout {metadata.layout!r} that it says it has. "
            "Convert it again."
        )
    return file


def with_one_subgraph(data: bytes, index: int) -> bytes:
    """A model with only one of the graphs of a file, and its signature.

    The bytes stay where they are: the lists of subgraphs and of signatures are cut to one entry.

    # Arguments
        data: a file that `read_ensemble` found whole.
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
        # The vector's length, and the table's distance from where the entry stands.
        struct.pack_into("<II", shorter, start - 4, 1, at + offset - start)
    return bytes(shorter)


def _arranged(
    data: bytes, metadata: EnsembleMetadata, signatures: dict[str, Subgraph]
) -> EnsembleFile | None:
    """The graphs by what they are for; `None` if they are others than the layout has."""
    members, numbered = range(metadata.members), metadata.layout == "subgraphs"
    keys = [f"member_{member}" for member in members] if numbered else ["serving_default"]
    rest_keys = [f"{REST}_{member}" for member in members] if numbered else [REST]
    inputs = {"image", "member"} if metadata.layout == "indexed" else {"image"}
    outputs = {"logits"}
    if metadata.layout == "branches":
        outputs = {f"logits_{member}" for member in members}
    has_prefix = PREFIX in signatures
    if set(signatures) != {*keys, *([PREFIX, *rest_keys] if has_prefix else [])}:
        return None
    graphs = tuple(signatures[key] for key in keys)
    if any((set(graph.inputs), set(graph.outputs)) != (inputs, outputs) for graph in graphs):
        return None
    if not has_prefix:
        return EnsembleFile(data, metadata, graphs)
    prefix, rests = signatures[PREFIX], tuple(signatures[key] for key in rest_keys)
    known = inputs | set(prefix.outputs)
    if set(prefix.inputs) != {"image"} or not all(
        set(rest.inputs) <= known and set(rest.outputs) == outputs for rest in rests
    ):
        return None
    return EnsembleFile(data, metadata, graphs, prefix, rests)


def seal(data: bytes) -> bytes:
    """Writes the checksum of a finished ensemble file into its metadata.

    # Arguments
        data: a flatbuffer whose metadata has some `sha256`, as `EnsembleMetadata.to_json` writes.

    # Returns
        The same bytes but for the 64 characters of the checksum.
    """
    blob = _metadata_blob(_Table.root(data))
    if blob is None:
        raise ValueError(f"the flatbuffer has no metadata entry {ENTRY!r}")
    at = _digest_position(data, blob)
    return data[:at] + _digest(data, at).encode() + data[at + _DIGEST_LENGTH :]


def with_metadata(data: bytes, metadata: EnsembleMetadata) -> bytes:
    """Gives a finished ensemble file other metadata.

    They are the last vector of the file (see `larq_ensemble.convert.flatbuffer.write_model`), so they may be of
    another length without moving anything else.

    # Returns
        A sealed file, equal to `data` up to where the metadata stand.

    # Raises
        EnsembleError: if something else follows the metadata.
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


def metadata_of(data: bytes) -> EnsembleMetadata | None:
    """The metadata of a file read by `read_bytes`; `None` for a model of other origin.

    # Raises
        EnsembleError: if what stands there can't be metadata.
    """
    try:
        blob = _metadata_blob(_Table.root(data))
    except (struct.error, _OutOfBounds) as error:
        raise EnsembleError(
            "The model is damaged: it ends early or points outside itself. "
            "Copy or convert it again."
        ) from error
    return None if blob is None else EnsembleMetadata.from_json(data[blob[0] : blob[1]])


def _digest(data: bytes, at: int) -> str:
    state = hashlib.sha256(data[:at])
    state.update(b"0" * _DIGEST_LENGTH)
    state.update(data[at + _DIGEST_LENGTH :])
    return state.hexdigest()


def _digest_position(data: bytes, blob: tuple[int, int]) -> int:
    # The digest is the last key that is written, and class names can't hold a bare quote.
    at = data.rfind(_DIGEST_KEY, *blob)
    if at < 0 or at + len(_DIGEST_KEY) + _DIGEST_LENGTH > blob[1]:
        raise _OutOfBounds
    return at + len(_DIGEST_KEY)


def _digest_matches(data: bytes, blob: tuple[int, int]) -> bool:
    at = _digest_position(data, blob)
    return data[at : at + _DIGEST_LENGTH] == _digest(data, at).encode()


def _metadata_blob(root: _Table) -> tuple[int, int] | None:
    """Start and end of the ensemble's metadata in the file."""
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

    The converter orders inputs as it likes (`member` often comes first): only the SignatureDef
    ties names to tensors.
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
    """A flatbuffer table at byte `at`; a slot is the field's byte offset in the vtable."""

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
        """Writes a number that is no default into a copy of the data."""
        at = self._field(slot)
        if at is not None:
            struct.pack_into("<I", copy, at, value)

    def vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        """Start and end of a vector's items in bytes; empty where the field is missing."""
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
