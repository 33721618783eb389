import dataclasses
import hashlib
import time

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from larq_ensemble.data.datasets import DATASETS, Augmentation, Split
from larq_ensemble.data.splits import LazyImages
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.keras import tf
from larq_ensemble.training.pipeline import evaluation_batches, training_batches

DIGITS = DATASETS["digits"]
PLAIN = dataclasses.replace(DIGITS, augmentation=Augmentation())


def numbered(count: int) -> Split:
    """Images of one pixel value each, its own, which is its label too."""
    values = np.arange(count)
    images = np.broadcast_to(values[:, None, None, None], (count, 8, 8, 1)).astype(np.uint8)
    return Split(images, values.astype(np.int32))


def noise(count: int, shape: tuple[int, int, int]) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return Split(images, np.arange(count, dtype=np.int32))


def numbers_of(x: np.ndarray) -> np.ndarray:
    """The pixel values of unaugmented `numbered` images."""
    pixels = (x[:, 0, 0, 0] * DIGITS.normalization.std[0] + DIGITS.normalization.mean[0]) * 255
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-3)
    return np.round(pixels).astype(int)


class OnDisk(LazyImages):
    """Images that note which of them are read."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(images.shape)
        self.images, self.reads = images, []

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.reads.append(indices.tolist())
        return self.images[indices]


def elements(batches) -> list:
    return list(batches.stream.as_numpy_iterator())


@pytest.mark.parametrize(
    ("name", "inputs", "digest"),
    [
        ("digits", 2, "3d8737f0c007f300"),
        ("cifar100", 1, "1a47fc0256db1984"),
    ],
)
def test_a_seed_gives_the_batches_that_it_gave_before(name, inputs, digest):
    """So trainings of before can be repeated. The digests are of images and labels then."""
    dataset = DATASETS[name]
    outputs = ("a", "b") if inputs > 1 else ()
    batches = training_batches(
        noise(20, dataset.input_shape), dataset, batch_size=6, epochs=2, seed=5, inputs=inputs,
        outputs=outputs,
    )  # fmt: skip
    seen = hashlib.sha256()
    std, mean = dataset.normalization.std, dataset.normalization.mean
    for x, y in elements(batches):
        for images in x if inputs > 1 else [x]:
            seen.update(np.round((images * np.array(std) + np.array(mean)) * 255).astype(np.uint8))
        for labels in y.values() if inputs > 1 else [y]:
            seen.update(labels.astype("<i4"))
    assert seen.hexdigest()[:16] == digest


def test_the_seed_alone_decides_the_batches():
    data = noise(20, (8, 8, 1))
    once, again, other = (
        elements(training_batches(data, DIGITS, batch_size=6, epochs=2, seed=seed))
        for seed in (5, 5, 6)
    )
    assert len(once) == len(again) == 6
    for (x, y), (x_again, y_again) in zip(once, again):
        assert np.array_equal(x, x_again)
        assert np.array_equal(y, y_again)
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(once, other))


def test_every_epoch_visits_each_image_at_most_once_in_a_new_order():
    batches = training_batches(numbered(50), PLAIN, batch_size=16, epochs=4, seed=1)
    assert batches.steps_per_epoch == 3
    orders = []
    for epoch in range(4):
        steps = elements(batches)[3 * epoch : 3 * epoch + 3]
        labels = np.concatenate([y for _, y in steps])
        assert np.array_equal(numbers_of(np.concatenate([x for x, _ in steps])), labels)
        assert len(labels) == len(set(labels.tolist())) == 48
        orders.append(labels.tolist())
    assert len({tuple(order) for order in orders}) == 4
    # The two that one epoch drops come back in another.
    assert set().union(*orders) == set(range(50))


def test_a_batch_larger_than_the_data_is_all_of_them():
    batches = training_batches(numbered(10), PLAIN, batch_size=64, epochs=1)
    ((_, labels),) = elements(batches)
    assert batches.steps_per_epoch == 1
    assert sorted(labels) == list(range(10))


@pytest.mark.parametrize(("name", "shape"), [("digits", (8, 8, 1)), ("cifar100", (32, 32, 3))])
def test_augmented_images_are_padded_crops_and_flips_each_with_its_own_draw(name, shape):
    dataset = DATASETS[name]
    pad, flip = dataset.augmentation.pad, dataset.augmentation.flip
    assert (pad, flip) == {"digits": (1, False), "cifar100": (4, True)}[name]
    data = noise(300, shape)
    height, width, _ = shape
    # Black pixels, so zeros before normalization, come in from outside.
    padded = np.pad(data.images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    drawn = []
    for x, y in elements(training_batches(data, dataset, batch_size=150, epochs=2, seed=0)):
        std, mean = dataset.normalization.std, dataset.normalization.mean
        pixels = np.round((x * np.array(std) + np.array(mean)) * 255)
        np.testing.assert_allclose(x, dataset.normalization(pixels), atol=1e-5)
        for image, label in zip(pixels, y):
            # [row, column of the crop, height, width, channels]
            crops = np.moveaxis(sliding_window_view(padded[label], (height, width), (0, 1)), 2, -1)
            matches = [
                (row, column, mirrored)
                for mirrored in (False, True)[: 1 + flip]
                for row, column in np.argwhere(
                    (crops == (image[:, ::-1] if mirrored else image)).all(axis=(2, 3, 4))
                )
            ]
            assert len(matches) == 1, f"image {label} is {len(matches)} of its crops"
            drawn += matches
    rows, columns, mirrored = map(np.array, zip(*drawn))
    positions = 2 * pad + 1
    for offsets in (rows, columns):
        # 600 draws, each position is expected 600 / positions times.
        assert np.bincount(offsets, minlength=positions).min() > 300 / positions
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2
    assert 0.4 < mirrored.mean() < 0.6 if flip else not mirrored.any()
    # The second epoch draws anew.
    assert drawn[:300] != drawn[300:]


def test_without_augmentation_training_sees_normalized_originals():
    data = noise(12, (8, 8, 1))
    for x, y in elements(training_batches(data, PLAIN, batch_size=4, epochs=1)):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, DIGITS.normalization(data.images[y]), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "scheme"), [(1, "batch_bagging"), (2, "batch_bagging"), (1, "sampled_nested_fusion")]
)
def test_a_resumed_stream_is_the_tail_of_the_whole(inputs, scheme):
    arguments = {
        "batch_size": 8,
        "epochs": 4,
        "seed": 2,
        "inputs": inputs,
        "outputs": ("member_0", "member_1"),
        "sample_weights": SCHEMES[scheme].sample_weights(2, 30, 2),
    }
    data = noise(30, (8, 8, 1))
    whole = elements(training_batches(data, DIGITS, **arguments))
    tail = elements(training_batches(data, DIGITS, initial_epoch=3, **arguments))
    assert (len(whole), len(tail)) == (12, 3)
    for expected, actual in zip(whole[9:], tail):
        for name in ("member_0", "member_1"):
            assert np.array_equal(expected[1][name], actual[1][name])
            assert np.array_equal(expected[2][name], actual[2][name])
        assert np.array_equal(np.stack(expected[0]), np.stack(actual[0]))


def test_independent_inputs_differ_and_carry_their_own_labels():
    batches = training_batches(
        numbered(24), PLAIN, batch_size=8, epochs=2, inputs=2, outputs=("member_0", "member_1")
    )
    orders = ([], [])
    for features, targets in elements(batches):
        assert len(features) == 2
        for member in range(2):
            labels = targets[f"member_{member}"]
            assert np.array_equal(numbers_of(features[member]), labels)
            orders[member].extend(labels.tolist())
    for order in orders:
        assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))
    assert orders[0] != orders[1]
    # Nor is one stream the other's, an epoch later.
    assert orders[0][24:] != orders[1][:24]


def test_independent_inputs_are_augmented_independently():
    data = Split(np.tile(noise(1, (8, 8, 1)).images, (16, 1, 1, 1)), np.zeros(16, np.int32))
    ((features, _),) = elements(
        training_batches(
            data, DIGITS, batch_size=16, epochs=1, inputs=2, outputs=("member_0", "member_1")
        )
    )
    assert not np.array_equal(features[0], features[1])


def weights_by_image(batches, outputs) -> dict[str, dict[int, set[float]]]:
    seen = {name: {} for name in outputs}
    for _, targets, weights in elements(batches):
        for name in outputs:
            for label, weight in zip(targets[name].tolist(), weights[name].tolist()):
                seen[name].setdefault(label, set()).add(weight)
    return seen


@pytest.mark.parametrize("inputs", [1, 3])
def test_bagging_weighs_each_image_alike_in_all_epochs(inputs):
    count, outputs = 60, ("member_0", "member_1", "member_2")
    batches = training_batches(
        numbered(count),
        PLAIN,
        batch_size=20,
        epochs=3,
        inputs=inputs,
        outputs=outputs,
        sample_weights=SCHEMES["bagging"].sample_weights(3, count, seed=4),
    )
    seen = weights_by_image(batches, outputs)
    counts = {}
    for name in outputs:
        assert sorted(seen[name]) == list(range(count))
        assert all(len(weights) == 1 for weights in seen[name].values())
        counts[name] = [next(iter(seen[name][image])) for image in range(count)]
        assert sum(counts[name]) == count
        # Drawn with replacement: about 1 / e = 37 % of the images are not drawn.
        assert 0.2 < np.mean(np.array(counts[name]) == 0) < 0.55
    assert len({tuple(values) for values in counts.values()}) == 3


WEIGHTS = np.linspace(0.5, 2, 48, dtype=np.float32)


def test_class_weights_of_one_network():
    arguments = {"batch_size": 16, "epochs": 1, "class_weights": WEIGHTS}
    part = SCHEMES["batch_bagging"].sample_weights(1, 48, seed=0)
    for batches in (
        training_batches(numbered(48), PLAIN, **arguments),
        training_batches(numbered(48), PLAIN, part=part, **arguments),
    ):
        for x, y, weights in elements(batches):
            assert np.array_equal(numbers_of(x), y)
            assert np.array_equal(weights, WEIGHTS[y])


@pytest.mark.parametrize(("scheme", "inputs"), [("bagging", 2), ("voting", 1)])
def test_class_weights_multiply_the_weights_of_the_scheme(scheme, inputs):
    outputs = ("member_0", "member_1")
    arguments = {
        "batch_size": 16,
        "epochs": 1,
        "inputs": inputs,
        "outputs": outputs,
        "sample_weights": SCHEMES[scheme].sample_weights(2, 48, seed=0),
    }
    alone = elements(training_batches(numbered(48), PLAIN, **arguments))
    weighed = elements(training_batches(numbered(48), PLAIN, class_weights=WEIGHTS, **arguments))
    for (_, _, *of_scheme), (_, targets, weights) in zip(alone, weighed):
        assert weights.keys() == set(outputs)
        for name in outputs:
            expected = WEIGHTS[targets[name]] * (of_scheme[0][name] if of_scheme else 1)
            np.testing.assert_allclose(weights[name], expected, rtol=1e-6)


def test_batch_bagging_weighs_each_batch_anew():
    outputs = ("member_0", "member_1")
    batches = training_batches(
        numbered(32),
        PLAIN,
        batch_size=16,
        epochs=2,
        outputs=(*outputs, "ensemble"),
        sample_weights=SCHEMES["batch_bagging"].sample_weights(2, 32, seed=0),
    )
    steps = elements(batches)
    for _, targets, weights in steps:
        assert set(targets) == {*outputs, "ensemble"}
        assert set(weights) == set(outputs)
        for name in outputs:
            assert weights[name].mean() == pytest.approx(1)
            assert len(set(weights[name].tolist())) == 2
        assert not np.array_equal(weights["member_0"], weights["member_1"])
    assert len({weights["member_0"].tobytes() for _, _, weights in steps}) == len(steps)


def test_a_member_alone_sees_only_its_part_of_each_batch():
    """Each of its images once, those that the weights of joint training leave."""
    weigh = SCHEMES["batch_bagging"].sample_weights(1, 48, seed=0)
    arguments = {"batch_size": 16, "epochs": 2, "seed": 3}
    parts = elements(training_batches(numbered(48), PLAIN, part=weigh, **arguments))
    wholes = elements(
        training_batches(
            numbered(48), PLAIN, outputs=("member_0",), sample_weights=weigh, **arguments
        )
    )
    assert len(parts) == len(wholes) == 6
    for (x, y), (_, targets, weights) in zip(parts, wholes):
        assert np.array_equal(y, targets["member_0"][weights["member_0"] > 0])
        assert np.array_equal(numbers_of(x), y)
        assert 0 < len(y) == len(set(y.tolist())) < 16


def test_the_last_incomplete_batch_can_be_kept():
    arguments = {"batch_size": 16, "epochs": 2, "seed": 1, "drop_remainder": False}
    batches = training_batches(numbered(50), PLAIN, **arguments)
    steps = elements(batches)
    assert [len(y) for _, y in steps] == [16, 16, 16, 2] * 2
    assert (batches.steps_per_epoch, batches.last_batch_size) == (4, 2)
    for epoch in (steps[:4], steps[4:]):
        assert sorted(np.concatenate([y for _, y in epoch])) == list(range(50))
    (tail,) = elements(training_batches(numbered(50), PLAIN, initial_epoch=1, **arguments))[3:]
    assert np.array_equal(tail[1], steps[7][1])
    # The others are the same batches.
    dropping = elements(
        training_batches(numbered(50), PLAIN, **arguments | {"drop_remainder": True})
    )
    for kept, alone in zip(steps[:3], dropping):
        assert np.array_equal(kept[1], alone[1])


@pytest.mark.parametrize(("inputs", "scheme"), [(1, "batch_bagging"), (2, "bagging")])
def test_images_on_disk_give_the_batches_of_images_in_memory(inputs, scheme):
    """With the augmentation that draws most; each batch reads its own images and no others."""
    dataset = DIGITS.augmented("mix")
    arguments = {
        "batch_size": 8,
        "epochs": 2,
        "seed": 2,
        "inputs": inputs,
        "outputs": ("member_0", "member_1"),
        "sample_weights": SCHEMES[scheme].sample_weights(2, 30, 2),
        "drop_remainder": False,
    }
    in_memory = noise(30, (8, 8, 1))
    on_disk = Split(OnDisk(in_memory.images), in_memory.labels)
    expected, actual = (
        elements(training_batches(data, dataset, **arguments)) for data in (in_memory, on_disk)
    )
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)
    assert sorted(on_disk.images.reads) == sorted(
        labels.tolist() for _, y, _ in actual for labels in [*y.values()][:inputs]
    )


def test_images_on_disk_are_read_as_they_are_used():
    """A few batches are made ahead, not all."""
    data = noise(400, (8, 8, 1))
    data = Split(OnDisk(data.images), data.labels)
    next(iter(training_batches(data, DIGITS, batch_size=2, epochs=1).stream))
    next(iter(evaluation_batches(data, DIGITS, batch_size=2)))
    read = 0
    while read < len(data.images.reads):
        read = len(data.images.reads)
        time.sleep(0.1)
    assert 2 <= read < 40


@pytest.mark.parametrize("inputs", [1, 2])
def test_evaluation_batches_are_normalized_and_in_order(inputs):
    data = noise(11, (8, 8, 1))
    on_disk = Split(OnDisk(data.images), data.labels)
    batches = list(evaluation_batches(data, DIGITS, batch_size=4, inputs=inputs))
    from_disk = list(evaluation_batches(on_disk, DIGITS, batch_size=4, inputs=inputs))
    tf.nest.map_structure(np.testing.assert_array_equal, from_disk, batches)
    assert sorted(on_disk.images.reads) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [len(y) for _, y in batches] == [4, 4, 3]
    assert np.array_equal(np.concatenate([y for _, y in batches]), data.labels)
    for stream in range(inputs):
        x = np.concatenate([x[stream] if inputs > 1 else x for x, _ in batches])
        np.testing.assert_allclose(x, DIGITS.normalization(data.images), atol=1e-5)
