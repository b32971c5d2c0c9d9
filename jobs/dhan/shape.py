"""The columns of the answers of a model of a graph.

predict     id, label, probability FLOAT, rank INTEGER     if classes of nodes were learnt
predict     source, target, score FLOAT, rank INTEGER      if links were learnt
embeddings  id, embedding FLOAT[hidden]
explain     id, part, kind, relation, side, type, neighbour, weight FLOAT, contribution FLOAT
            part: 'network' or 'linear', whichever decides, or both; kind: 'features' (its own), 'relation' or
            'neighbour'; side: the end of the relation that neighbours are, 'hub' if they share one
evaluate    method, split, class (if classes were learnt), the metrics that the task has, count, too_few, protocol

Keys and classes have the types that they have in the user's tables; a key that was asked about keeps the type that it
was asked with.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from graphlearn.errors import InputError, OptionError, UserError, did_you_mean
from graphlearn.jobs.answers import echoed, find_field
from graphlearn.jobs.dhan.metrics import TaskKind, metric_table
from graphlearn.jobs.dhan.options import DhanJobOptions
from graphlearn.jobs.family import Columns, ModelShape, Question
from graphlearn.storage.dictionary import key_field
from graphlearn.storage.hetero.roles import name_ends, plain, read_roles, settle_ends
from graphlearn.storage.hetero.tables import HeteroTables
from graphlearn.storage.hetero.target import Target, find_target
from graphlearn.storage.scratch import scratch

RANK = pa.field("rank", pa.int32())
CHANCE = pa.field("probability", pa.float32())
SCORE = pa.field("score", pa.float32())


@dataclass(frozen=True)
class DhanShape(ModelShape):
    """The node tables with the fields of their keys, the width of embeddings, and what is learnt.

    `node` is the table whose column is learnt, `label` the field of its classes; or links lead from `source` to
    `target`.
    """

    keys: Mapping[str, pa.Field]
    hidden: int
    node: str | None = None
    label: pa.Field | None = None
    source: str | None = None
    target: str | None = None

    @classmethod
    def of_columns(
        cls, columns: Mapping[str, Columns], inputs: Mapping[str, str], options: DhanJobOptions
    ) -> DhanShape:
        """The shape of a model that is still to be trained on queries (role -> SQL) with these columns."""
        roles = read_roles(columns)
        target = find_target(roles, options.target)
        keys = {name: key_field(node.key_type) for name, node in roles.nodes.items()}
        if target.edges is not None:
            with closing(scratch()) as connection:
                named = name_ends(connection, roles, inputs, options.ends)
            edge = settle_ends(named).edges[target.edges]
            return cls(keys, options.hidden, source=edge.source.node, target=edge.target.node)
        if target.node is None or target.column is None:
            return cls(keys, options.hidden)
        type_name = plain(roles.nodes[target.node].columns[target.column].removesuffix("[]"))
        return cls(keys, options.hidden, target.node, key_field(type_name) if options.target is not None else None)

    @classmethod
    def of_tables(cls, tables: HeteroTables, target: Target, options: DhanJobOptions) -> DhanShape:
        """The shape of a stored model."""
        keys = {name: table.keys.dictionary.field for name, table in tables.nodes.items()}
        if target.edges is not None:
            relation = tables.edges[target.relation]
            return cls(keys, options.hidden, source=relation.source, target=relation.target)
        labels = tables.labelled.labels if tables.labelled is not None and options.target is not None else None
        return cls(keys, options.hidden, target.node, labels.classes.dictionary.field if labels is not None else None)

    @property
    def main(self) -> str:
        """The node table that questions are about."""
        return self.node or self.source or next(iter(self.keys))

    def columns(self, question: Question) -> pa.Schema:
        function, asked = question.function, question.asked
        if function == "evaluate":
            return metric_table(self.task).schema
        if function == "embeddings":
            table = self.table(question.options["of"])
            return pa.schema([self._id(table), pa.field("embedding", pa.list_(pa.float32(), self.hidden))])
        if function == "explain":
            return self._explanation(self._node(asked))
        if self.label is not None:
            question.refuse("exclude_known", "on classes")
            return pa.schema([self._node(asked), self.label.with_name("label"), CHANCE, RANK])
        if self.source is None or self.target is None:
            raise UserError(
                "the model has embeddings only, because it has no target",
                help="FROM embeddings('m'); or train it with OPTIONS (target = 'a column or an edge table')",
            )
        source, target = self.keys[self.source].with_name("source"), self.keys[self.target].with_name("target")
        if asked is not None:
            first, last = self.link_columns(asked)
            source = echoed(asked, first, source)
            target = echoed(asked, last, target) if last is not None else target
        return pa.schema([source, target, SCORE, RANK])

    @property
    def task(self) -> TaskKind:
        """The task that was learnt."""
        if self.source is not None:
            return "links"
        if self.label is not None:
            return "classes"
        return "clusters" if self.node is not None else "embeddings"

    def table(self, name: str | None) -> str:
        """A node table by name (case-insensitive), by default the main one. Raises OptionError."""
        if name is None:
            return self.main
        found = next((known for known in self.keys if known.lower() == name.lower()), None)
        if found is None:
            raise OptionError(f"the model has no node table {name}", key="of", help=did_you_mean(name, list(self.keys)))
        return found

    def id_column(self, asked: pa.Schema) -> str:
        """The column with nodes of the main table. Raises InputError if there is none, or if it has other nodes."""
        table = self.main
        found = find_field(asked, "id") or find_field(asked, table.lower())
        if found is None and len(asked) == 1:
            found = asked.names[0]
            other = next((name for name in self.keys if name.lower() == found.lower()), None)
            if other is not None:
                raise InputError(
                    f"the relation has nodes of {other}, but the model answers for nodes of {table}",
                    help=f"if they are ids of {table}, name them with AS: SELECT … AS id",
                )
        if found is None:
            raise InputError(
                f"the relation has no column id (its columns: {', '.join(asked.names)})",
                help=f"name the ids of {table} with AS: SELECT … AS id",
            )
        return found

    def link_columns(self, asked: pa.Schema) -> tuple[str, str | None]:
        """The columns with sources and, if links are given, targets. Raises InputError without a source."""
        source, target = str(self.source), str(self.target)
        first = find_field(asked, "source") or find_field(asked, source.lower())
        last = find_field(asked, "target") or (find_field(asked, target.lower()) if target != source else None)
        if first is None and last is not None:
            raise InputError(
                f"links are predicted from source to target, and the relation has no column source (its columns: "
                f"{', '.join(asked.names)})",
                help=f"give ids of {source}, not of {target}: SELECT … AS source",
            )
        if first is None and len(asked) == 1:
            first = asked.names[0]
        if first is None:
            raise InputError(
                f"the relation has no column source (its columns: {', '.join(asked.names)})",
                help=f"name the ids of {source} with AS: SELECT … AS source",
            )
        return first, last

    def _id(self, table: str) -> pa.Field:
        return self.keys[table].with_name("id")

    def _node(self, asked: pa.Schema | None) -> pa.Field:
        """The nodes that were asked about, or all of the main table."""
        return self._id(self.main) if asked is None else echoed(asked, self.id_column(asked), self._id(self.main))

    def _explanation(self, node: pa.Field) -> pa.Schema:
        """Neighbours are keys of any node table, as text if their types differ."""
        one = len({str(field.type) for field in self.keys.values()}) == 1
        neighbour = next(iter(self.keys.values())) if one else pa.field("neighbour", pa.string())
        texts = [pa.field(name, pa.string()) for name in ("part", "kind", "relation", "side", "type")]
        figures = [pa.field(name, pa.float32()) for name in ("weight", "contribution")]
        return pa.schema([node, *texts, neighbour.with_name("neighbour"), *figures])
