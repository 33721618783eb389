"""What `web` writes, and what it refuses; `test_browser.py` runs the page."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
import tarfile
import threading
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from larq_ensemble.cli import main
from larq_ensemble.convert.web import litert_js
from larq_ensemble.convert.web.litert_js import PACKAGES, runtime_files
from larq_ensemble.convert.web.page import write_page
from larq_ensemble.convert.web.serving import serving
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.file import read_ensemble

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of archives as npm's, but small, with the checksums that are expected."""
    folder = tmp_path / "archives"
    folder.mkdir()
    packages = []
    for package in PACKAGES:
        with tarfile.open(folder / package.archive, "w:gz") as archive:
            for path in (*package.files, "README.md"):
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(path)
                archive.addfile(member, io.BytesIO(path.encode()))
        digest = hashlib.sha512((folder / package.archive).read_bytes()).digest()
        sha512 = base64.b64encode(digest).decode()
        packages.append(dataclasses.replace(package, sha512=sha512))
    monkeypatch.setattr(litert_js, "PACKAGES", tuple(packages))
    return folder


def test_a_page_has_all_that_it_refers_to(archives: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (9, 7), "red").save(photos / "b.jpg")
    Image.new("L", (3, 7)).save(photos / "a.png")
    (photos / "notes.txt").write_text("no image")
    out = tmp_path / "page"
    page = write_page(DATA / "indexed.tflite", out, images=[photos], runtime=archives)
    content = json.loads((out / "page.json").read_text())
    assert content["images"] == [
        {"address": "images/000.png", "name": "a"},
        {"address": "images/001.jpg", "name": "b"},
    ]
    assert (out / "images/001.jpg").read_bytes() == (photos / "b.jpg").read_bytes()
    texts = "\n".join(path.read_text() for path in out.iterdir() if path.suffix in (".html", ".js"))
    named = re.findall(r'(?:src=|href=|from |: )"(\.?/?[\w./-]+\.(?:js|css|txt))"', texts)
    assert len(named) > 8
    assert all((out / name).is_file() for name in named)
    assert page.bytes == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    # No operator of LCE is left, and the metadata say so.
    file = read_ensemble(out / content["file"])
    assert file.metadata.target == "litert"
    assert b"LceBconv2d" not in file.data
    # Made anew from its own file, the file stays as it is.
    again = write_page(out / content["file"], tmp_path / "again", runtime=archives)
    assert (again.path.parent / "ensemble.tflite").read_bytes() == file.data


def test_the_runtime_is_downloaded_once(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "registry"
    for package in litert_js.PACKAGES:
        target = registry / package.address.removeprefix("https://registry.npmjs.org/")
        target.parent.mkdir(parents=True)
        target.write_bytes((archives / package.archive).read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said: list[str] = []
    with serving(registry, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(litert_js, "_REGISTRY", f"http://127.0.0.1:{server.server_port}")
        files = runtime_files(say=said.append)
        server.shutdown()
    assert files["core.js"] == b"dist/index.js"
    assert len(files) == sum(len(package.files) for package in PACKAGES)
    assert len(said) == 2
    assert runtime_files(say=said.append) == files  # without a server
    assert len(said) == 2
    (tmp_path / "cache/larq-ensemble" / PACKAGES[0].archive).unlink()
    with pytest.raises(
        EnsembleError, match=r"Can't download .*npm pack @litertjs/core@.*`runtime`"
    ):
        runtime_files()


def test_another_archive_is_refused(archives: Path) -> None:
    (archives / PACKAGES[1].archive).write_bytes(b"another")
    with pytest.raises(EnsembleError, match=r"isn't the archive of @litertjs/wasm-utils"):
        runtime_files(archives)
    (archives / PACKAGES[1].archive).unlink()
    with pytest.raises(EnsembleError, match=r"`runtime` has no archive .*wasm-utils"):
        runtime_files(archives)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "can't be read as an image"),
        ("~no-such-user/a.png", "can't be read as an image"),
        ("text.png", "can't be read as an image"),
        ("photo.tiff", "format that browsers don't show"),
        ("empty", "is a folder without images"),
    ],
)
def test_images_that_cannot_be_shown_are_refused(
    content: str,
    message: str,
    archives: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (3, 7)).save(tmp_path / "photo.tiff")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "page"
    with pytest.raises(EnsembleError, match=message):
        write_page(DATA / "indexed.tflite", out, images=[content], runtime=archives)
    assert not out.exists()


def test_the_command(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "page")
    arguments = ["web", str(DATA / "branches.tflite"), "--out", out, "--runtime", str(archives)]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--json", str(tmp_path / "result.json")])
    assert end.value.code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["path"] == f"{out}/index.html"
    assert result["tflite_bytes"] == (tmp_path / "page/ensemble.tflite").stat().st_size
    with pytest.raises(SystemExit) as end:
        main([*arguments[:-1], str(tmp_path)])
    assert end.value.code == 1
    assert "--runtime has no archive" in capsys.readouterr().err


def test_a_page_is_served_and_a_port_in_use_is_said(tmp_path: Path) -> None:
    (tmp_path / "core.js").write_text("1")
    with serving(tmp_path, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/core.js") as answer:
            assert (answer.read(), answer.headers["content-type"]) == (b"1", "text/javascript")
        taken = pytest.raises(EnsembleError, match="`serve` can't have the port")
        with taken, serving(tmp_path, server.server_port):
            pass
        server.shutdown()


def test_what_the_page_is_made_of_stays(archives: Path, tmp_path: Path) -> None:
    data = (DATA / "indexed.tflite").read_bytes()
    own = tmp_path / "ensemble.tflite"
    own.write_bytes(data)
    photo = tmp_path / "images" / "000.png"
    photo.parent.mkdir()
    Image.new("L", (3, 7)).save(photo)
    Image.new("L", (7, 3)).save(photo.with_name("00.png"))
    for tflite, images in ((own, []), (DATA / "indexed.tflite", [photo.parent])):
        with pytest.raises(EnsembleError, match=r"^`out` .* the page would replace: give another"):
            write_page(tflite, tmp_path, images=images, runtime=archives)
    assert own.read_bytes() == data
    assert not (tmp_path / "index.html").exists()
    # A page can be written again from its own files.
    page = write_page(own, tmp_path / "page", images=[photo], runtime=archives)
    folder = page.path.parent
    again = write_page(
        folder / "ensemble.tflite", folder, images=[folder / "images"], runtime=archives
    )
    assert again == page
