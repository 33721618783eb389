"""Classifies images with as many members as the battery allows: a folder once, or a camera live.

    python examples/battery_app.py ensemble.tflite photos/
    python examples/battery_app.py ensemble.tflite --camera 0      # needs opencv-python-headless
    python examples/battery_app.py ensemble.tflite photos/ --battery 15

The battery's level sets the power mode, and so the number of members
(`larq_ensemble.runtime.budget`). It is read before each image from /sys/class/power_supply (Linux),
or given with --battery. No TensorFlow is needed, only what `pip install .` installs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter, read_image
from larq_ensemble.runtime.images import fit_image

POWER_SUPPLY = Path("/sys/class/power_supply")

#: Battery level in percent from which on a power mode is used; charging or on mains, the first is.
MODES = ((60, "performance"), (25, "balanced"), (0, "power-saver"))

#: What tells that a system is on mains if no battery discharges. At a limit none charges.
ON_MAINS = {"Mains", "Not charging", "Full"}


def power_mode(level: float | None) -> str:
    """The power mode at a battery level in percent; `None`: no battery has to last."""
    if level is None:
        return MODES[0][1]
    return next((mode for lowest, mode in MODES if level >= lowest), MODES[-1][1])


def battery_level(folder: Path = POWER_SUPPLY) -> float | None:
    """The lowest level of the system's batteries in percent; `None` on mains or without any."""
    levels, states = [], set()
    for supply in folder.glob("*"):
        kind = _read(supply / "type")
        if kind == "Mains" and _read(supply / "online") == "1":
            states.add(kind)
        elif kind == "Battery" and _read(supply / "scope") != "Device":
            states.add(_read(supply / "status"))
            levels.append(_read(supply / "capacity"))
    # Beside a battery in use another may be full, and on a weak charger one may discharge.
    if "Charging" in states or ("Discharging" not in states and states & ON_MAINS):
        return None
    return min((float(level) for level in levels if level), default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # supplies don't all have all files, and may be unplugged meanwhile
        return ""


def folder_images(folder: Path, shape: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels of each file of a folder that is an image."""
    for path in sorted(folder.iterdir()):
        try:
            yield path.name, read_image(path, shape)
        except EnsembleError as error:
            print(error, file=sys.stderr)


def camera_images(number: int, shape: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """The frames of a camera, each the newest one."""
    try:
        import cv2
    except ModuleNotFoundError:
        raise EnsembleError(
            "A camera needs OpenCV: install it with `pip install opencv-python-headless`."
        ) from None
    from PIL import Image

    camera = cv2.VideoCapture(number)
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    try:
        while True:
            grabbed, frame = camera.read()
            if not grabbed:
                raise EnsembleError(f"Camera {number} gives no frames: try another number.")
            rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            yield time.strftime("%H:%M:%S"), fit_image(Image.fromarray(rgb), shape)
    finally:
        camera.release()


def printable(text: str) -> str:
    """Text with its control characters escaped: names of files and classes come from anywhere."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def percent(text: str) -> float:
    """The value of --battery."""
    level = float(text)
    if not 0 <= level <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to 100")
    return level


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tflite", help="what `larq-ensemble convert` wrote")
    parser.add_argument("folder", nargs="?", type=Path, help="a folder of images")
    parser.add_argument("--camera", type=int, metavar="N", help="a camera's number instead")
    parser.add_argument("--battery", type=percent, metavar="PERCENT", help="instead of reading it")
    parser.add_argument("--threads", type=int, default=1, metavar="T")
    arguments = parser.parse_args()
    if (arguments.folder is None) == (arguments.camera is None):
        parser.error("give a folder or --camera")
    try:
        ensemble = EnsembleInterpreter(arguments.tflite, threads=arguments.threads)
        shape = ensemble.input_shape
        if arguments.camera is not None:
            images = camera_images(arguments.camera, shape)
        elif arguments.folder.is_dir():
            images = folder_images(arguments.folder, shape)
        else:
            raise EnsembleError(f"{str(arguments.folder)!r} is no folder.")
        for name, image in images:
            level = battery_level() if arguments.battery is None else arguments.battery
            ensemble.set_budget(power_mode=power_mode(level))
            start = time.perf_counter()
            (probabilities,) = ensemble.predict(image)
            milliseconds = 1000 * (time.perf_counter() - start)
            best = int(probabilities.argmax())
            label = ensemble.class_names[best] if ensemble.class_names else best
            shown = printable(f"{name}: {label}")
            power = "mains" if level is None else f"{level:.0f} %"
            print(
                f"{shown} ({100 * probabilities[best]:.0f} %), {ensemble.members} of "
                f"{ensemble.max_members} members, battery {power}, {milliseconds:.1f} ms",
                flush=True,
            )
    except EnsembleError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
