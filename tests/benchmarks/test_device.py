"""Measuring on a device, with stand-ins for adb, ssh, scp and LCE's benchmark tool."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from larq_ensemble.convert.conversion import convert_run
from larq_ensemble.convert.file_conversion import convert_file
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runs import load_run
from larq_ensemble.runtime.file import read_ensemble, with_one_subgraph

from .conftest import load

HERE = Path(__file__).parent

# What the tool prints, by version: TFLite 2.3, 2.16 with a slow model, 2.20.
OUTPUTS = {
    """STARTING!
Min num runs: [50]
Loaded model model.tflite
Initialized session in 1.234ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding \
150 seconds.
count=14 first=45678 curr=33210 min=33001 max=45678 avg=34567.8 std=3210

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding \
150 seconds.
count=50 first=33333 curr=32222 min=32111 max=33333 avg=32500.4 std=250

Inference timings in us: Init: 1234, First inference: 45678, Warmup (avg): 34567.8, \
Inference (avg): 32500.4
""": (50, 1234, 45678, 32500.4, 250),
    """INFO: STARTING!
INFO: Initialized session in 6.543ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if \
exceeding 150 seconds.
INFO: count=1 curr=1412345

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if \
exceeding 150 seconds.
INFO: count=50 first=1300000 curr=1300100 min=1290000 max=1310000 avg=1.30012e+06 std=2600

INFO: Inference timings in us: Init: 6543, First inference: 1412345, Warmup (avg): 1.41234e+06, \
Inference (avg): 1.30012e+06
""": (50, 6543, 1412345, 1300120, 2600),
    """INFO: count=1 curr=700 p5=700 median=700 p95=700
INFO: count=1200 first=830 curr=801 min=790 max=1200 avg=812.5 std=1.1e+01 p5=795 median=805 p95=900
INFO: Inference timings in us: Init: 900, First inference: 2500, Warmup (avg): 850.5, \
Inference (avg): 812.5
""": (1200, 900, 2500, 812.5, 11),
}


@pytest.fixture(scope="module")
def device():
    return load("device")


@pytest.fixture
def phone(tmp_path: Path) -> dict[str, str]:
    """A PATH on which adb, ssh and scp are stand-ins, and the folder that is the device."""
    folder = tmp_path / "bin"
    folder.mkdir()
    source = (HERE / "standin.py").read_text()
    for name in ("adb", "ssh", "scp"):
        (folder / name).write_text(f"#!{sys.executable}\n{source}")
        (folder / name).chmod(0o755)
    (tmp_path / "device").mkdir()
    return {"PATH": f"{folder}:/usr/bin:/bin", "DEVICE": str(tmp_path / "device")}


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "lce_benchmark_model"
    path.write_text(f"#!{sys.executable}\n{(HERE / 'tool.py').read_text()}")
    return path


@pytest.mark.parametrize("output", OUTPUTS)
def test_output_of_several_versions(device, output) -> None:
    assert device.parse_output(output) == device.Timing(*OUTPUTS[output])
    assert device.parse_output(output.replace("\n", "\r\n")) == device.Timing(*OUTPUTS[output])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "no output"),
        ("STARTING!\nGraph: [m.tflite]\nBenchmarking failed.\n", "Benchmarking failed"),
        (
            "INFO: STARTING!\nERROR: Encountered unresolved custom op: LceQuantize.\n"
            "ERROR: Benchmarking failed.\n",
            "unresolved custom op: LceQuantize",
        ),
    ],
)
def test_output_without_timings(device, output, message) -> None:
    with pytest.raises(EnsembleError, match=message):
        device.parse_output(output)


def test_input_flags_are_in_the_order_of_the_interpreter(device, tflite) -> None:
    file = read_ensemble(tflite)
    for graph, other in ((file.graphs[0], "image"), (file.rests[0], "features_0")):
        names, shapes, values = device.input_flags(
            with_one_subgraph(file.data, graph.index), graph, 2
        )
        in_order = sorted([other, "member"], key=graph.inputs.__getitem__)
        assert names == f"--input_layer={','.join(in_order)}"
        shape = {"image": "1,8,8,1", "features_0": "1,8,8,8", "member": "1"}
        assert shapes == f"--input_layer_shape={':'.join(shape[name] for name in in_order)}"
        assert values == "--input_layer_value_range=member,2,2"
    assert device.input_flags(b"", file.trunk, 2) == ()


@pytest.mark.parametrize(
    ("where", "threads"), [([], "1,2"), (["--serial", "phone"], "1"), (["--ssh", "pi@board"], "1")]
)
def test_a_table_by_threads_and_members(
    script, phone, tool, tflite, tmp_path, where, threads
) -> None:
    out = tmp_path / "result.json"
    options = ["--threads", threads, "--members", "1,3", "--runs", "20", "--json", out]
    done = script("device", tflite, "--tool", tool, *options, *where, **phone)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    rows = {(row["threads"], row["members"]): row for row in result["rows"]}
    # 8 ms once per image, then 10, 11 and 12 ms on one thread.
    latencies = {(1, 1): 18, (1, 3): 41}
    if threads == "1,2":
        latencies |= {(2, 1): 9, (2, 3): 20.5}
    assert {key: row["latency_ms"] for key, row in rows.items()} == latencies
    assert rows[1, 3]["relative"] == pytest.approx(41 / (3 * 18))
    assert rows[1, 3]["deviation_ms"] == pytest.approx(0.3 * 4**0.5)
    assert rows[1, 1]["start_ms"] == 2 * 31.5
    assert result["relative_to"] == "m times one member"
    assert [item["runs"] for item in result["timings_us"]] == [20] * 2 * len(latencies)
    members = [item["member"] for item in result["timings_us"]]
    assert members == len(latencies) // 2 * [None, 0, 1, 2]
    calls = Path(phone["DEVICE"], "calls").read_text()
    assert calls.count("--use_indirect_bgemm=true --use_xnnpack=false") == 2 * len(latencies)
    assert calls.startswith("ssh pi@board" if "--ssh" in where else "adb")
    assert "41.00" in done.stdout


def test_against_separate_models_pinned_to_cores(
    device, phone, tool, run, tflite, tmp_path, monkeypatch
) -> None:
    taskset = Path(phone["PATH"].split(":")[0], "taskset")
    taskset.write_text('#!/bin/sh\ntest "$1" = f0 && shift && exec "$@"\n')
    taskset.chmod(0o755)
    out = tmp_path / "result.json"
    options = ["--run", run, "--members", "2", "--cores", "f0", "--kernel", "default"]
    for name, value in phone.items():
        monkeypatch.setenv(name, value)
    # In this process, which saves to import TensorFlow once more.
    arguments = [tflite, "--tool", tool, *options, "--json", out]
    device.main.main(list(map(str, arguments)), standalone_mode=False)
    result = json.loads(out.read_text())
    assert result["relative_to"] == "separate models"
    assert result["rows"][0]["relative"] == pytest.approx((8 + 21) / 16)
    assert "taskset f0" in Path(phone["DEVICE"], "calls").read_text()
    assert "--use_indirect_bgemm=false" in Path(phone["DEVICE"], "calls").read_text()


def test_with_the_delegate(device, phone, tool, tflite, tmp_path, monkeypatch) -> None:
    library, out = tmp_path / "delegate.so", tmp_path / "result.json"
    library.write_bytes(b"the delegate")
    for name, value in phone.items():
        monkeypatch.setenv(name, value)
    options = ["--tool", tool, "--delegate", library, "--members", "2", "--json", out]
    device.main.main(list(map(str, [tflite, *options])), standalone_mode=False)
    result = json.loads(out.read_text())
    assert (result["kernel"], result["rows"][0]["latency_ms"]) == ("delegate", 8 + 21)
    calls = Path(phone["DEVICE"], "calls").read_text()
    assert f"--external_delegate_path={phone['DEVICE']}" not in calls
    assert calls.count("--external_delegate_path=/data/local/tmp/larq_ensemble/delegate.so") == 3
    assert "xnnpack" not in calls
    assert "bgemm" not in calls


def test_flags_of_the_kernel(device, tflite, tmp_path) -> None:
    lce = read_ensemble(tflite)
    assert "--use_indirect_bgemm=true" in device.kernel_flags(lce, None, None)
    with pytest.raises(EnsembleError, match=r"--kernel default .* with --delegate: leave it out"):
        device.kernel_flags(lce, "default", "delegate.so")
    path = tmp_path / "stock.tflite"
    convert_file(tflite, path, target="litert")
    stock = read_ensemble(path)
    assert device.kernel_flags(stock, None, None) == ()
    with pytest.raises(EnsembleError, match=r"--kernel indirect .* doesn't run this file"):
        device.kernel_flags(stock, "indirect", None)
    with pytest.raises(EnsembleError, match="the file has none"):
        device.kernel_flags(stock, None, "delegate.so")


def test_a_graph_a_member(script, phone, tool, run, tmp_path) -> None:
    path, out = tmp_path / "subgraphs.tflite", tmp_path / "result.json"
    convert_run(load_run(run), path, layout="subgraphs")
    done = script("device", path, "--tool", tool, "--json", out, **phone)
    assert done.returncode == 0, done.stderr
    assert [row["latency_ms"] for row in json.loads(out.read_text())["rows"]] == [16, 24, 32]
    pushed = Path(phone["DEVICE"]).rglob("[0-9].tflite")
    assert [file.name for file in sorted(pushed)] == [f"{number}.tflite" for number in range(3, 7)]


def test_all_members_at_once(device, run, tmp_path) -> None:
    path = tmp_path / "branches.tflite"
    convert_run(load_run(run), path, layout="branches")
    with pytest.raises(EnsembleError, match="run the tool on it as it is"):
        device.pushed_graphs(None, read_ensemble(path), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--members", "4"], "--members must be from 1 to 3"),
        (["--tool", "missing"], "--tool 'missing' is no file"),
        (["--delegate", "missing"], "--delegate 'missing' is no file"),
        (["--serial", "other"], "device 'other' not found"),
    ],
)
def test_errors_are_one_line(script, phone, tool, tflite, arguments, message) -> None:
    done = script("device", tflite, "--tool", tool, *arguments, **phone)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


def test_a_tool_that_fails(script, phone, tool, tflite) -> None:
    tool.write_text("#!/bin/sh\necho 'ERROR: Failed to load model' >&2\nexit 1\n")
    done = script("device", tflite, "--tool", tool, **phone)
    assert done.returncode == 1
    assert done.stderr.endswith("failed: ERROR: Failed to load model\n")


def test_a_tool_that_is_too_old(script, phone, tool, tflite) -> None:
    tool.write_text(tool.read_text().replace('"use_indirect_bgemm"', '"use_caching"'))
    done = script("device", tflite, "--tool", tool, **phone)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "doesn't know use_indirect_bgemm" in done.stderr


def test_without_adb(script, tool, tflite, tmp_path) -> None:
    done = script("device", tflite, "--tool", tool, PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "device.py: error: There is no 'adb' on the PATH: install it.\n",
    )
