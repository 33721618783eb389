"""The file of weights, without TensorFlow: what is written is what is read."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from larq_ensemble.errors import EnsembleError
from larq_ensemble.pretrained.weights import Signs, StoredWeights, read_weights, write_weights

LATENT = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-2, 2, width=32, allow_subnormal=False),
)


def magnitude_aware_sign(w: np.ndarray) -> np.ndarray:
    """Rastegari et al. 2016 with sign(0) = 1, in float64: what a device computes with."""
    return np.where(w >= 0, 1.0, -1.0) * np.abs(w).astype(float).mean(axis=(0, 1, 2))


@given(LATENT)
@settings(max_examples=40)
def test_restored_filters_compute_the_same(latent: np.ndarray) -> None:
    signs = Signs.of(latent)
    restored = signs.latent
    assert signs.bits.nbytes == -(-latent.size // 8)
    assert restored.dtype == np.float32
    # A filter of zeros stays one, and what magnitude has none has no sign to lose.
    expected = magnitude_aware_sign(latent)
    np.testing.assert_array_equal(
        np.signbit(restored)[..., expected.any(axis=(0, 1, 2))],
        np.signbit(expected)[..., expected.any(axis=(0, 1, 2))],
    )
    np.testing.assert_allclose(magnitude_aware_sign(restored), expected, rtol=1e-6)


def test_filters_of_members_have_magnitudes_of_their_own() -> None:
    latent = np.stack([np.full((1, 1, 2, 3), scale, np.float32) for scale in (0.5, -2.0)])
    signs = Signs.of(latent, leading=1)
    np.testing.assert_array_equal(signs.magnitudes, [[0.5] * 3, [2.0] * 3])
    np.testing.assert_array_equal(signs.latent, latent)


def stored() -> StoredWeights:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 64, 64)).astype(np.float32)
    return StoredWeights(
        config={"kind": "ensemble", "dataset": {"class_names": ["Hände", "b"]}},
        run_hash="0" * 64,
        arrays={
            "conv/kernel": Signs.of(kernel),
            "norm/gamma": random.normal(size=(4, 64)).astype(np.float32),
        },
        own=frozenset({"norm"}),
        member_weights=(1.0, 0.5, 0.25, 0.125),
    )


def test_what_is_written_is_read(tmp_path) -> None:
    before, path = stored(), tmp_path / "network.npz"
    write_weights(path, before)
    after = read_weights(path)
    for name in before.arrays:
        np.testing.assert_array_equal(after.values(name), before.values(name))
    for name in ("config", "run_hash", "own", "member_weights"):
        assert getattr(after, name) == getattr(before, name)
    assert after.arrays.keys() == before.arrays.keys()
    # One bit a weight: 36,864 weights, 64 magnitudes, 256 other numbers, and the archive.
    assert path.stat().st_size < 36_864 / 8 + 4 * (64 + 256) + 1200


def test_values_of_members_that_are_the_first_one_are_there_once(tmp_path) -> None:
    random, path = np.random.default_rng(1), tmp_path / "network.npz"
    different = random.normal(size=(4, 3000)).astype(np.float32)
    sizes = []
    for repeats in (0, 1, 3):
        gamma = different.copy()
        gamma[1 : 1 + repeats] = gamma[0]
        arrays = {**stored().arrays, "norm/gamma": gamma, "norm/beta": -different}
        write_weights(path, dataclasses.replace(stored(), arrays=arrays))
        sizes.append(path.stat().st_size)
        found = read_weights(path)
        np.testing.assert_array_equal(found.values("norm/gamma"), gamma)
        np.testing.assert_array_equal(found.values("norm/beta"), -different)
    # Of 12,000 random bytes zlib saves some percent.
    saved = [sizes[0] - size for size in sizes]
    assert saved[1] == pytest.approx(12_000, rel=0.1)
    assert saved[2] == pytest.approx(36_000, rel=0.1)
    # More repeats than members, and of an unknown array.
    for repeats in ({"norm/gamma": 4}, {"norm/gamma": 5}, {"norm/gamma": "3"}):
        rewritten(path, repeats=repeats)
        with pytest.raises(EnsembleError, match="missing or damaged"):
            read_weights(path)


def test_an_archive_grows_by_what_a_weight_takes(tmp_path) -> None:
    """Not by an entry of its own, which took 160 kB of the networks of the package."""
    sizes = []
    for layers in (1, 101):
        arrays = {f"norm{i}/gamma": np.float32([i]) for i in range(layers)}
        write_weights(tmp_path / "network.npz", dataclasses.replace(stored(), arrays=arrays))
        sizes.append((tmp_path / "network.npz").stat().st_size)
        assert read_weights(tmp_path / "network.npz").arrays == arrays  # one number each
    assert sizes[1] - sizes[0] < 100 * 50


def test_weights_that_float32_would_change_are_not_written(tmp_path) -> None:
    arrays = {"norm/gamma": np.array([1 + 1e-12])}
    with pytest.raises(TypeError, match="float32"):
        write_weights(tmp_path / "network.npz", dataclasses.replace(stored(), arrays=arrays))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("values", [{}, {"conv/kernel:magnitudes": [64], "norm/gamma": [4, 63]}])
def test_values_have_to_be_as_many_as_their_shapes_say(values, tmp_path) -> None:
    path = tmp_path / "network.npz"
    write_weights(path, stored())
    rewritten(path, values=values)
    with pytest.raises(EnsembleError, match="missing or damaged"):
        read_weights(path)


def rewritten(path, **changes) -> None:
    """Changes the header of a file."""
    with np.load(path) as archive:
        contents = dict(archive)
    header = {**json.loads(contents["header"].tobytes()), **changes}
    contents["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **contents)


def test_files_that_are_not_whole(tmp_path) -> None:
    path = tmp_path / "network.npz"
    with pytest.raises(EnsembleError, match=r"missing or damaged\. Install larq-ensemble"):
        read_weights(path)
    write_weights(path, stored())
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(EnsembleError, match="missing or damaged"):
            read_weights(path)
    path.write_bytes(whole)
    rewritten(path, bits={"gone/kernel": [1, 1]})
    with pytest.raises(EnsembleError, match="missing or damaged"):
        read_weights(path)
    rewritten(path, format=1)
    with pytest.raises(EnsembleError, match=r"format 1.*reads format 2"):
        read_weights(path)


def test_a_file_without_a_header_is_none(tmp_path) -> None:
    path = tmp_path / "network.npz"
    np.savez(path, weights=np.zeros(3))
    assert zipfile.is_zipfile(path)
    with pytest.raises(EnsembleError, match="can't be read"):
        read_weights(path)


@pytest.mark.parametrize(
    "shapes",
    [
        ["conv/kernel"],
        {"conv/kernel": "ab"},
        {"conv/kernel": [3]},
        {"conv/kernel": [10**6, 10**6, 10**6, 64]},
        {"conv/kernel": [3, 3, 64, 32]},
        {"conv/kernel": [3, 3, 32, 64]},
    ],
)
def test_signs_have_to_fit_their_shape(shapes, tmp_path) -> None:
    """Half of the bits too few, for example, would be taken for zeros."""
    path = tmp_path / "network.npz"
    write_weights(path, stored())
    rewritten(path, bits=shapes)
    with pytest.raises(EnsembleError, match="missing or damaged"):
        read_weights(path)


def test_an_archive_that_only_seems_to_be_one(tmp_path) -> None:
    path = tmp_path / "network.npz"
    write_weights(path, stored())
    whole = path.read_bytes()
    encrypted = bytearray(whole)
    encrypted[whole.rindex(b"PK\x01\x02") + 8] |= 1  # a flag of the last entry
    path.write_bytes(encrypted)
    with pytest.raises(EnsembleError, match="missing or damaged"):
        read_weights(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:  # 4 TiB of zeros, it says
        array = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            array, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
        )
        archive.writestr("norm/beta.npy", array.getvalue())
    with pytest.raises(EnsembleError, match="missing or damaged"):
        read_weights(path)
    np.savez(path, header=np.array([{}], object))
    with pytest.raises(EnsembleError, match="missing or damaged"):
        read_weights(path)
