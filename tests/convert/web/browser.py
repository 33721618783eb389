"""A headless Chromium, driven by the WebDriver protocol of chromedriver."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of an element
#: The last three keep Chromium from looking for Google's hosts.
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
_FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
#: A slow machine under emulation or load is no failure.
_PATIENCE = 60.0

#: Why there is no browser to test with; empty if there is one.
MISSING = ", ".join(
    " or ".join(names)
    for names in [("chromedriver",), ("chromium", "google-chrome")]
    if not any(map(shutil.which, names))
)


class Browser:
    """A page that is open.

    # Arguments
        address: of the driver.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        options: dict[str, Any] = {"args": _FLAGS}
        if binary := shutil.which("chromium") or shutil.which("google-chrome"):
            options["binary"] = binary
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._call("", capabilities={"alwaysMatch": capabilities})
        self._address += f"/{answer['sessionId']}"

    def open(self, address: str) -> None:
        self._call("/url", url=address)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a function's body returns, after a promise is kept."""
        return self._call("/execute/sync", script=script, args=list(arguments))

    def click(self, selector: str) -> None:
        self._call(f"/element/{self._find(selector)}/click")

    def type(self, selector: str, keys: str) -> None:
        """Types keys into an element; of a file input, the path of the file."""
        self._call(f"/element/{self._find(selector)}/value", text=keys)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """The first true value of a condition."""
        end = time.monotonic() + _PATIENCE
        while not (value := condition()):
            assert time.monotonic() < end, self.text("body")
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int) -> None:
        self._call("/window/rect", width=width, height=height)

    def messages(self) -> list[dict[str, Any]]:
        """What the console got since the last call."""
        return self._call("/se/log", type="browser")

    def close(self) -> None:
        self._request("DELETE", "")

    def _find(self, selector: str) -> str:
        return self._call("/element", using="css selector", value=selector)[_ELEMENT]

    def _call(self, path: str, **body: Any) -> Any:
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log)
        try:
            _wait_for(port)
            page = Browser(f"http://127.0.0.1:{port}/session")
            yield page
            page.close()
        finally:
            driver.terminate()
            driver.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < end, "chromedriver doesn't start"
            time.sleep(0.05)
