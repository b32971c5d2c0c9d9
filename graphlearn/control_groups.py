"""Control groups of Linux: the limits that containers and service managers set for a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

PROC = Path("/proc/self")
Version: TypeAlias = Literal[1, 2]


def control_groups(controller: str, proc: Path = PROC) -> Iterator[tuple[Version, Path]]:
    """The folders of the groups of a process that the controller (`memory`, `cpu`) can limit, and their version.

    From its own group to the outermost visible one: each of them can have a limit. `proc`: the folder of the process in
    /proc. Nothing on systems without control groups.
    """
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # not on Linux
        return
    for number, controllers, group in (line for line in groups if len(line) == 3):
        version: Version = 2 if number == "0" else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount in mounts:
            kind, _, settings = mount[mount.index("-") + 1 :]
            if kind != ("cgroup2" if version == 2 else "cgroup"):
                continue
            if version == 1 and controller not in settings.split(","):
                continue
            root, top = mount[3], Path(mount[4].encode().decode("unicode_escape"))
            inside = os.path.relpath(group, root)
            here = top if inside.startswith("..") else top / inside  # outside of what a container sees
            for folder in [here, *(parent for parent in here.parents if parent.is_relative_to(top))]:
                yield version, folder
