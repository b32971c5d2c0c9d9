"""`import graphlearn` and the help of the command line do not import heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "duckdb", "pyarrow", "numba", "networkx", "matplotlib", "tensorboard", "pandas", "ray")


@pytest.mark.parametrize("module", ["graphlearn", "graphlearn.cli"])
def test_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names_are_there_without_importing_them() -> None:
    import graphlearn

    assert set(graphlearn.__all__) >= {"connect", "Session", "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'connectt'"):
        _ = graphlearn.connectt
