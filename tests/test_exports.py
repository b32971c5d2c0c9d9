"""Libraries that graphs are exported to; tests/test_wheel.py uses the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphlearn
from graphlearn.errors import UserError


@pytest.mark.parametrize(
    "raised", ["FileNotFoundError('cannot find libgraphbolt.so')", "ModuleNotFoundError('no torchdata.datapipes')"]
)
def test_a_library_that_cannot_be_loaded_is_not_called_missing(
    raised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dgl").mkdir()
    (tmp_path / "dgl" / "__init__.py").write_text(f"raise {raised}")
    (tmp_path / "dgl-2.1.0.dist-info").mkdir()
    (tmp_path / "dgl-2.1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: dgl\nVersion: 2.1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with graphlearn.connect() as session, pytest.raises(UserError) as caught:
        graphlearn.to_dgl(session, "m")
    assert caught.value.message.startswith("dgl 2.1.0 cannot be loaded: ")
    assert caught.value.help is not None
    assert caught.value.help.startswith("pip install 'graphlearn[dgl]'")
