"""Finds table functions on models in DuckDB's SQL: FROM predict('model', questions, k := 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphlearn.errors import SqlError
from graphlearn.jobs.registry import table_functions
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.source import Source, Token
from graphlearn.sql.statements import Span, Statement
from graphlearn.sql.words import BEFORE_TABLE, CLAUSES, FROM_INSIDE, NO_ALIAS


@dataclass(frozen=True)
class Cte:
    """A common table expression `name AS (…)` that a call can see."""

    name: str
    span: Span
    recursive: bool


@dataclass(frozen=True)
class Call:
    """`function('model', relation, name := value, …)` as written, at `span`; `argument` is the span of the relation.

    `named` maps names to (span of the name, span of the value). `alias` is true if the user gave the result a name.
    """

    source: Source
    function: str
    span: Span
    model: str
    model_span: Span
    argument: Span | None
    named: dict[str, tuple[Span, Span]]
    ctes: tuple[Cte, ...]
    alias: bool

    def around(self) -> list[Token]:
        """The tokens of the statement outside the call."""
        found: list[Token] = []
        for token in self.source.tokens:
            if token.text == ";" and token.kind == "operator":
                if token.start > self.span[0]:
                    break
                found = []
            elif not self.span[0] <= token.start < self.span[1]:
                found.append(token)
        return found

    def question(self) -> Rewritten | None:
        """The relation that the call reads, as a self-contained query; None without that argument."""
        if self.argument is None:
            return None
        argument = Rewritten.verbatim(self.source, *self.argument)
        words = {t.value.casefold() for t in argument.tokens}
        if not any(cte.name.casefold() in words for cte in self.ctes):
            if argument.text.startswith("(") and _closing(argument.tokens, 0) == len(argument.tokens) - 1:
                return Rewritten.verbatim(self.source, self.argument[0] + 1, self.argument[1] - 1)
            return "FROM " + argument
        definitions = Rewritten.verbatim(self.source, *self.ctes[0].span)
        for cte in self.ctes[1:]:
            definitions = definitions + ", " + Rewritten.verbatim(self.source, *cte.span)
        recursive = "RECURSIVE " if any(cte.recursive for cte in self.ctes) else ""
        return f"WITH {recursive}" + definitions + " FROM " + argument


@dataclass
class _Level:
    """The state inside one pair of parentheses. `table`: the parentheses are where SQL expects a table."""

    table: bool = False
    opener: str = ""
    clause: str = ""
    recursive: bool = False
    cte: Token | None = None
    ctes: list[Cte] = field(default_factory=list)


def find_calls(statement: Statement) -> list[Call]:
    """The calls of a statement, in order. For calls inside the arguments of another call, see `calls_inside`."""
    return _find(statement.source, statement.tokens, [])


def calls_inside(call: Call) -> list[Call]:
    """The calls in the relation that a call reads, including those in the CTEs that it names."""
    question = call.question()
    return _find(call.source, question.tokens, list(call.ctes)) if question else []


def _find(source: Source, tokens: Sequence[Token], visible: list[Cte]) -> list[Call]:
    calls: list[Call] = []
    levels = [_Level(ctes=visible)]
    skip_until = 0
    for index, token in enumerate(tokens):
        if index < skip_until:
            continue
        level = levels[-1]
        previous = tokens[index - 1] if index else None
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        table = _at_table(level, tokens, index)
        if token.text == "(" and token.kind == "operator":
            levels.append(_Level(table=table, opener=previous.word if previous else ""))
        elif token.text == ")" and token.kind == "operator" and len(levels) > 1:
            levels.pop()
            level = levels[-1]
            if level.cte and not (following and following.word == "AS"):  # AS: the list of columns ends here
                level.ctes.append(Cte(level.cte.value, (level.cte.start, token.end), level.recursive))
                level.cte = following if following and following.text == "," else None
        elif token.text == "," and level.cte is token:
            level.cte = following
        elif token.word == "WITH" and _defines(tokens, index + 1):
            level.recursive = following is not None and following.word == "RECURSIVE"
            level.cte = tokens[index + 2] if level.recursive else following
        elif token.word in CLAUSES and not (previous and previous.text == ".") and not _no_clause(level, previous):
            level.clause = token.word
        elif table and _is_call(tokens, index):
            end = _closing(tokens, index + 1)
            ctes = [cte for each in levels for cte in each.ctes]
            calls.append(_call(source, tokens[index : end + 1], ctes, _has_alias(tokens, end + 1)))
            skip_until = end + 1
    return calls


def _no_clause(level: _Level, previous: Token | None) -> bool:
    """Whether this FROM belongs to IS DISTINCT FROM, EXTRACT(year FROM …) and the like."""
    return level.opener in FROM_INSIDE or (previous is not None and previous.word == "DISTINCT")


def _at_table(level: _Level, tokens: Sequence[Token], index: int) -> bool:
    """Whether SQL expects a table at this token."""
    if index == 0:
        return False
    previous = tokens[index - 1]
    if previous.word == "FROM":
        return not _no_clause(level, tokens[index - 2] if index > 1 else None)
    if previous.text == "," and previous.kind == "operator":
        return level.clause == "FROM"
    return previous.word in BEFORE_TABLE or (previous.text == "(" and level.table)


def _defines(tokens: Sequence[Token], index: int) -> bool:
    """Whether a CTE begins here: [RECURSIVE] name AS ( or [RECURSIVE] name (…) AS (."""
    if index < len(tokens) and tokens[index].word == "RECURSIVE":
        index += 1
    after = tokens[index + 1] if index + 1 < len(tokens) else None
    return after is not None and (after.word == "AS" or after.text == "(" or after.word == "USING")


def _is_call(tokens: Sequence[Token], index: int) -> bool:
    if tokens[index].kind not in ("name", "quoted") or tokens[index].value.lower() not in table_functions():
        return False
    return index + 2 < len(tokens) and tokens[index + 1].text == "(" and tokens[index + 2].kind == "string"


def _closing(tokens: Sequence[Token], opening: int) -> int:
    """The index of the bracket that closes the one at `opening`; the last token if it is never closed."""
    depth = 0
    for index in range(opening, len(tokens)):
        if tokens[index].kind == "operator":
            depth += (tokens[index].text in "([{") - (tokens[index].text in ")]}")
            if depth == 0:
                return index
    return len(tokens) - 1


def _has_alias(tokens: Sequence[Token], index: int) -> bool:
    if index >= len(tokens):
        return False
    token = tokens[index]
    return token.word == "AS" or token.kind in ("quoted", "string") or bool(token.word and token.word not in NO_ALIAS)


def _call(source: Source, tokens: Sequence[Token], ctes: list[Cte], alias: bool) -> Call:
    name, opening, model, closing = tokens[0], tokens[1], tokens[2], tokens[-1]
    if closing.text != ")" or closing.kind != "operator":
        raise SqlError('this "(" is never closed', place=source.place(opening.start))
    function = name.value.lower()
    arguments = _arguments(source, tokens[2:])
    argument: Span | None = None
    named: dict[str, tuple[Span, Span]] = {}
    for words in arguments[1:]:
        span = (words[0].start, words[-1].end)
        if len(words) > 1 and words[0].kind in ("name", "quoted") and words[1].text in (":=", "=>", "="):
            key, key_span = words[0].value.lower(), (words[0].start, words[0].end)
            if len(words) == 2:
                raise SqlError(f"expected a value for {key}", place=source.place(words[1].end))
            if key in named:
                raise SqlError(f"{key} is given twice", place=source.place(key_span[0], len(words[0].text)))
            named[key] = key_span, (words[2].start, span[1])
        elif argument is None and not named:
            argument = span
        else:
            raise SqlError(
                f"{function} takes a model and one table; further arguments must be named",
                place=source.place(span[0], span[1] - span[0]),
                help=f"for example: {function}('{model.value}', questions, k := 10)",
            )
    if len(arguments[0]) > 1:
        extra = arguments[0][1]
        raise SqlError("expected the model name as a single string", place=source.place(extra.start, len(extra.text)))
    span = (name.start, closing.end)
    return Call(source, function, span, model.value, (model.start, model.end), argument, named, tuple(ctes), alias)


def _arguments(source: Source, tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens of each argument, given the tokens after the opening parenthesis."""
    found: list[list[Token]] = [[]]
    depth = 0
    for token in tokens[:-1]:
        if token.kind == "operator":
            depth += (token.text in "([{") - (token.text in ")]}")
            if token.text == "," and depth == 0:
                found.append([])
                continue
        found[-1].append(token)
    if not found[-1]:
        raise SqlError("expected an argument", place=source.place(tokens[-1].start))
    for argument in found:
        if not argument:
            raise SqlError("an argument is missing between two commas", place=source.place(tokens[0].start))
    return found
