import os
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.data import encoded
from larq_ensemble.data.datasets import DataOptions
from larq_ensemble.data.opening import open_dataset, reopen
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.images import read_image


def opened(folder, **options):
    return open_dataset(f"folder:{folder}", images=ImageOptions(**options))


def rows(split):
    return [image.tobytes() for image in np.asarray(split.images)]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).tobytes()


def error_of(folder, **options):
    with pytest.raises(EnsembleError) as error:
        opened(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_folders_are_classes(photos, put):
    put("cat/2019/deep/a.PNG")
    put("cat/.hidden.png")
    put(".git/a.png")
    put("__MACOSX/cat/a.png")
    (photos / "dog" / "Thumbs.db").write_bytes(b"x")
    (photos / "readme.txt").write_text("x")
    dataset = opened(photos)
    constants = dataset.constants()
    assert constants["name"] == "folder:photos"
    assert constants["class_names"] == ["cat", "dog"]
    assert constants["input_shape"] == [6, 5, 3]
    assert constants["source"]["spec"] == f"folder:{photos}"
    images = ImageOptions(image_size=(6, 5), channels=3)
    assert constants["source"]["images"] == images.to_json()
    train, test = dataset.read(None)
    assert (len(train), np.bincount(test.labels).tolist()) == (17, [2, 2])
    expected = {pixels(path): 0 for path in photos.glob("cat/[0-9]*.png")}
    expected |= {pixels(path): 1 for path in photos.glob("dog/*.png")}
    expected[pixels(photos / "cat/2019/deep/a.PNG")] = 0
    seen = dict(zip([*rows(train), *rows(test)], [*train.labels, *test.labels]))
    assert seen == expected
    scaled = np.asarray(train.images) / 255
    np.testing.assert_allclose(dataset.normalization.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.normalization.std, scaled.std((0, 1, 2)), rtol=1e-9)


def test_another_split_seed_cuts_another_test_split(photos):
    one, same, other, larger = (
        opened(photos, split_seed=seed, test_share=share).read(None)
        for seed, share in ((0, 0.2), (0, 0.2), (1, 0.2), (0, 0.5))
    )
    assert rows(one[1]) == rows(same[1])
    assert set(rows(one[1])) != set(rows(other[1]))
    assert set(rows(one[1])) < set(rows(larger[1]))
    assert len(larger[1]) == 10
    everything = reopen(opened(photos, test_share=0).constants()).read(None)
    assert [len(split) for split in everything] == [20, 0]
    assert np.asarray(everything[1].images).shape == (0, 6, 5, 3)
    assert "No training images are left" in (message := error_of(photos, test_share=1))
    assert "lower `test_share`" in message


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("train", "test"), [2, 4]),
        (("train", "val"), [2, 4]),  # without a test split, validation is the test
        (("Training", "testing", "validation"), [2, 4, 6]),
        (("train",), [2, 0]),  # cut: of one image in a class none
    ],
)
def test_splits_that_are_there_stay_as_they_are(tmp_path, put, folders, sizes):
    for count, part in enumerate(folders, 1):
        for name in ("cat", "dog"):
            for number in range(count):
                put(f"{part}/{name}/{number}.png")
    splits = opened(tmp_path / "photos").read(None)
    assert [len(split) for split in splits] == sizes
    for part, split in zip(folders, splits):
        paths = sorted((tmp_path / "photos" / part).rglob("*.png"))
        assert rows(split) == list(map(pixels, paths))[: len(split)]


def test_a_class_of_trains(photos, put):
    put("train/1.png")
    assert opened(photos).class_names == ("cat", "dog", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "There is no folder|can't be read"),
        (["1.png", "2.png"], "must hold a folder of images for each class.*no folders"),
        (["cat/1.png"], "^A classifier needs two classes or more. Found in 'folder:.*': 'cat'\\.$"),
        (["in/cat/1.png", "in/dog/1.png"], "Did you mean `folder:.*photos/in`"),
        (["cat/1.png", "dog/readme.txt"], "dog' has no image files: remove it.*1 with .txt"),
        (["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"], "of the same classes.*'dog'"),
        (
            ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "bird/1.png"],
            "has the folders 'bird', 'test', 'train': give one",
        ),
        (["train/1.png", "test/1.png"], "train' must hold a folder of images for each class"),
        (["train/cat/1.png", "training/cat/2.png"], "has the folders 'train', 'training'"),
    ],
)
def test_what_is_no_folder_of_classes(tmp_path, put, files, message):
    for name in files:
        path = put(name) if name.endswith("png") else tmp_path / "photos" / name
        if not path.exists():
            path.parent.mkdir(parents=True)
            path.write_text("x")
    with pytest.raises(EnsembleError, match=message):
        opened(tmp_path / "photos")


def test_images_of_several_sizes_need_one(photos, put):
    put("cat/large.png", size=(9, 4))
    message = error_of(photos)
    assert "differ in size, such as 6x5 and 9x4 (height x width)" in message
    assert "give `image_size=(64, 64)`" in message
    assert opened(photos, image_size=(4, 4)).input_shape == (4, 4, 3)


def test_large_images_are_asked_about(put, tmp_path):
    for name in ("cat", "dog"):
        put(f"{name}/1.png", size=(20, 257))
    assert "have the size 20x257 (height x width)" in error_of(tmp_path / "photos")


def test_channels_are_those_of_the_images(tmp_path, put):
    for name in ("cat", "dog"):
        for number in range(3):
            put(f"{name}/{number}.png", mode="L")
    photos = tmp_path / "photos"
    assert opened(photos).input_shape == (6, 5, 1)
    assert opened(photos, channels=3).input_shape == (6, 5, 3)
    put("dog/color.png")
    assert opened(photos).input_shape == (6, 5, 3)
    assert opened(photos, channels=1, image_size=(3, 3)).input_shape == (3, 3, 1)


def test_images_are_turned_upright_before_they_are_cropped(tmp_path, put):
    for name in ("cat", "dog"):
        exif = Image.Exif()
        exif[274] = 6  # turned by 90 degrees
        put(f"{name}/1.png", size=(4, 8), exif=exif)
    dataset = opened(tmp_path / "photos", test_share=0)
    assert dataset.input_shape == (8, 4, 3)
    with Image.open(tmp_path / "photos/cat/1.png") as image:
        expected = np.rot90(np.asarray(image), -1)
    assert np.array_equal(dataset.read(None)[0].images[0], expected)


def test_damaged_files_are_refused_or_skipped(photos):
    whole = [set(rows(split)) for split in opened(photos).read(None)]
    damaged = [photos / f"cat/{number}.png" for number in (1, 4, 7, 8)]
    lost = set(map(pixels, damaged))
    for path in damaged:
        path.write_bytes(path.read_bytes()[:40])
    message = error_of(photos)
    assert "4 of the 20 image files in" in message
    assert "'cat/1.png' (" in message
    assert "'cat/7.png'" in message
    assert "'cat/8.png'" not in message
    assert "or skip them (`damaged`)" in message
    with pytest.warns(UserWarning, match=r"4 of the 20 image files .* They are left out\."):
        dataset = opened(photos, damaged="skip")
    # No other image has moved to another split.
    assert [set(rows(split)) for split in dataset.read(None)] == [each - lost for each in whole]
    assert [len(split) for split in reopen(dataset.constants()).read(None)] == [
        len(each - lost) for each in whole
    ]


def test_a_file_that_can_be_read_again_is(photos, monkeypatch):
    """Its size and time are the same, as after an error of the disk or a wrong permission."""
    path = photos / "cat/1.png"
    data, time = path.read_bytes(), path.stat().st_mtime_ns

    def write(content):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))

    write(bytes(len(data)))
    assert "1 of the 20 image files" in error_of(photos)
    read = []
    monkeypatch.setattr(
        encoded, "read_image", lambda file, shape: read.append(file) or read_image(file, shape)
    )
    with pytest.warns(UserWarning, match="'cat/1.png'"):
        opened(photos, damaged="skip")
    assert read == [path]
    write(data)
    assert sum(map(len, opened(photos, damaged="skip").read(None))) == 20
    read.clear()
    opened(photos)
    assert read == []


def test_a_class_of_damaged_files(photos):
    for path in photos.glob("dog/*.png"):
        path.write_bytes(b"")
    message = error_of(photos, damaged="skip")
    assert "none is a training image of the class 'dog'" in message
    for path in photos.glob("cat/*.png"):
        path.write_bytes(b"")
    assert "None of the 20 image files" in error_of(photos, damaged="skip")


def test_files_beside_the_classes_are_told(photos, put):
    put("1.png")
    with pytest.warns(UserWarning, match=r"1 image file beside the class folders in '.*photos'"):
        assert len(opened(photos).read(None)[0]) == 16


def test_files_of_other_types_are_told(photos):
    for name in ("a.heic", "b.HEIC", "labels", "c.txt"):
        (photos / "dog" / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"2 with \.heic, 1 with \.txt, .* to JPEG\."):
        assert len(opened(photos).read(None)[0]) == 16


def test_equal_files_in_two_splits_are_told(tmp_path, put):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            put(f"{part}/{name}/1.png")
    photos = tmp_path / "photos"
    shutil.copy(photos / "train/cat/1.png", photos / "train/cat/2.png")  # no leak
    opened(photos)
    shutil.copy(photos / "train/cat/1.png", photos / "test/dog/x.png")
    with pytest.warns(UserWarning, match=r"test split has 1 image .*'train/cat/1.png' and 'test/d"):
        opened(photos)


def test_links_and_odd_names(tmp_path, put):
    put("[bold] \u00f6;'\"%s{}/a b\n.png")
    put("dog/1.png")
    photos = tmp_path / "photos"
    elsewhere = tmp_path / "elsewhere"
    (photos / "dog").rename(elsewhere)
    (photos / "dog").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(elsewhere)
    (elsewhere / "itself").symlink_to("itself")
    (photos / "itself").symlink_to("itself")
    (elsewhere / "other.png").symlink_to(photos / "dog" / "1.png")
    with pytest.warns(UserWarning, match="left out: 1 with no ending"):
        dataset = opened(photos, test_share=0)
    (elsewhere / "itself").unlink()
    assert dataset.class_names == ("[bold] \u00f6;'\"%s{}", "dog")
    assert dataset.read(None)[0].labels.tolist() == [0, 1, 1]
    (elsewhere / "gone.png").symlink_to(elsewhere / "missing.png")
    assert "'dog/gone.png' (" in error_of(photos)


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
def test_names_that_are_no_utf8(photos):
    file = os.fsencode(photos) + b"/cat/\xff.png"
    shutil.copy(photos / "cat/1.png", file)
    assert len(opened(photos, test_share=0).read(None)[0]) == 21
    os.rename(os.fsencode(photos) + b"/cat", os.fsencode(photos) + b"/\xff")
    assert "is no UTF-8: rename it" in error_of(photos)
    os.rename(os.fsencode(photos) + b"/\xff", photos / "cat")
    os.rename(photos, other := os.fsencode(photos) + b"\xfe")
    assert "is no UTF-8: rename it" in error_of(os.fsdecode(other))


def test_a_run_reads_the_images_that_it_was_trained_on(photos, put, tmp_path):
    dataset = opened(photos, image_size=(4, 4))
    constants = dataset.constants()
    again = reopen(constants)
    assert again.constants() == constants
    assert [rows(split) for split in again.read(None)] == [
        rows(each) for each in dataset.read(None)
    ]
    shutil.move(photos, tmp_path / "moved")
    gone = reopen(constants)  # looks only when it reads
    with pytest.raises(EnsembleError, match=r"photos' can't be read"):
        gone.read(None)
    moved = reopen(constants, spec=f"folder:{tmp_path / 'moved'}")
    assert moved.has_data_of(constants)
    assert moved.normalization == dataset.normalization
    assert [rows(split) for split in moved.read(None)] == [
        rows(each) for each in dataset.read(None)
    ]
    shutil.move(tmp_path / "moved", photos)
    put("cat/new.png")
    with pytest.raises(EnsembleError, match="files were added, removed or changed"):
        DataOptions().load(reopen(constants), 0)
    other = reopen(constants, spec=f"folder:{photos}")
    assert not other.has_data_of(constants)
    assert len(other.read(None)[0]) == 17
    put("bird/1.png")
    with pytest.raises(EnsembleError, match=r"other classes than the run.*'bird'"):
        reopen(constants, spec=f"folder:{photos}")


def test_without_room_files_are_decoded_at_access(photos, monkeypatch):
    whole = opened(photos)
    (photos / "cat/1.png").write_bytes(b"x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(photos / "cat/2.png"))  # no folder
    with pytest.warns(UserWarning, match="can't be (cached|read)") as seen:
        dataset = opened(photos, damaged="skip")
    assert "are decoded at each access" in str(seen[0].message)
    assert "They are left out" in str(seen[1].message)
    for split, before in zip(dataset.read(None), whole.read(None)):
        assert not isinstance(split.images, np.ndarray)
        assert rows(split) == [row for row in rows(before) if row in set(rows(split))]
        assert len(split) >= len(before) - 1
    train = dataset.read(None)[0]
    order = np.random.default_rng(0).permutation(len(train))
    assert rows(train.take(order)) == [rows(train)[index] for index in order]
    before = rows(train)[0]
    for path in photos.rglob("*.png"):
        Image.new("RGB", (5, 6), "red").save(path)
    assert rows(train)[0] != before
