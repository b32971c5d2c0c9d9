"""How many processors a process may use, from fake control groups, and how idle threads wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphlearn.control_groups import control_groups
from graphlearn.processors import SPINS, cores, default_threads

AFFINITY = len(os.sched_getaffinity(0))


def process(tmp_path: Path, *, version: int, groups: dict[str, dict[str, str]], own: str, root: str = "/") -> Path:
    """A folder like /proc/self of a process in the group `own`; `groups`: the files of each group.

    `root`: the group that is mounted, which is not the outermost one in a container.
    """
    top, proc = tmp_path / "cgroup", tmp_path / "proc"
    proc.mkdir()
    for group, files in groups.items():
        folder = top / group.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text + "\n")
    line, kind = (
        (f"0::{own}", "cgroup2 cgroup2 rw")
        if version == 2
        else (f"3:cpu,cpuacct:{own}", "cgroup cgroup rw,cpu,cpuacct")
    )
    (proc / "cgroup").write_text(f"{line}\n1:name=systemd:/\n")
    (proc / "mountinfo").write_text(
        f"33 31 0:30 {root} {top} rw,relatime - {kind}\n23 1 0:1 / / rw - ext4 /dev/vda rw\n"
    )
    return proc


@pytest.mark.parametrize("own", ["/", "/service", "/service/job"])
def test_the_quota_of_any_outer_group_counts(tmp_path: Path, own: str) -> None:
    groups = {"/": {"cpu.max": "max 100000"}, "/service": {"cpu.max": "100000 100000"}, "/service/job": {}}
    proc = process(tmp_path, version=2, groups=groups, own=own)
    assert cores(proc) == (AFFINITY if own == "/" else 1)


@pytest.mark.parametrize(
    ("quota", "expected"), [("50000", 1), ("100000", 1), ("100001", min(2, AFFINITY)), ("-1", AFFINITY)]
)
def test_a_quota_is_rounded_up_to_whole_processors(tmp_path: Path, quota: str, expected: int) -> None:
    files = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": "100000"}
    proc = process(tmp_path, version=1, groups={"/": {}, "/job": files}, own="/job")
    assert cores(proc) == expected


@pytest.mark.parametrize("text", ["", "max", "1 2 3", "abc 100000", "100000 0"])
def test_unreadable_quotas_are_no_limit(tmp_path: Path, text: str) -> None:
    proc = process(tmp_path, version=2, groups={"/": {"cpu.max": text}}, own="/")
    assert cores(proc) == AFFINITY


def test_a_group_outside_of_the_container_is_read_at_its_mount(tmp_path: Path) -> None:
    proc = process(tmp_path, version=2, groups={"/": {"cpu.max": "100000 100000"}}, own="/", root="/docker/a1b2")
    assert [folder for _, folder in control_groups("cpu", proc)] == [tmp_path / "cgroup"]
    assert cores(proc) == 1


def test_without_control_groups_the_affinity_decides(tmp_path: Path) -> None:
    assert cores(tmp_path) == AFFINITY


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("1,4", 1), ("999", None), ("0", None), ("many", None)])
def test_omp_num_threads_lowers_the_default(monkeypatch: pytest.MonkeyPatch, value: str, expected: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == (expected or cores())


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_a_session_lets_idle_threads_sleep_unless_the_user_decides(given: dict[str, str], expected: str | None) -> None:
    code = "import os, graphlearn; graphlearn.connect().close(); print(os.environ.get('GOMP_SPINCOUNT'))"
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    found = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(expected)
