"""A graph read from queries into memory, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from graphlearn.errors import InputError
from graphlearn.storage.hetero.edges import read_edges
from graphlearn.storage.hetero.features import feature_kinds
from graphlearn.storage.hetero.nodes import read_nodes
from graphlearn.storage.hetero.roles import columns_of, read_roles
from graphlearn.storage.hetero.sizes import measure_graph
from graphlearn.storage.hetero.tables import HeteroTables
from graphlearn.storage.hetero.target import find_target


def read_graph(
    cursor: duckdb.DuckDBPyConnection, sql: Mapping[str, str], target: str | None = None, text: Sequence[str] = ()
) -> HeteroTables:
    """The graph of queries by role. `target`: the labels (see `find_target`); `text`: columns whose words are features.

    Raises InputError, OptionError for queries that fail or do not form a graph.
    """
    if not sql:
        raise InputError("there are no queries", help="for example {'paper': 'FROM paper', 'writes': 'FROM writes'}")
    try:
        columns = columns_of(cursor, sql)
    except duckdb.Error as error:
        raise InputError(f"a query failed: {error}", help="try it with session.sql") from error
    roles = measure_graph(cursor, sql, roles=read_roles(columns)).roles
    learnt = find_target(roles, target)
    nodes = {}
    for name, role in roles.nodes.items():
        label = learnt.label_of(name)
        nodes[name] = read_nodes(cursor, sql[name], role, feature_kinds(role, text, label), label)
    found = {name: read_edges(cursor, sql[name], role, nodes, "error") for name, role in roles.edges.items()}
    relations = [table for tables, _ in found.values() for table in tables]
    return HeteroTables.of(list(nodes.values()), relations, {name: report for name, (_, report) in found.items()})
