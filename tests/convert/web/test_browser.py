"""The page in a headless Chromium, against the Python runtime: `make test-web` installs one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.convert import convert_file
from larq_ensemble.convert.web.page import write_page
from larq_ensemble.convert.web.serving import serving
from larq_ensemble.runtime import EnsembleInterpreter, read_image
from larq_ensemble.runtime.cascade import calibrated_prediction, log_margin
from larq_ensemble.runtime.combination import COMBINATIONS, combine
from larq_ensemble.runtime.file import seal

from . import browser as browsers

DATA = Path(__file__).parents[2] / "data"
#: A calibrated file, so that the page offers the cascade.
CALIBRATED = DATA / "compact.tflite"
LAYOUTS = ("indexed", "subgraphs", "branches", "version_1")

#: Waits for an answer that isn't the one before.
_CLEAR = "document.querySelector('#answer').removeAttribute('data-class')"
_ANSWER = """
const {class: found, members} = document.querySelector('#answer').dataset;
const percent = document.querySelector('#classes li span + span')?.innerText;
const error = document.querySelector('#error').innerText;
return found || error ? {class: Number(found), members: Number(members), percent, error} : null;
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten images of many forms: every one that a reader could get wrong."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(5)  # with it the classes differ
    coarse = draw.integers(0, 256, (6, 2, 2, 3), np.uint8)
    smooth = [Image.fromarray(each).resize((90, 70), Image.Resampling.BICUBIC) for each in coarse]
    turned = Image.Exif()
    turned[0x112] = 6
    transparent = smooth[3].convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((90, 70)))
    for image, name, options in (
        (smooth[0], "0-plain.png", {}),
        (smooth[1], "1-photo.jpg", {"quality": 95}),
        (smooth[2], "2-turned.jpg", {"quality": 95, "exif": turned}),
        (transparent, "3-transparent.png", {}),
        (smooth[4].convert("L"), "4-grey.png", {}),
        (smooth[5].quantize(32), "5-palette.png", {}),
        (smooth[0].resize((5, 4)), "6-tiny.png", {}),
        (smooth[1], "7-lossless.webp", {"lossless": True}),
        (smooth[2].resize((9, 120)), "8-tall.bmp", {}),
        (Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)), "9-exact.png", {}),
    ):
        image.save(folder / name, **options)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> dict[str, Path]:
    """The files for LiteRT, by name."""
    folder = tmp_path_factory.mktemp("files")
    files = {name: folder / f"{name}.tflite" for name in ("compact", *LAYOUTS)}
    for name, file in files.items():
        convert_file(DATA / f"{name}.tflite", file)
    return files


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, photos: list[Path]
) -> Iterator[browsers.Browser]:
    """The page of the calibrated file, loaded. At the end no message of the console is an error."""
    if browsers.MISSING:
        pytest.skip(f"no {browsers.MISSING}: `make test-web` installs them")
    folder = tmp_path_factory.mktemp("page")
    write_page(CALIBRATED, folder, images=photos)
    with serving(folder, 0) as server, browsers.browser() as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(f"http://127.0.0.1:{server.server_port}/")
        page.wait(lambda: page.run("return document.querySelectorAll('#samples img').length"))
        yield page
        errors = [each for each in page.messages() if each["level"] == "SEVERE"]
        server.shutdown()
    assert errors == []


class Answer(NamedTuple):
    """What the page shows: a class, its probability in percent, and the members that ran."""

    klass: int
    percent: float
    members: int


def answer(page: browsers.Browser) -> Answer:
    found = page.wait(lambda: page.run(_ANSWER))
    assert found["error"] == ""
    return Answer(found["class"], float(found["percent"].removesuffix(" %")), found["members"])


def assert_same(found: list[Answer], probabilities: np.ndarray, members: Sequence[int]) -> None:
    """The answers to images are those of Python; the page shows one decimal."""
    assert [each.klass for each in found] == probabilities.argmax(axis=-1).tolist()
    assert [each.members for each in found] == list(members)
    percent = [each.percent for each in found]
    # A pixel may differ by one, which a binarized network may amplify.
    np.testing.assert_allclose(percent, 100 * probabilities.max(axis=-1), atol=1)


def expected(file: Path, photos: list[Path]) -> tuple[np.ndarray, EnsembleInterpreter]:
    """The photos as arrays, and what runs the file in Python."""
    interpreter = EnsembleInterpreter(file)
    return np.stack([read_image(photo, interpreter.input_shape) for photo in photos]), interpreter


def classified(page: browsers.Browser, number: int) -> Answer:
    """The answer to a click on a sample image."""
    page.run(_CLEAR)
    page.click(f"#samples li:nth-child({number + 1}) button")
    return answer(page)


def opened(page: browsers.Browser, file: Path) -> str:
    """Opens a file as a user does; returns the page's error."""
    page.run("for (const id of ['facts', 'error']) document.getElementById(id).innerText = ''")
    page.type("#file-input", str(file))
    facts = "return document.querySelector('#facts').innerText"
    page.wait(lambda: page.run(facts) or page.text("#error"))
    return page.text("#error")


def test_ten_images_have_the_classes_of_python(page: browsers.Browser, photos: list[Path]) -> None:
    images, interpreter = expected(CALIBRATED, photos)
    assert len(images) == 10
    assert len(set(interpreter.predict(images).argmax(axis=-1))) > 1
    for members, key in ((3, ""), (2, "\ue012"), (1, "\ue012")):  # the arrow to the left
        if key:
            page.type("#members", key)
        assert page.text("#members-text") == f"{members} of 3"
        interpreter.members = members
        found = [classified(page, number) for number in range(len(images))]
        assert_same(found, interpreter.predict(images), [members] * len(images))


def test_the_slider_changes_the_answer_at_once(page: browsers.Browser, photos: list[Path]) -> None:
    images, interpreter = expected(CALIBRATED, photos)
    classified(page, 0)
    for key, members in (("\ue010", 3), ("\ue011", 1)):  # End, Home
        page.run(_CLEAR)
        page.type("#members", key)
        interpreter.members = members
        assert_same([answer(page)], interpreter.predict(images[:1]), [members])


def test_the_cascade_stops_where_python_stops(page: browsers.Browser, photos: list[Path]) -> None:
    images, interpreter = expected(CALIBRATED, photos)
    predicted = interpreter.predict_adaptive(images)
    page.type("#members", "\ue010")
    page.click("#adaptive")
    found = [classified(page, number) for number in range(len(images))]
    page.click("#adaptive")
    assert_same(found, *predicted)
    assert len(set(predicted.members)) > 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_runs(
    name: str, page: browsers.Browser, stock: dict[str, Path], photos: list[Path]
) -> None:
    images, interpreter = expected(DATA / f"{name}.tflite", photos)
    assert opened(page, stock[name]) == ""
    found = [classified(page, number) for number in range(len(images))]
    assert_same(found, interpreter.predict(images), [3] * len(images))
    assert page.run("return document.querySelector('#adaptive').disabled")


def test_files_that_do_not_run_are_refused_with_a_sentence(
    page: browsers.Browser, stock: dict[str, Path], tmp_path: Path
) -> None:
    assert "for Larq Compute Engine" in opened(page, CALIBRATED)
    text, cut, photo = (tmp_path / name for name in ("text.tflite", "cut.tflite", "photo.png"))
    text.write_text("no file of TFLite")
    photo.write_text("no image")
    cut.write_bytes(stock["indexed"].read_bytes()[:5000])
    assert opened(page, text) == "This is no .tflite file."
    assert opened(page, cut) == "This file is damaged: copy or convert it again."
    page.type("#image-input", str(photo))
    page.wait(lambda: "no image" in page.text("#error"))
    # What was open before still answers.
    assert classified(page, 0).members == 3


def test_dropped_images_and_the_camera_are_classified(
    page: browsers.Browser, stock: dict[str, Path], photos: list[Path]
) -> None:
    opened(page, stock["compact"])
    page.run(_CLEAR)
    page.run(
        """
        const answer = await fetch(document.querySelector('#samples img').src);
        const transfer = new DataTransfer();
        transfer.items.add(new File([await answer.blob()], "photo.png", {type: "image/png"}));
        dispatchEvent(new DragEvent("drop", {dataTransfer: transfer}));
        """
    )
    images, interpreter = expected(CALIBRATED, photos[:1])
    assert_same([answer(page)], interpreter.predict(images), [3])
    page.run(_CLEAR)
    page.click("#camera")  # Chromium's own moving picture
    assert answer(page).members == 3
    page.click("#camera")
    page.wait(lambda: page.text("#camera") == "Camera")


def test_what_keeps_the_camera_from_working_is_said(
    page: browsers.Browser, stock: dict[str, Path]
) -> None:
    for name, advice in (
        ("NotAllowedError", "allow it in the browser."),
        ("NotFoundError", "connect one, or choose an image."),
        ("AbortError", "choose an image."),
    ):
        page.run(
            """
            const error = new DOMException("no", arguments[0]);
            navigator.mediaDevices.getUserMedia = () => Promise.reject(error);
            """,
            name,
        )
        page.click("#camera")
        message = f"The camera can't be used (no): {advice}"
        page.wait(lambda message=message: page.text("#error") == message)
    # As on a page by http from another machine; a phone shows no tooltip.
    page.run("Object.defineProperty(navigator, 'mediaDevices', {value: null, configurable: true})")
    height = "return document.querySelector('#camera-note').offsetHeight"
    opened(page, stock["compact"])
    assert page.run(height) > 0
    assert page.text("#camera-note") == "The camera works on https pages and on localhost only."
    page.run("delete navigator.mediaDevices; delete navigator.mediaDevices.getUserMedia;")
    opened(page, stock["compact"])
    assert page.run(height) == 0


def test_the_table_on_a_phone_breaks_no_words(page: browsers.Browser) -> None:
    page.resize(390, 844)
    page.run("document.querySelector('details').open = true")
    width = "return document.querySelector('#costs-table th').clientWidth"
    assert page.run(width) > 60  # "Members"
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    page.resize(1280, 900)


def test_every_scheme_combines_as_python_does(page: browsers.Browser) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (3, 6)).astype(np.float32)
    weights, temperatures = [0.5, 2.0, 1.0], [1.5, 0.7, 3.0]
    for scheme in COMBINATIONS:
        metadata = {"scheme": scheme, "weights": weights, "temperatures": temperatures}
        found, margin = page.run(
            """
            const {predict, logMargin} = await import('./combination.js');
            const found = predict(arguments[0], arguments[1]);
            return [found, logMargin(found)];
            """,
            logits.tolist(),
            metadata,
        )
        row = calibrated_prediction(logits[:, np.newaxis], scheme, weights, temperatures)
        np.testing.assert_allclose(found, row[0], rtol=1e-5)
        assert margin == pytest.approx(log_margin(row)[0], rel=1e-4, abs=1e-5)

    # 0.1 + 0.2 and 0.3 are equal as float32 numbers; the first of equal ones is the class.
    votes = np.eye(3, dtype=np.float32)[[2, 2, 0]]
    metadata = {"scheme": "hard_voting", "weights": [0.1, 0.2, 0.3]}
    tied = """
        const {predict, argmax} = await import('./combination.js');
        return argmax(predict(arguments[0], arguments[1]));
        """
    expected = combine(votes[:, np.newaxis], "hard_voting", metadata["weights"])
    assert page.run(tied, votes.tolist(), metadata) == expected[0].argmax() == 0


def test_files_of_newer_versions_are_not_known(page: browsers.Browser) -> None:
    files: list[dict[str, Any]] = [
        {"scheme": "fusion"},
        {"scheme": "voting", "cascade": {"rule": "log_margin", "thresholds": []}},
        {"scheme": "fusion", "cascade": {"rule": "entropy", "thresholds": []}},
        {"scheme": "toString"},
    ]
    known = "return import('./combination.js').then(({isKnown}) => arguments[0].map(isKnown));"
    assert page.run(known, files) == [True, True, False, False]


def test_pixels_are_those_of_python(page: browsers.Browser, photos: list[Path]) -> None:
    for shape in ((8, 8, 3), (8, 8, 1), (12, 28, 3)):
        for number, photo in enumerate(photos):
            pixels = page.run(
                """
                const [number, shape] = arguments;
                const {decode, fit, pixelsOf} = await import('./image.js');
                const {src} = document.querySelectorAll('#samples img')[number];
                return [...fit(pixelsOf(await decode(await (await fetch(src)).blob())), shape)];
                """,
                number,
                shape,
            )
            expected_pixels = read_image(photo, shape).astype(int)
            # One more or less where Pillow resizes the axes in another order.
            assert np.abs(np.reshape(pixels, shape) - expected_pixels).max() <= 1, photo.name


def test_the_plots_show_what_the_file_says(
    page: browsers.Browser, stock: dict[str, Path], tmp_path: Path
) -> None:
    content = stock["indexed"].read_bytes()
    old = b'"tools":{'
    new = b'"top1":[50,60,62.5],"instructions":{"A76":{"image":1000000,"member":2000000}},'
    spare = content[content.index(old) : content.index(b"}", content.index(old)) + 2]
    assert len(new) <= len(spare), "the metadata must keep their length"
    file = tmp_path / "measured.tflite"
    file.write_bytes(seal(content.replace(spare, new.ljust(len(spare)))))
    assert opened(page, file) == ""
    page.type("#members", "\ue011")
    captions = "return [...document.querySelectorAll('figcaption')].map(each => each.innerText)"
    accuracy, size, macs, instructions = page.run(captions)
    assert accuracy.split("\n")[-1] == "50.0 %"
    assert instructions.split("\n")[-1] == "3.00 M"
    assert size.startswith("File")
    assert macs.startswith("Multiply")
    page.run("document.querySelector('details').open = true")
    rows = page.run("return [...document.querySelectorAll('tr')].map(each => each.innerText)")
    assert rows[3].split("\t")[:2] == ["3", "62.5 %"]
    assert json.loads(page.run("return JSON.stringify(document.title)")).startswith("3 ")
