import warnings

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.data.datasets import DATASETS, DataOptions, Dataset
from larq_ensemble.data.opening import check_cut, check_fits, images_as_input, open_dataset, reopen
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.images import fit_image, read_image


def test_built_in_data_by_name():
    assert open_dataset("digits") is DATASETS["digits"]
    with pytest.raises(EnsembleError, match=r"`channels` 1 has no effect on 'digits'"):
        open_dataset("digits", images=ImageOptions(channels=1))


@pytest.mark.parametrize("spec", ["mnist", "file:/x", "folder:", "npz", ""])
def test_an_unknown_data_set_lists_what_there_is(spec):
    with pytest.raises(EnsembleError) as error:
        open_dataset(spec)
    assert str(error.value).startswith(f"Unknown dataset {spec!r}. Known: cifar10, cifar100, digit")
    for form in ("`folder:DIR`", "`tfds:NAME`", "`npz:FILE`"):
        assert form in str(error.value)


def test_built_in_data_in_a_folder_of_their_own(tmp_path):
    dataset = open_dataset("cifar10", data_dir=str(tmp_path / "own"))
    with pytest.raises(EnsembleError, match="own' does not exist"):
        DataOptions().load(dataset, seed=0)
    with pytest.raises(EnsembleError, match="other' does not exist"):
        DataOptions(str(tmp_path / "other")).load(dataset, seed=0)


def test_paths_without_their_kind(tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", images=[1])
    monkeypatch.chdir(tmp_path)
    for spec, form in (("data.npz", "npz:data.npz"), (str(tmp_path), f"folder:{tmp_path}")):
        with pytest.raises(EnsembleError, match=f"Did you mean `{form}`"):
            open_dataset(spec)


@pytest.mark.parametrize("spec", ["folder:photos", "npz:data.npz"])
def test_files_have_no_data_dir(spec):
    with pytest.raises(EnsembleError, match=r"`data_dir` 'd' has no effect"):
        open_dataset(spec, data_dir="d")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:~no-such-user/a", "The folder '.*/~no-such-user/a' can't be read"),
        ("npz:~no-such-user/a", "There is no file '.*/~no-such-user/a'"),
        ("~no-such-user/a", "Unknown dataset '~no-such-user/a'"),
    ],
)
def test_the_home_of_nobody(spec, message):
    with pytest.raises(EnsembleError, match=message):
        open_dataset(spec)


def test_a_relative_path_is_recorded_whole(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    dataset = open_dataset("folder:photos")
    assert dataset.constants()["source"]["spec"] == f"folder:{photos}"
    monkeypatch.chdir(photos)
    assert reopen(dataset.constants()).read(None)[0].images.shape == (16, 6, 5, 3)
    assert open_dataset("folder:.").name == "folder:photos"


def test_the_data_of_a_run_on_built_in_data(digits):
    constants = DATASETS["digits"].constants()
    again = reopen(constants)
    assert again.constants() == constants
    assert np.array_equal(again.read(None)[1].images, digits[1].images)
    changed = reopen({**constants, "mean": [0.25]})
    assert changed.normalization.mean == (0.25,)
    # Runs of early versions recorded less.
    early = {key: constants[key] for key in ("name", "classes", "input_shape")}
    assert reopen(early).constants() == constants
    with pytest.raises(EnsembleError, match=r"'cifar10' has images of \[32, 32, 3\], but the run"):
        reopen(constants, spec="cifar10")
    with pytest.raises(EnsembleError, match=r"'cifar100' has other classes than the run.* Give "):
        reopen(constants, spec="cifar100")


def test_other_data_for_a_run_on_built_in_data(tmp_path, digits):
    constants = DATASETS["digits"].constants()
    split = digits[1].first(60)
    np.savez(tmp_path / "mine.npz", images=split.images, labels=split.labels)
    other = reopen(constants, spec=f"npz:{tmp_path / 'mine.npz'}")
    assert not other.has_data_of(constants)
    assert other.class_names == DATASETS["digits"].class_names
    assert other.normalization == DATASETS["digits"].normalization
    # The other way round, and whether a name alone says it.
    back = reopen(other.constants(), spec="digits")
    assert not back.has_data_of(other.constants())
    assert reopen(constants, spec="digits").has_data_of(constants)


def test_class_names_of_other_data(tmp_path):
    """Those in a file count; data without names fit by their number of classes."""
    images = np.arange(60, dtype=np.uint8).reshape(15, 2, 2)
    named, others, numbers = (tmp_path / name for name in ("named.npz", "others.npz", "no.npz"))
    for path, names in ((named, "abc"), (others, "abd"), (numbers, None)):
        extra = {} if names is None else {"class_names": list(names)}
        np.savez(path, images=images, labels=np.arange(15) % 3, **extra)
    constants = open_dataset(f"npz:{named}").constants()
    assert reopen(constants, spec=f"npz:{numbers}").class_names == ("a", "b", "c")
    with pytest.raises(EnsembleError, match=r"other classes than the run.*Differing: 'c', 'd'\."):
        reopen(constants, spec=f"npz:{others}")
    given = Dataset.from_arrays(images, np.arange(15) % 3, class_names="acb")
    with pytest.raises(EnsembleError, match=r"of 'run' in another order: its label 1 is 'c', that"):
        check_fits(given, constants, "'run'")
    message = r"than 'm\.keras', which was trained on 4, not 3\. Give data of the same classes\.$"
    with pytest.raises(EnsembleError, match=message):
        check_fits(given, {"classes": 4, "input_shape": [2, 2, 1]}, "'m.keras'")
    check_fits(given, {"classes": 3, "input_shape": [2, 2, 1]})
    unnamed = open_dataset(f"npz:{numbers}").constants()
    assert reopen(unnamed, spec=f"npz:{named}").classes == 3


def test_data_of_some_classes_get_the_labels_of_the_network(tmp_path, photos, put):
    constants = {
        "name": "animals",
        "classes": 4,
        "class_names": ["dog", "ant", "cat", "bee"],
        "input_shape": [6, 5, 3],
        "source": Dataset.from_arrays(
            np.arange(720, dtype=np.uint8).reshape(8, 6, 5, 3), np.arange(8) % 4
        ).constants()["source"],
    }
    spec = f"folder:{photos}"
    with pytest.raises(EnsembleError, match="has other classes than the run"):
        reopen(constants, spec=spec)
    with pytest.warns(UserWarning, match="'folder:photos' has 2 of the 4 classes of the run"):
        opened = reopen(constants, spec=spec, whole=True, some_classes=True)
    assert opened.class_names == ("dog", "ant", "cat", "bee")
    # The folder's classes are cat, 0, and dog, 1.
    for split, count in zip(opened.read(None), (16, 4)):
        assert sorted(split.labels) == sorted([2, 0] * (count // 2))
    images = {2: set(), 0: set()}
    for split in opened.read(None):
        for image, label in zip(split.images, split.labels):
            images[label].add(np.asarray(image).tobytes())
    for label, name in ((2, "cat"), (0, "dog")):
        files = {np.asarray(Image.open(path)).tobytes() for path in (photos / name).iterdir()}
        assert images[label] == files
    # All of them in another order: without a warning.
    for name in ("ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png"):
        put(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = reopen(constants, spec=spec, whole=True, some_classes=True)
    assert {*every.read(None)[0].labels} == {0, 1, 2, 3}
    put("cow/1.png")
    with pytest.raises(EnsembleError, match=r"the run doesn't know: 'cow'\. It knows 4: 'dog'"):
        reopen(constants, spec=spec, whole=True, some_classes=True)
    # None of the classes is known.
    others = {**constants, "class_names": ["elm", "fir", "oak", "yew"]}
    with pytest.raises(
        EnsembleError, match=r"doesn't know: 'ant', 'bee', 'cat', 'cow', 'dog'\. It"
    ):
        reopen(others, spec=spec, whole=True, some_classes=True)


def test_images_of_one_class_are_for_evaluation_only(tmp_path, put):
    for name in ("cat/1.png", "cat/2.png"):
        put(name)
    constants = {"name": "cifar10", "class_names": ["ant", "cat"], "input_shape": [6, 5, 3]}
    spec = f"folder:{tmp_path / 'photos'}"
    with pytest.warns(UserWarning, match="has 1 of the 2 classes of the run"):
        opened = reopen(constants, spec=spec, whole=True, some_classes=True)
    assert [split.labels.tolist() for split in opened.read(None)] == [[], [1, 1]]
    assert len(images_as_input(spec, (6, 5, 3))[1]) == 2
    with pytest.raises(EnsembleError, match=r"has other classes than the run.* 2, not 1"):
        reopen(constants, spec=spec)
    with pytest.raises(EnsembleError, match=r"two classes or more\. Found in '.*photos': 'cat'"):
        open_dataset(spec)
    put("cat/2019/3.png")
    put("cat/2020/4.png")
    with pytest.warns(UserWarning, match="has 1 of the 2 classes of the run"):
        opened = reopen(constants, spec=spec, whole=True, some_classes=True)
    assert len(opened.read(None)[1]) == 4
    # A folder around that of the classes is none.
    (tmp_path / "photos").rename(tmp_path / "inner")
    (tmp_path / "photos").mkdir()
    (tmp_path / "inner").rename(tmp_path / "photos/inner")
    put("inner/ant/1.png")
    with pytest.raises(EnsembleError, match=r"for each class.*Did you mean `folder:.*inner`"):
        reopen(constants, spec=spec, whole=True, some_classes=True)


def test_numbers_may_be_names_or_stand_for_classes_without(tmp_path):
    def file(name, classes, **extra):
        images = np.arange(4 * classes, dtype=np.uint8).reshape(-1, 2, 2)
        np.savez(tmp_path / name, images=images, labels=np.arange(classes).repeat(1), **extra)
        return f"npz:{tmp_path / name}"

    def labels(names, spec, **options):
        constants = {"name": "x", "class_names": names, "input_shape": [2, 2, 1]}
        opened = reopen(constants, spec=spec, whole=True, some_classes=True, **options)
        return sorted(np.concatenate([split.labels for split in opened.read(None)]))

    as_text = [str(number) for number in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)]
    # Names in a file that are numbers, and some of the classes of a network.
    some = file("some.npz", 3, class_names=["1", "10", "2"])
    with pytest.warns(UserWarning, match="has 3 of the 11 classes"):
        assert labels([str(number) for number in range(11)], some) == [1, 2, 10]
    with pytest.warns(UserWarning, match="has 3 of the 11 classes"):
        assert labels(as_text, some) == [1, 2, 3]
    # So folders, which are called as the first classes are.
    three = file("three.npz", 3, class_names=["0", "1", "2"])
    with pytest.warns(UserWarning, match="has 3 of the 11 classes"):
        assert labels([str(number) for number in range(11)], three) == [0, 1, 2]
    # Classes without names fit as many that are called by other numbers.
    numbers = [str(number) for number in range(3)]
    assert labels(["1", "2", "3"], file("0.npz", 3, class_names=numbers)) == [0, 1, 2]


def test_what_is_left_out_of_other_data_is_told(photos, put):
    constants = {"name": "cifar10", "class_names": ["cat", "dog"], "input_shape": [6, 5, 3]}
    spec = f"folder:{photos}"
    (photos / "cat/phone.heic").write_bytes(b"x")
    put("beside.png")
    (photos / "dog/broken.png").write_bytes(b"\x89PNG")

    def told(read):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read()
        return " ".join(str(each.message) for each in caught)

    opened = reopen(constants, spec=spec, whole=True)
    for read in (lambda: opened.read(None), lambda: images_as_input(spec, (6, 5, 3))):
        remarks = told(read)
        for expected in ("1 with .heic", "1 image file beside the class", "broken.png"):
            assert expected in remarks
    assert len(opened.read(None)[1]) == 20
    assert told(lambda: opened.read(None)) == ""  # once is enough
    # Of images in two splits only those who train on one are told.
    twice = photos.parent / "twice.npz"
    images, labels = np.arange(540, dtype=np.uint8).reshape(6, 6, 5, 3), np.arange(6) % 2
    np.savez(twice, x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert told(lambda: reopen(constants, spec=f"npz:{twice}", whole=True).read(None)) == ""
    # What may be trained on stays a matter of the user.
    with pytest.raises(EnsembleError, match=r"broken\.png.*Repair or remove them, or skip them"):
        reopen(constants, spec=spec).read(None)


def test_the_test_split_of_a_network_is_the_same_share_of_its_data():
    images = np.arange(720, dtype=np.uint8).reshape(20, 6, 6, 1)

    def cut(pixels=images, **options):
        return Dataset.from_arrays(pixels, np.arange(20) % 2, options=ImageOptions(**options))

    constants = cut(test_share=0.1).constants()
    check_cut(cut(test_share=0.1), constants)
    check_cut(cut(255 - images), constants)  # others
    check_cut(cut(), DATASETS["digits"].constants())
    check_cut(DATASETS["digits"], constants)
    with pytest.raises(EnsembleError, match=r"`test_share` 0\.2 .* on images that 'a' was .* 0\.1"):
        check_cut(cut(), constants, "'a'")
    with pytest.raises(EnsembleError, match=r"`split_seed` 3 .* had 0"):
        check_cut(cut(test_share=0.1, split_seed=3), constants)


def test_all_images_of_a_folder_are_for_the_evaluation_of_a_network_of_built_in_data(photos):
    constants = {"name": "cifar10", "class_names": ["cat", "dog"], "input_shape": [6, 5, 3]}
    spec = f"folder:{photos}"
    for whole, trained, tested in ((True, 0, 20), (False, 16, 4)):
        data = reopen(constants, spec=spec, whole=whole)
        splits = DataOptions(validation=0.0).load(data, seed=0)
        assert (len(splits.train), len(splits.test)) == (trained, tested)
    # Networks of other data may have been trained on some, whether they say where these are or not.
    mine = reopen({**constants, "name": "mine"}, spec=spec, whole=True, some_classes=True)
    assert [len(split) for split in mine.read(None)] == [16, 4]
    # The images of a run keep the share that they had in its training.
    own = open_dataset(spec, images=ImageOptions(test_share=0.5)).constants()
    assert len(reopen(own, spec=spec, whole=True, some_classes=True).read(None)[1]) == 10


def test_folders_of_numbers_are_sorted_as_text(tmp_path, put):
    """So labels that are the numbers themselves mean other classes."""
    for number in range(11):
        for name in "ab":
            put(f"{number}/{name}.png")
    images = np.random.default_rng(1).integers(0, 256, (22, 6, 5, 3), np.uint8)
    labels = np.arange(22) % 11
    in_order = list(map(str, range(11)))
    as_text = sorted(in_order)
    assert as_text[2] == "10"
    for file, names in (("no", None), ("numbers", in_order), ("text", as_text)):
        extra = {} if names is None else {"class_names": names}
        np.savez(tmp_path / f"{file}.npz", images=images, labels=labels, **extra)
    folder = f"folder:{tmp_path / 'photos'}"
    of_folder = open_dataset(folder).constants()
    for name in ("no", "numbers"):
        spec = f"npz:{tmp_path / name}.npz"
        with pytest.raises(EnsembleError, match="label 2 is '2', that of the run is '10'"):
            reopen(of_folder, spec=spec)
        with pytest.raises(EnsembleError, match="label 2 is '10', that of the run is '2'"):
            reopen(open_dataset(spec).constants(), spec=folder)
    assert reopen(of_folder, spec=f"npz:{tmp_path / 'text.npz'}").class_names == tuple(as_text)
    check_fits(open_dataset(folder), {"classes": 11, "input_shape": [6, 5, 3]}, "a Keras file")
    # From 1 on, too: no label is the number of its folder.
    (tmp_path / "photos/0").rename(tmp_path / "photos/11")
    with pytest.raises(EnsembleError, match="Differing: '0', '11'"):
        reopen(open_dataset(folder).constants(), spec=f"npz:{tmp_path / 'no.npz'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 64}, r"`image_size` must be \(height, width\), got 64"),
        ({"image_size": (0, 3)}, "`image_size` must be a whole number from 1 on, got 0"),
        ({"image_size": (10**6, 10**6)}, "`image_size` may have 16,777,216 pixels at most, got 10"),
        ({"channels": 4}, "`channels` must be 1 for grey or 3"),
        ({"damaged": "drop"}, "`damaged` must be 'refuse' or 'skip'"),
        ({"test_share": 1.5}, "`test_share` must be from 0 to 1, got 1.5"),
        ({"test_share": float("nan")}, "`test_share` must be from 0 to 1"),
        ({"split_seed": -1}, "seed"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(EnsembleError, match=message):
        ImageOptions(**options)


def test_options_are_recorded():
    options = ImageOptions([4, 5], 3, "skip", 0.5, 7)
    assert options.image_size == (4, 5)
    assert ImageOptions.from_json(options.to_json()) == options


def test_images_of_any_classes_in_the_size_of_a_network(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 4, 3), np.uint8)
    labels = np.arange(12) % 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    name, found = images_as_input(f"npz:{tmp_path / 'a.npz'}", (6, 4, 3))
    assert name == "npz:a.npz"
    np.testing.assert_array_equal(np.asarray(found), images)  # all, in order: it has no test split
    _, found = images_as_input(f"npz:{tmp_path / 'a.npz'}", (8, 8, 1))
    expected = fit_image(Image.fromarray(images[3]), (8, 8, 1))
    np.testing.assert_array_equal(np.asarray(found)[3], expected)
    np.savez(tmp_path / "b.npz", x_train=images, y_train=labels, x_test=images[:5], y_test=[0] * 5)
    assert len(images_as_input(f"npz:{tmp_path / 'b.npz'}", (6, 4, 3))[1]) == 5
    np.savez(tmp_path / "c.npz", images=images, labels=labels + 10)  # which are of novel classes
    assert len(images_as_input(f"npz:{tmp_path / 'c.npz'}", (6, 4, 3))[1]) == 12
    _, found = images_as_input("digits", (16, 16, 3))
    assert np.asarray(found).shape == (599, 16, 16, 3)
    with pytest.raises(EnsembleError, match="Unknown dataset 'svhn'"):
        images_as_input("svhn", (8, 8, 1))


def test_a_folder_without_a_test_split_as_input(photos):
    name, found = images_as_input(f"folder:{photos}", (8, 8, 3))
    assert name == "folder:photos"
    expected = [read_image(path, (8, 8, 3)) for path in sorted(photos.rglob("*.png"))]
    np.testing.assert_array_equal(np.asarray(found), expected)
    for path in photos.glob("dog/[1-9].png"):
        path.unlink()
    assert len(images_as_input(f"folder:{photos}", (8, 8, 3))[1]) == 11
