"""The memory that is left: the machine's, that of nested control groups of both versions, and that under ulimit -v."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from graphlearn.errors import ResourceError
from graphlearn.storage import memory
from graphlearn.storage.memory import cgroup_headrooms, check_address_space, memory_available

MB = 1 << 20


class Machine:
    """A /proc/self and control groups in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.groups = folder / "proc", folder / "groups"
        self.proc.mkdir()

    def process(self, cgroup: str, *mounts: tuple[str, str, str, str]) -> None:
        """What /proc says. Mounts: root, folder of the mount, kind, settings."""
        lines = [
            f"3{i} 23 0:28 {root} {self.groups / place} rw,relatime shared:9 - {kind} {kind} {settings}"
            for i, (root, place, kind, settings) in enumerate(mounts)
        ]
        (self.proc / "cgroup").write_text(cgroup)
        (self.proc / "mountinfo").write_text("22 1 0:2 / /sys rw - sysfs sysfs rw\n" + "\n".join(lines) + "\n")

    def group(self, path: str, **files: object) -> None:
        """A control group; "memory_max" is memory.max."""
        folder = self.groups / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_least_of_nested_groups_of_version_2(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.process("0::/user/job/step\n", ("/", "", "cgroup2", "rw"))
    machine.group("", memory_current=1)  # the root has no limit
    machine.group("user", memory_max=900 * MB, memory_current=100 * MB)
    machine.group(
        "user/job", memory_max=500 * MB, memory_current=450 * MB, memory_stat=f"anon 1\ninactive_file {30 * MB}"
    )
    machine.group("user/job/step", memory_max="max", memory_high=600 * MB, memory_current=50 * MB)
    assert sorted(cgroup_headrooms(machine.proc)) == [80 * MB, 550 * MB, 800 * MB]
    monkeypatch.setattr(memory, "PROC", machine.proc)
    assert memory_available() == 80 * MB


def test_the_least_of_nested_groups_of_version_1(machine: Machine) -> None:
    machine.process(
        "9:name=systemd:/\n4:cpu,memory:/a/b\n2:cpuacct:/a\n0::/\n",
        ("/", "memory", "cgroup", "rw,cpu,memory"),
        ("/", "cpuacct", "cgroup", "rw,cpuacct"),
        ("/", "unified", "cgroup2", "rw"),
    )
    unlimited = 9223372036854771712
    for path, limit, used in (("", unlimited, 5), ("/a", 300 * MB, 280 * MB), ("/a/b", 400 * MB, 100 * MB)):
        machine.group(f"memory{path}", memory_limit_in_bytes=limit, memory_usage_in_bytes=used)
    machine.group("memory/a", memory_stat=f"inactive_file 0\ntotal_inactive_file {5 * MB}")
    assert sorted(cgroup_headrooms(machine.proc)) == [25 * MB, 300 * MB, unlimited - 5]


@pytest.mark.parametrize("root", ["/docker/123", "/docker/123/deeper", "/other"])
def test_a_container_that_sees_only_its_own_group(machine: Machine, root: str) -> None:
    machine.process("0::/docker/123\n", (root, "", "cgroup2", "rw"))
    machine.group("", memory_max=100 * MB, memory_current=90 * MB)
    assert list(cgroup_headrooms(machine.proc)) == [10 * MB]


def test_a_group_that_is_full(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.process("0::/\n", ("/", "", "cgroup2", "rw"))
    machine.group("", memory_max=MB, memory_current=2 * MB)
    monkeypatch.setattr(memory, "PROC", machine.proc)
    assert memory_available() == 0


@pytest.mark.parametrize(
    ("cgroup", "limit"), [("", 1), ("0::/\n", "many"), ("nonsense\n1:memory\n", 1), ("0::/gone\n", None)]
)
def test_without_a_limit_the_machine_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, cgroup: str, limit: object
) -> None:
    machine.process(cgroup, ("/", "", "cgroup2", "rw"))
    machine.group("", memory_current=0, **({} if limit is None else {"memory_max": limit}))
    assert list(cgroup_headrooms(machine.proc)) == []
    monkeypatch.setattr(memory, "PROC", machine.proc / "missing")
    assert 0 < memory_available() <= psutil.virtual_memory().total


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is enforced on Linux")
def test_ulimit_v_limits_the_memory() -> None:
    program = """
import resource
from graphlearn.storage.memory import memory_available
import psutil
limit = psutil.Process().memory_info().vms + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(memory_available() >> 20)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0 < int(found.stdout) <= 64


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is enforced on Linux")
def test_a_small_address_space_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "job.sql").write_text("CREATE MODEL m TYPE complex AS SELECT 1 AS head, 2 AS relation, 3 AS tail;")
    program = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from graphlearn.cli import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", program, "run", "job.sql"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("error: the address space of this process is too small: models need ")
    assert len(found.stderr.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["job.sql"]


def test_libraries_that_are_loaded_take_no_more_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_address_space", lambda: iter([memory.LIBRARIES]))
    monkeypatch.setitem(sys.modules, "torch", sys)
    check_address_space()
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ResourceError, match="and 1,024 MiB are left"):
        check_address_space()
    monkeypatch.setattr(memory, "_address_space", lambda: iter([]))
    check_address_space()
