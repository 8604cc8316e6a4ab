"""The reader of ncu's CSV, its command, and what the report makes of the kernels."""

import subprocess
from pathlib import Path

import pytest

import analyze_io
from io_analysis.ncu_command import METRICS, command, kernels, known, profile
from io_analysis.ncu_csv import ranged, read
from io_analysis.report import IoReport, from_json, in_theory, longest, measured, tensor_busy, to_json
from io_analysis.traffic import Tile
from speed.presets import PRESETS
from speed.rows import Row

ROOT = Path(__file__).parents[2]
ROW = Row(N=4096, d=128, B=4)
RANGE = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
BASE = ("ID", "Process ID", "Process Name", "Host Name", RANGE, "Kernel Name", "Context", "Stream")
BASE = (*BASE, "Block Size", "Grid Size", "Device", "CC")
METRIC_UNITS = {
    "dram__bytes_read.sum": "byte",
    "dram__bytes_write.sum": "Mbyte",
    "gpu__time_duration.sum": "usecond",
    "l1tex__m_l1tex2xbar_write_bytes.sum": "byte",
    "l1tex__m_xbar2l1tex_read_bytes.sum": "byte",
    "launch__registers_per_thread": "register/thread",
    "launch__shared_mem_per_block": "Kbyte/block",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": "%",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "%",
    "smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio": "inst",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "inst",
    "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio": "inst",
    "lts__t_bytes.sum": "",
}


def quoted(*cells):
    return ",".join(f'"{cell}"' for cell in cells)


def line(number, name, of, values):
    nvtx = f'1  ""<default domain>:{of}:none:none:none:none:none:none""' if of else ""
    start = (number, "4711", "python3.12", "127.0.0.1", nvtx, name, "1", "7", "(256, 1, 1)", "(2048, 1, 1)", "0", "9.0")
    return quoted(*start, *values.split())


OURS = ranged("ours", ROW)
NAIVE = ranged("naive", ROW)
GEMM = "void at::native::gemm<float, 2>(int, T1 *)"
FORWARD_COUNTS = "207,618,048 67.5 620.25 67,108,864 4,328,521,728 168 131.072 71.2 12.1 0.50 2.25 1 n/a"
GEMM_COUNTS = "67,108,864 2,147.5 1,900 2,147,483,648 3,000,000,000 90 98.3 80 10 1 0.1 1 5"
SOFTMAX_COUNTS = "2,147,483,648 2,147.5 1,500 2,147,483,648 2,147,483,648 32 n/a 0 90 n/a 9 1 n/a"

CSV = "\n".join(
    [
        "==PROF== Connected to process 4711 (/usr/bin/python3.12)",
        '==PROF== Profiling "_forward" - 0: 0%....50%....100% - 14 passes',
        "==PROF== Disconnected from process 4711",
        quoted(*BASE, *METRIC_UNITS),
        quoted(*[""] * len(BASE), *METRIC_UNITS.values()),
        line(0, "_forward", OURS, FORWARD_COUNTS),
        line(1, GEMM, NAIVE, GEMM_COUNTS),
        line(2, "softmax", NAIVE, SOFTMAX_COUNTS),
        line(3, "warm_up", "", SOFTMAX_COUNTS),
    ]
)


def test_each_kernel_is_read_in_bytes_and_seconds():
    forward, gemm, softmax, warm = read(CSV)
    assert forward.name == "_forward"
    assert forward.metrics["dram__bytes_read.sum"] == 207_618_048
    assert forward.metrics["dram__bytes_write.sum"] == pytest.approx(67.5e6)
    assert forward.metrics["gpu__time_duration.sum"] == pytest.approx(620.25e-6)
    assert forward.metrics["launch__shared_mem_per_block"] == pytest.approx(131_072)
    assert gemm.name == GEMM
    assert [kernel.range for kernel in (forward, gemm, softmax, warm)] == [OURS, NAIVE, NAIVE, None]


def test_what_ncu_has_not_is_left_out():
    forward, gemm, *_ = read(CSV)
    assert "lts__t_bytes.sum" not in forward.metrics
    assert gemm.metrics["lts__t_bytes.sum"] == 5


def test_stalls_come_worst_first_and_without_what_is_none():
    assert list(read(CSV)[0].stalls().items()) == [("long_scoreboard", 2.25), ("gmma", 0.5)]


def test_what_was_launched_for_no_call_is_left_out():
    assert [kernel.name for kernel in kernels(CSV)] == [
        "_forward",
        "void at::native::gemm<float, 2>(int, T1 *)",
        "softmax",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line begins with ID"),
        ("==ERROR== ERR_NVGPUCTRPERM - no permission", "ERR_NVGPUCTRPERM"),
        ('"ID","Metric Name"\n"0","x"', "lack 'Kernel Name'"),
    ],
)
def test_what_is_no_csv_of_ncu_is_said_to_be_none(text, said):
    with pytest.raises(ValueError, match=said):
        read(text)


def test_a_csv_without_ranges_is_refused():
    with pytest.raises(ValueError, match="without --nvtx"):
        kernels(CSV.replace("flashattest_", "other_"))


def of_call(name, tile=None):
    found = measured(kernel for kernel in kernels(CSV) if kernel.range == ranged(name, ROW))
    problem = in_theory(name, ROW, tile)
    return type(problem)(**{**vars(problem), "measured": found})


def test_a_call_of_one_kernel_is_compared_with_theory():
    problem = of_call("ours", Tile(128, 64))
    assert problem.measured.dram == pytest.approx(207_618_048 + 67.5e6)
    assert problem.dram_ratio == pytest.approx(275.1e6 / problem.least.total, rel=1e-3)
    assert problem.l2_ratio == pytest.approx((67_108_864 + 4_328_521_728) / problem.asked.total)
    assert longest(problem.measured)["registers"] == 168


def test_a_call_of_several_kernels_is_their_sum():
    problem = of_call("naive")
    assert problem.measured.seconds == pytest.approx(3.4e-3)
    assert problem.measured.dram_read == 67_108_864 + 2_147_483_648
    assert tensor_busy(problem.measured) == pytest.approx(80 * 1900 / 3400)
    assert problem.expected == problem.written
    assert problem.l2_ratio is None


def test_a_counter_that_one_kernel_lacks_is_unknown_for_the_call():
    text = CSV.replace('"2,147.5","1,500"', '"n/a","1,500"')
    found = measured(kernel for kernel in kernels(text) if kernel.range == NAIVE)
    assert (found.dram_written, found.dram) == (None, None)
    assert found.dram_read is not None


def test_the_report_comes_back_as_it_was():
    report = IoReport(
        {"device": "x"}, {"ours": "ours"}, ("ours",), None, [of_call("ours", Tile(128, 64)), of_call("naive")]
    )
    assert from_json(to_json(report)) == report


def test_another_json_is_refused():
    with pytest.raises(ValueError, match=r"no file of analyze_io\.py"):
        from_json('{"format": 1}')


def test_clocks_are_left_alone(tmp_path):
    words = command("ncu", METRICS, tmp_path / "report")
    assert words[words.index("--clock-control") + 1] == "none"
    assert words[words.index("--profile-from-start") + 1] == "off"
    assert "--nvtx" in words


FAKE = """#!/usr/bin/env python3
import sys
if "--query-metrics" in sys.argv:
    print("Device NVIDIA H100 80GB HBM3 (GH100)")
    print("dram__bytes_read    Counter   byte   # of bytes read from DRAM")
    print("gpu__time_duration  Counter   nsecond")
elif "--import" in sys.argv:
    print(open(sys.argv[0] + ".csv").read())
else:
    open(sys.argv[0] + ".called", "w").write(" ".join(sys.argv[1:]))
    sys.exit(FAILS)
"""


def fake_ncu(tmp_path, fails=0):
    """An ncu that answers as the real one does, and keeps what it was called with."""
    ncu = tmp_path / "ncu"
    ncu.write_text(FAKE.replace("FAILS", repr(fails)))
    ncu.chmod(0o755)
    (tmp_path / "ncu.csv").write_text(CSV)
    return str(ncu)


def test_metrics_that_the_chip_lacks_are_not_asked_for(tmp_path):
    assert known(fake_ncu(tmp_path)) == ("gpu__time_duration.sum", "dram__bytes_read.sum")


def test_all_metrics_are_asked_for_where_ncu_does_not_say(tmp_path):
    assert known(str(tmp_path / "nowhere")) == METRICS


def test_a_run_of_ncu_gives_its_csv(tmp_path):
    text = profile(fake_ncu(tmp_path), [(ROW, "ours"), (ROW, "naive")], tmp_path / "report", 60)
    assert {kernel.range for kernel in kernels(text)} == {OURS, NAIVE}
    called = (tmp_path / "ncu.called").read_text()
    assert "--metrics gpu__time_duration.sum,dram__bytes_read.sum " in called
    assert "ncu_target.py" in called


def test_a_run_that_fails_says_ncus_own_words(tmp_path):
    with pytest.raises(RuntimeError, match=r"ncu ended with 1: ==ERROR== it may not"):
        profile(fake_ncu(tmp_path, "==ERROR== it may not"), [(ROW, "ours")], tmp_path / "report", 60)


def test_a_run_that_hangs_is_ended(tmp_path, monkeypatch):
    def run(*words, **more):
        raise subprocess.TimeoutExpired(words, 1)

    monkeypatch.setattr("io_analysis.ncu_command.subprocess.run", run)
    with pytest.raises(RuntimeError, match="had not ended after 5 s"):
        profile("ncu", [(ROW, "ours")], tmp_path / "report", 5)


def test_a_kept_csv_is_compared_with_theory(tmp_path, capsys):
    (tmp_path / "io.csv").write_text(CSV)
    chosen = ["--d", "128", "--N", "4096", "--providers", "ours_portable", "naive", "ours"]
    assert analyze_io.main([*chosen, "--read", str(tmp_path / "io.csv"), "--json", str(tmp_path / "io.json")]) == 0
    said = capsys.readouterr().out
    assert "DRAM 275 (1.02x)" in said
    assert "L2 and SMs 4396 (0.99x)" in said
    assert "warps stalled: long_scoreboard 2.25, gmma 0.50" in said
    assert "ncu saw no kernel of ours_portable on" in said
    assert from_json((tmp_path / "io.json").read_text()).machine == {"device": f"the device of {tmp_path}/io.csv"}


@pytest.mark.parametrize("wrong", [["--read", "nowhere.csv"], ["--d", "7"], ["--providers", "nobody"]])
def test_what_cannot_be_analyzed_is_said_in_a_line(wrong, capsys):
    assert analyze_io.main([*wrong, "--ncu", "no-such-ncu"]) == 2
    assert capsys.readouterr().err.startswith("analyze_io: ")


def test_the_kept_kernels_are_those_of_calls_that_are_still_named_so():
    of_each = {kernel.range for kernel in read((ROOT / "benchmark/results/io_ncu.csv").read_text())}
    assert {ranged("ours", row) for row in PRESETS["io"].rows()} <= of_each
    assert "backward" in ranged("ours", Row(N=8, d=8, direction="backward"))
