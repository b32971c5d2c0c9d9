"""The grammar of our statements, parsed from DuckDB's tokens. All other statements are passed through unchanged."""

from __future__ import annotations

from difflib import get_close_matches

from graphlearn.errors import GraphLearnError, SqlError, raise_all
from graphlearn.sql.diagnose import suggest
from graphlearn.sql.reader import Reader
from graphlearn.sql.semicolon import begins_statement, missing_semicolon
from graphlearn.sql.source import Source, Token
from graphlearn.sql.statements import (
    CreateModel,
    DropModel,
    ExplainModel,
    InputText,
    OptionText,
    Passthrough,
    Span,
    Statement,
)
from graphlearn.sql.words import CREATABLE, QUERY_WORDS

CREATE_FORM = "CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name TYPE type [OPTIONS (key = value, …)] AS query"


def parse(source: Source) -> list[Statement]:
    """The statements of a text, in order. Raises SqlError for the first malformed one, with further errors in `others`.

    DuckDB's own statements are not parsed here; DuckDB checks them when they run.
    """
    statements: list[Statement] = []
    errors: list[GraphLearnError] = []
    for tokens in _split(source.tokens):
        try:
            statements.append(_statement(source, tokens))
        except SqlError as error:
            errors.append(error)
    raise_all(errors)
    return statements


def _split(tokens: tuple[Token, ...]) -> list[list[Token]]:
    """The tokens of each statement, without empty statements."""
    found: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == ";" and token.kind == "operator":
            found.append([])
        else:
            found[-1].append(token)
    return [statement for statement in found if statement]


def _statement(source: Source, tokens: list[Token]) -> Statement:
    reader = _CreateReader(source, tokens)
    start, end = tokens[0].start, tokens[-1].end
    match reader.words(6):
        case ["EXPLAIN", "ANALYZE", "CREATE", "MODEL" | "OR", *_] if "MODEL" in reader.words(6):
            reader.fail("EXPLAIN ANALYZE does not support CREATE MODEL", tokens[1], "write EXPLAIN CREATE MODEL …")
        case ["EXPLAIN", "CREATE", *_]:
            reader.take("EXPLAIN")
            if reader.at_model():
                return ExplainModel(source, start, end, _create(source, tokens[1:]))
        case ["REFRESH", second, *_]:
            if second in ("MODEL", "") or get_close_matches(second, ["MODEL"], 1, 0.7):
                reader.fail(
                    "REFRESH MODEL is not supported yet",
                    tokens[0],
                    "CREATE OR REPLACE MODEL retrains a model whose input has changed",
                )
        case ["CREATE", *_]:
            if reader.at_model():
                return _create(source, tokens)
        case ["DROP", *_]:
            if reader.at_model():
                return _drop(source, tokens)
    return Passthrough(source, start, end, tokens[0].word or tokens[0].text)


def _create(source: Source, tokens: list[Token]) -> CreateModel:
    reader = _CreateReader(source, tokens)
    reader.take("CREATE")
    or_replace = reader.accept("OR", "REPLACE")
    reader.take("MODEL")
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    if or_replace and if_not_exists:
        reader.fail("OR REPLACE cannot be combined with IF NOT EXISTS", reader.before(), "remove one of them")
    name, name_span = reader.name("TYPE")
    reader.take("TYPE", CREATE_FORM)
    family, family_span = reader.family()
    options: tuple[OptionText, ...] = ()
    if reader.accept("OPTIONS"):
        options = reader.options()
    elif (token := reader.peek()) and reader.peek_text(1) == "(" and token.word != "AS":
        reader.expected("OPTIONS")
    inputs = reader.inputs()
    return CreateModel(
        source,
        tokens[0].start,
        tokens[-1].end,
        name,
        name_span,
        or_replace,
        if_not_exists,
        family,
        family_span,
        options,
        inputs,
    )


def _drop(source: Source, tokens: list[Token]) -> DropModel:
    reader = _CreateReader(source, tokens)
    reader.take("DROP")
    reader.take("MODEL")
    if_exists = reader.accept("IF", "EXISTS")
    name, span = reader.name("")
    if token := reader.peek():
        if begins_statement(token):
            raise missing_semicolon(source, token)
        reader.fail(f'unexpected "{token.text}" after the name', token, "DROP MODEL [IF EXISTS] name")
    return DropModel(source, tokens[0].start, tokens[-1].end, name, span, if_exists)


class _CreateReader(Reader):
    """Reads the clauses of our statements."""

    def at_model(self) -> bool:
        """Whether the next words are CREATE or DROP … MODEL. Raises SqlError for a misspelt MODEL."""
        skip = 3 if self.words(3)[1:] == ["OR", "REPLACE"] else 1
        token = self.peek(skip)
        if token is None:
            return False
        if token.word in ("TEMP", "TEMPORARY", "LOCAL", "GLOBAL") and (self.peek(skip + 1) or token).word == "MODEL":
            self.fail("a model cannot be temporary", token, f"remove {token.text}")
        if token.word == "MODEL":
            return True
        if token.word and token.word not in CREATABLE and get_close_matches(token.word, ["MODEL"], 1, 0.6):
            self.fail(f'expected MODEL, found "{token.text}"', token, suggest(["MODEL"]))
        return False

    def family(self) -> tuple[str, Span]:
        """Read the type of a model. Returns it in lower case."""
        if self.peek() and self.words(1)[0] in ("AS", "OPTIONS") and self.peek_text(1) != "AS":
            self.expected("a model type", CREATE_FORM)
        token = self.identifier("a model type")
        return token.value.lower(), (token.start, token.end)

    def options(self) -> tuple[OptionText, ...]:
        """Read `( key = value, … )`."""
        opening = self.symbol("(")
        found: list[OptionText] = []
        while self.peek_text() != ")" or found:
            found.append(self._option(opening))
            if self.peek_text() == ")":
                break
            self.symbol(",")
        self.symbol(")")
        return tuple(found)

    def _option(self, opening: Token) -> OptionText:
        if self.peek() is None:
            self.fail('this "(" is never closed', opening)
        key = self.peek()
        if key is None or key.kind not in ("name", "quoted"):
            self.expected("an option name")
        self.position += 1
        sign = self.peek_text()
        if sign != "=":
            self.expected('"="', "write options as key = value")
        self.position += 1
        value = self._value(opening)
        return OptionText(key.value.lower(), (key.start, key.end), self.source.sql[value[0] : value[1]], value)

    def _value(self, opening: Token) -> Span:
        """Skip a value, up to a comma or closing parenthesis at this level."""
        start = self.position
        while (token := self.peek()) is not None and token.text not in (",", ")"):
            follower = self.peek(1)
            if self.position > start and token.kind == "name" and follower is not None and follower.text == "=":
                self.fail(f"a comma is missing before {token.text}", token)
            if token.word == "AS" and follower is not None and follower.word in QUERY_WORDS:
                self.fail('this "(" is never closed', opening, f"close it before {token.text} {follower.text}")
            self.skip_group()
        if self.peek() is None:
            self.fail('this "(" is never closed', opening)
        if self.position == start:
            self.expected("a value")
        return self.tokens[start].start, self.before().end

    def inputs(self) -> tuple[InputText, ...]:
        """Read `AS query` or `AS (role AS (query), …)`, up to the end of the statement."""
        token = self.peek()
        if token is None or token.word != "AS":
            if token is not None and token.word in QUERY_WORDS:
                self.fail("AS is missing before the query", token, f"write AS {token.text}")
            self.expected("AS" if self.before().text == ")" else "OPTIONS or AS", CREATE_FORM)
        self.position += 1
        first, inner = self.peek(), self.peek(1)
        if first is None:
            self.expected("a query")
        if first.text == "(" and inner is not None:
            if inner.text == ")":
                self.fail("expected a query, found nothing in the parentheses", inner)
            if inner.kind in ("name", "quoted") and self._names_a_role(inner):
                return self._roles(first)
        self.check_query(first)
        span = (first.start, self.tokens[-1].end)
        while self.peek():
            self.skip_group()
        return (InputText(None, self.source.sql[slice(*span)], span, span),)

    def _names_a_role(self, inner: Token) -> bool:
        if inner.kind == "quoted":
            return True
        following = self.peek(2)
        return inner.word not in QUERY_WORDS and following is not None and following.text.upper() in ("AS", "(")

    def _roles(self, opening: Token) -> tuple[InputText, ...]:
        self.position += 1
        found: list[InputText] = []
        while True:
            if self.peek() is None:
                self.fail('this "(" is never closed', opening)
            role = self.identifier("a role")
            if any(other.role == role.value.lower() for other in found):
                self.fail(f"role {role.value} is given twice", role)
            self.take("AS", "write inputs as role AS (query)")
            parenthesis = self.peek()
            if parenthesis is None or parenthesis.text != "(":
                self.expected('"("', "write inputs as role AS (query)")
            first = self.peek(1)
            if first is None or first.text == ")":
                self.fail(f"the query of role {role.value} is empty", first or parenthesis)
            self.check_query(first)
            self.skip_group()
            last = self.tokens[self.position - 2]
            span = (first.start, last.end)
            found.append(InputText(role.value.lower(), self.source.sql[slice(*span)], span, (role.start, role.end)))
            if self.peek_text() != ",":
                break
            self.position += 1
        if self.peek() is None:
            self.fail('this "(" is never closed', opening)
        self.symbol(")")
        if extra := self.peek():
            if begins_statement(extra):
                raise missing_semicolon(self.source, extra)
            self.fail(f'unexpected "{extra.text}" after the inputs', extra)
        return tuple(found)

    def check_query(self, first: Token) -> None:
        """Raise SqlError unless a query can begin with this token."""
        if first.word in QUERY_WORDS or first.text == "(":
            return
        if first.kind == "string" or (first.kind in ("name", "quoted") and self._stands_alone(first)):
            self.fail("expected a query, found a name", first, f"write FROM {first.text}")
        near = get_close_matches(first.word, sorted(QUERY_WORDS), 1, 0.7) if first.word else []
        help = suggest(near) if near else "a query begins with SELECT, FROM or WITH"
        self.fail(f'expected a query, found "{first.text}"', first, help)

    def _stands_alone(self, first: Token) -> bool:
        """Whether the rest can only be a name, such as schema.table."""
        rest = self.tokens[self.tokens.index(first) + 1 :]
        return all(t.text in (".", ")") or t.kind == "quoted" for t in rest[:1])
