"""The firmware on this machine, around a made-up ensemble, counts what the simulation counts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from larq_ensemble.runtime.cascade import Cascade
from larq_ensemble.runtime.power import PowerPolicy

from ..c_compiler import compile_c

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "microcontroller"
MEMBERS, IMAGES, CLASSES = 4, 7, 3

# An ensemble that reads its prediction from the image: after each member the likeliest class, and
# how many percent it has; the others share the rest.
HEADER = f"""
#include <stdint.h>
enum {{ ENSEMBLE_MEMBERS = {MEMBERS}, ENSEMBLE_CLASSES = {CLASSES}, ENSEMBLE_ARENA_BYTES = 16 }};
int ensemble_begin(void *arena, const uint8_t *image);
int ensemble_next(void *arena, float *probabilities);
"""
SOURCE = """
#include "ensemble.h"
static const uint8_t *now;
static int ran;
int ensemble_begin(void *arena, const uint8_t *image) {
  (void)arena;
  now = image;
  return ran = 0;
}
int ensemble_next(void *arena, float *probabilities) {
  (void)arena;
  uint8_t best = now[2 * ran], percent = now[2 * ran + 1];
  for (int i = 0; i < ENSEMBLE_CLASSES; i++)
    probabilities[i] = (float)(i == best ? percent : (100 - percent) / 2) / 100;
  return ++ran;
}
"""


@pytest.fixture(scope="module")
def benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import harvesting
        import intermittent
        import traces

        yield SimpleNamespace(harvesting=harvesting, intermittent=intermittent, traces=traces)


def built(folder: Path, header: str) -> Path:
    for name, text in (("ensemble.h", HEADER), ("ensemble.c", SOURCE), ("scenario.h", header)):
        (folder / name).write_text(text)
    sources = [FOLDER / f"{name}.c" for name in ("main", "device", "power_policy")]
    return compile_c(folder, *sources, "ensemble.c", f"-I{FOLDER}", "-lm")


@pytest.mark.parametrize("seed", range(6))
def test_firmware_counts_what_is_simulated(benchmarks, tmp_path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    best = draw.integers(CLASSES, size=(IMAGES, MEMBERS))
    percent = 2 * draw.integers(20, 50, size=(IMAGES, MEMBERS))
    labels = draw.integers(CLASSES, size=IMAGES)
    images = np.stack([best, percent], axis=-1).reshape(IMAGES, 1, 2 * MEMBERS, 1)
    cascade = Cascade((1.0, None, 2.0)) if seed % 2 else None
    margins = np.log(percent / ((100 - percent) // 2))
    enough = np.array([margins[:, 0] >= 1, np.zeros(IMAGES), margins[:, 2] >= 2, np.zeros(IMAGES)])

    # A device that wins and loses: of 2,000 nJ, an image takes 400 and more.
    device = benchmarks.intermittent.Device(
        capacity_nj=2000,
        turn_on_nj=int(draw.integers(50, 500)),
        leakage_nw=int(draw.integers(30)),
        sleep_nw=int(draw.integers(30)),
        period_ms=int(draw.integers(2000, 9000)),
        begin_nj=100,
        begin_ms=700,
        member_nj=300,
        member_ms=1100,
    )
    ends = np.cumsum(draw.integers(1, 9000, size=200)).tolist()
    trace = benchmarks.traces.Trace("drawn", ends, draw.integers(250, size=200).tolist())
    policy = PowerPolicy(
        members=MEMBERS,
        # Some plan with less than it takes, so members are left out, or the supply browns out.
        begin_nj=100 if seed < 4 else 0,
        member_nj=300 if seed < 4 else 200,
        savings_nj=int(draw.integers(500)),
        hysteresis_nj=int(draw.integers(300)),
    )
    metadata = SimpleNamespace(cascade=cascade)
    header = benchmarks.harvesting.scenario(device, trace, policy, metadata, images, labels)
    found = benchmarks.intermittent.simulate(
        device,
        trace,
        lambda: PowerPolicy(**vars(policy)),
        benchmarks.intermittent.Answers(
            (best == labels[:, np.newaxis]).T, enough if cascade else None, range(IMAGES)
        ),
    )
    assert found.answers > 10  # or this tests nothing
    assert found.brown_outs or seed < 4
    said = subprocess.run(
        [built(tmp_path, header)], capture_output=True, text=True, check=True
    ).stdout
    assert said == found.line() + "\n"


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_policy_in_cpp(tmp_path) -> None:
    """Links, so the header says that its functions are C's."""
    (tmp_path / "main.cc").write_text(
        '#include "power_policy.h"\nint main() { return (int)power_policy_stored_nj(1, 1, 2); }\n'
    )
    policy = compile_c(tmp_path, "-c", FOLDER / "power_policy.c", target="power_policy.o")
    program = [f"-I{FOLDER}", tmp_path / "main.cc", policy, "-o", tmp_path / "main"]
    subprocess.run(["c++", *program], check=True)
    subprocess.run([tmp_path / "main"], check=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_another_network_is_exported_anew(tmp_path) -> None:
    """Also where the one of an earlier `make run` is there."""
    (tmp_path / "ensemble.c").touch()
    command = ["make", "--dry-run", "run", f"BUILD={tmp_path}", "NETWORK=other"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
    assert "export other" in done.stdout


def test_firmware_counts_days(benchmarks) -> None:
    day = 24 * 3600 * 1000
    trace = benchmarks.traces.Trace("long", [day, 50 * day], [1, 1])
    with pytest.raises(ValueError, match=r"`firmware` .*'long' takes more than 49 days"):
        benchmarks.harvesting.write_scenario("scenario.h", None, trace, None, 1)
