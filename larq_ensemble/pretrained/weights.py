"""The file of a shipped network's weights: an `.npz` of NumPy. Reading it needs no TensorFlow.

    header  JSON: `format`, `config` (that of the run), `run_hash`, `own`, `member_weights`, the
            shapes of what the other two hold, in their order, by LAYER/WEIGHT: `values` and `bits`,
            and `repeats`, where the next so many members have the values of member 0, which are
            there once
    values  float32, all weights but the signs, also whole numbers, one after the other: of a layer
            that members own [members, ...]; as LAYER/WEIGHT:magnitudes the mean magnitude of the
            latent weights of each binary filter, [channels] or [members, channels]
    bits    uint8, the signs of binary filters, 8 a byte (`numpy.packbits`); each kernel begins a
            new byte

Three arrays, because an archive takes some 250 bytes for each.

Layers have the names of the backbone. A layer that members share is there once. A device computes
with the signs of latent weights and, of magnitude-aware filters, with their mean magnitude, so the
latent weights that are restored, sign times magnitude, compute the same.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.files import replacing

FORMAT = 2
_MAGNITUDES = ":magnitudes"
#: The weight of a `larq_ensemble.layers.Mirror`, which a single network doesn't have.
_COLUMNS = "/columns"
#: What zip, zlib, NumPy and the header raise if the file is missing or damaged. RuntimeError: it
#: seems to be encrypted, or its JSON to be endless; MemoryError: an array to be huge.
_UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError),
    *(AttributeError, KeyError, TypeError, ValueError),
)


@dataclass(frozen=True)
class Signs:
    r"""Latent weights of binary filters, as far as a device computes with them.

    \\[ \hat w = s_c \, \text{sign}(w), \qquad s_c = \text{mean} \left|w_c\right| \\]

    with the sign of 0 being 1.

    # Arguments
        bits: uint8, `numpy.packbits` of `w >= 0`.
        magnitudes: s, float32 [..., channels].
        shape: of w, [..., height, width, input channels, channels] or such: its leading axes are
            those of `magnitudes`.
    """

    bits: np.ndarray
    magnitudes: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, latent: np.ndarray, leading: int = 0) -> Signs:
        """Packs latent weights.

        # Arguments
            latent: w, float [..., channels].
            leading: the number of leading axes, such as that of members, along which filters
                differ.
        """
        averaged = tuple(range(leading, latent.ndim - 1))
        magnitudes = np.abs(latent).mean(axis=averaged, dtype=np.float64)
        return cls(np.packbits(latent >= 0), magnitudes.astype(np.float32), latent.shape)

    @property
    def latent(self) -> np.ndarray:
        """The latent weights that are restored, float32."""
        signs = np.unpackbits(self.bits, count=math.prod(self.shape)).reshape(self.shape)
        leading = self.magnitudes.ndim - 1
        inner = (1,) * (len(self.shape) - leading - 1)
        scales = self.magnitudes.reshape(*self.shape[:leading], *inner, self.shape[-1])
        return np.where(signs == 1, scales, -scales)


@dataclass(frozen=True)
class StoredWeights:
    """What the file holds.

    # Arguments
        config: the configuration of the run, as `config.json` has it.
        run_hash: SHA-256 of the run's `model.keras`, which the `.tflite` file has too.
        arrays: by `LAYER/WEIGHT`.
        own: the layers that each member has for itself; their arrays have the members as the first
            axis. Empty for a single network.
        member_weights: of the members in the combination; `None`: all equal.
    """

    config: dict[str, Any]
    run_hash: str
    arrays: Mapping[str, np.ndarray | Signs]
    own: frozenset[str] = frozenset()
    member_weights: tuple[float, ...] | None = None

    def values(self, name: str) -> np.ndarray:
        """The weights under a name, float32; binary filters as latent weights."""
        array = self.arrays[name]
        return array.latent if isinstance(array, Signs) else array

    def single(self) -> StoredWeights | None:
        """Those of the single network that an ensemble keeps, untouched, as its first member.

        `None` for an ensemble that keeps none, see `keeps_single`.
        """
        if self.config["kind"] == "backbone":
            return self
        options = self.config["ensemble"]
        if not keeps_single(options):
            return None
        arrays = {}
        for name, array in self.arrays.items():
            if name.endswith(_COLUMNS):
                continue
            if name.rpartition("/")[0] in self.own:
                first = self.values(name)[0]
                array = Signs.of(first) if isinstance(array, Signs) else first
            arrays[name] = array
        config = {**self.config, "kind": "backbone", "ensemble": {}}
        return StoredWeights(config, options["backbone"], arrays)


def keeps_single(options: Mapping[str, Any]) -> bool:
    """Whether the first member of an ensemble is the single network, with all of its weights.

    Not without `keep_pretrained`, and not with a bias of each member in a shared linear layer.

    # Arguments
        options: of the ensemble, as the configuration of its run has them.
    """
    return bool(options.get("keep_pretrained")) and not options.get("own_head_bias")


def write_weights(path: str | os.PathLike[str], stored: StoredWeights) -> None:
    """Writes the file.

    # Raises
        EnsembleError: if it can't be written.
    """
    signs = {name: each for name, each in stored.arrays.items() if isinstance(each, Signs)}
    values = {name: each for name, each in stored.arrays.items() if not isinstance(each, Signs)}
    values |= {name + _MAGNITUDES: each.magnitudes for name, each in signs.items()}
    of_members = [name for name in values if name.rpartition("/")[0] in stored.own]
    repeats = {name: n for name in of_members if (n := _repeats(values[name]))}
    once = {name: array[repeats.get(name, 0) :] for name, array in values.items()}
    header = {
        "format": FORMAT,
        "config": stored.config,
        "run_hash": stored.run_hash,
        "own": sorted(stored.own),
        "member_weights": stored.member_weights,
        "values": {name: array.shape for name, array in values.items()},
        "bits": {name: each.shape for name, each in signs.items()},
        "repeats": repeats,
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "values": _joined(once.values(), np.float32),
        "bits": _joined((each.bits for each in signs.values()), np.uint8),
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_weights(path: str | os.PathLike[str]) -> StoredWeights:
    """Reads what `write_weights` wrote.

    # Raises
        EnsembleError: if the file is missing, damaged or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise EnsembleError(
                f"{str(path)!r} has weights of format {header['format']!r}, but this version of "
                f"larq-ensemble reads format {FORMAT}: install the version that it came with."
            )
        repeats = header.get("repeats", {})  # files of before have all members' values
        once = {
            name: [shape[0] - repeats[name], *shape[1:]] if name in repeats else shape
            for name, shape in header["values"].items()
        }
        values = _split(arrays["values"], np.float32, once)
        for name, repeated in repeats.items():
            values[name] = np.concatenate([*[values[name][:1]] * repeated, values[name]])
        shapes = {name: tuple(shape) for name, shape in header["bits"].items()}
        packed = {name: (-(-math.prod(shape) // 8),) for name, shape in shapes.items()}
        signs = {
            name: _signs(bits, values.pop(name + _MAGNITUDES), shapes[name])
            for name, bits in _split(arrays["bits"], np.uint8, packed).items()
        }
        weights = header["member_weights"]
        return StoredWeights(
            config=header["config"],
            run_hash=header["run_hash"],
            arrays={**values, **signs},
            own=frozenset(header["own"]),
            member_weights=None if weights is None else tuple(weights),
        )
    except EnsembleError:
        raise
    except _UNREADABLE as error:
        raise EnsembleError(
            f"The weights {str(path)!r} can't be read ({first_line(error)}): the file is missing "
            "or damaged. Install larq-ensemble again."
        ) from error


def _repeats(values: np.ndarray) -> int:
    """How many members in a row after the first have its values, to the bit.

    # Arguments
        values: [members, ...].
    """
    differs = [member.tobytes() != values[0].tobytes() for member in values[1:]]
    return differs.index(True) if True in differs else len(differs)


def _joined(arrays: Iterable[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    """All numbers one after the other; of another dtype only if none changes.

    # Raises
        TypeError: if one would.
    """
    joined = [np.empty(0, dtype)]
    for array in arrays:
        joined.append(array.ravel().astype(dtype))
        if not np.array_equal(joined[-1], array.ravel(), equal_nan=True):
            raise TypeError(f"{array.dtype} {array.shape} changes in {np.dtype(dtype)}")
    return np.concatenate(joined)


def _split(
    joined: np.ndarray, dtype: type[np.generic], shapes: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Takes `_joined` apart.

    # Raises
        ValueError: if it isn't of this dtype or doesn't hold just as many numbers.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    if joined.dtype != dtype or joined.shape != (sum(sizes),):
        raise ValueError(f"{joined.shape} of {joined.dtype} for arrays of {shapes}")
    parts = np.split(joined, np.cumsum(sizes)[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts)}


def _signs(bits: np.ndarray, magnitudes: np.ndarray, shape: tuple[int, ...]) -> Signs:
    """# Raises
    ValueError: if the magnitudes don't fit the shape.
    """
    leading = magnitudes.ndim - 1
    if not 0 <= leading < len(shape) or magnitudes.shape != (*shape[:leading], shape[-1]):
        raise ValueError(f"{magnitudes.shape} magnitudes of filters {shape}")
    return Signs(bits, magnitudes, shape)
