"""LiteRT.js, the runtime of the page: two packages of the npm registry, pinned by their checksums.

It is not part of this package, because its WebAssembly has 19 MB: it is downloaded once, into
`$XDG_CACHE_HOME/larq-ensemble` or `~/.cache/larq-ensemble`, or taken from a folder.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.files import cache_folder, write_bytes

VERSION = "2.5.3"
_REGISTRY = "https://registry.npmjs.org"
_SECONDS = 60  # without an answer


@dataclass(frozen=True)
class Package:
    """A package of the npm registry.

    # Arguments
        name: without the scope `@litertjs`.
        sha512: of its archive, in base64 as in a package-lock.json.
        files: path in the archive -> name in the folder of the runtime.
    """

    name: str
    sha512: str
    files: Mapping[str, str]

    @property
    def archive(self) -> str:
        """The name that `npm pack` gives the archive."""
        return f"litertjs-{self.name}-{VERSION}.tgz"

    @property
    def address(self) -> str:
        return f"{_REGISTRY}/@litertjs/{self.name}/-/{self.name}-{VERSION}.tgz"


#: The variants with threads need headers that few servers send; `compat` is for browsers without
#: relaxed SIMD, such as Safari. A browser loads one variant.
_WASM = [
    f"litert_wasm_{variant}.{suffix}"
    for variant in ("internal", "compat_internal")
    for suffix in ("js", "wasm")
]
PACKAGES = (
    Package(
        "core",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {"dist/index.js": "core.js", **{f"wasm/{name}": name for name in _WASM}},
    ),
    Package(
        "wasm-utils",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        {"dist/index.js": "wasm-utils.js"},
    ),
)


def runtime_files(
    folder: str | os.PathLike[str] | None = None, say: Callable[[str], None] = lambda _: None
) -> dict[str, bytes]:
    """The files of the runtime by name.

    # Arguments
        folder: where the two archives are that `npm pack` writes; `None`: the cache, after a
            download if they aren't there.
        say: is told of a download.

    # Raises
        EnsembleError: if an archive is missing, is another one, or can't be downloaded.
    """
    files = {}
    for package in PACKAGES:
        archive = _cached(package, say) if folder is None else Path(folder) / package.archive
        files.update(_unpacked(package, archive))
    return files


def _cached(package: Package, say: Callable[[str], None]) -> Path:
    archive = cache_folder() / package.archive
    if not archive.exists():
        say(f"Downloading {package.address} into {archive.parent}, this once.")
        try:
            with urllib.request.urlopen(package.address, timeout=_SECONDS) as answer:
                data = answer.read()
        except OSError as error:
            raise EnsembleError(
                f"Can't download {package.address} ({first_line(error)}): where there is a "
                f"network, run {_npm_pack()}, and give the folder of the two archives as "
                "`runtime`."
            ) from error
        _check(package, data, package.address)
        write_bytes(archive, data)
    return archive


def _unpacked(package: Package, archive: Path) -> dict[str, bytes]:
    try:
        _check(package, archive.read_bytes(), str(archive))
    except OSError as error:
        raise EnsembleError(
            f"`runtime` has no archive {str(archive)!r} ({error.strerror}): {_npm_pack()} writes "
            "it."
        ) from error
    files = {}
    with tarfile.open(archive) as members:
        for path, name in package.files.items():
            member = members.extractfile(f"package/{path}")
            assert member is not None  # the checksum says so
            files[name] = member.read()
    return files


def _check(package: Package, data: bytes, origin: str) -> None:
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != package.sha512:
        raise EnsembleError(
            f"{origin} isn't the archive of @litertjs/{package.name} {VERSION}: its checksum is "
            f"wrong. Delete it, and run the command again or {_npm_pack()}."
        )


def _npm_pack() -> str:
    return f"`npm pack {' '.join(f'@litertjs/{each.name}@{VERSION}' for each in PACKAGES)}`"
