"""GraphLearn: a model is a materialized view of a graph query.

>>> import graphlearn
>>> session = graphlearn.connect("kg.duckdb")
>>> session.sql("CREATE MODEL m TYPE complex AS FROM 'triples.parquet'")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphlearn.errors import GraphLearnError

if TYPE_CHECKING:
    from graphlearn.exports import from_pyg, to_dgl, to_networkx, to_pyg
    from graphlearn.session import Session, connect

__version__ = "0.1.0"
__all__ = [
    "GraphLearnError",
    "Session",
    "__version__",
    "connect",
    "from_pyg",
    "to_dgl",
    "to_networkx",
    "to_pyg",
]
_EXPORTS = ("from_pyg", "to_dgl", "to_networkx", "to_pyg")


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import graphlearn` is fast."""
    if name in ("Session", "connect"):
        from graphlearn import session

        return getattr(session, name)
    if name in _EXPORTS:
        from graphlearn import exports

        return getattr(exports, name)
    raise AttributeError(f"module 'graphlearn' has no attribute {name!r}")
