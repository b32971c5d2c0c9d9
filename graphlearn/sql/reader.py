"""Reads the tokens of one statement, with errors that say what was expected."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NoReturn

from graphlearn.errors import SqlError
from graphlearn.sql.diagnose import suggest
from graphlearn.sql.source import Source, Token
from graphlearn.sql.statements import Span
from graphlearn.sql.words import RESERVED

OPENING = {"(": ")", "[": "]", "{": "}"}


class Reader:
    """A cursor over the tokens of one statement."""

    def __init__(self, source: Source, tokens: list[Token]) -> None:
        self.source = source
        self.tokens = tokens
        self.position = 0

    def peek(self, ahead: int = 0) -> Token | None:
        """The token `ahead` positions after the next one; None after the end."""
        at = self.position + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def peek_text(self, ahead: int = 0) -> str:
        """The text of that token; empty after the end."""
        token = self.peek(ahead)
        return token.text if token else ""

    def words(self, count: int) -> list[str]:
        """The next tokens as bare words in upper case; a token that is not a bare word is an empty string."""
        return [t.word for t in self.tokens[self.position : self.position + count]]

    def before(self) -> Token:
        """The last token read."""
        return self.tokens[max(0, self.position - 1)]

    def fail(self, message: str, token: Token, help: str | None = None) -> NoReturn:
        """Raise SqlError at the token."""
        raise SqlError(message, place=self.source.place(token.start, len(token.text)), help=help)

    def expected(self, what: str, help: str | None = None) -> NoReturn:
        """Raise SqlError: `what` was expected instead of the next token."""
        token = self.peek()
        if token is None:
            place = self.source.place(self.tokens[-1].end)
            raise SqlError(f"expected {what}, found the end of the statement", place=place, help=help)
        if token.word and get_close_matches(token.word, [what], 1, 0.6):
            help = suggest([what])
        self.fail(f'expected {what}, found "{token.text}"', token, help)

    def accept(self, *words: str) -> bool:
        """Read the words if they are next."""
        if self.words(len(words)) != list(words):
            return False
        self.position += len(words)
        return True

    def take(self, word: str, help: str | None = None) -> None:
        """Read the word or raise SqlError."""
        if not self.accept(word):
            self.expected(word, help)

    def symbol(self, text: str) -> Token:
        """Read an operator such as "(" or raise SqlError."""
        token = self.peek()
        if token is None or token.text != text:
            self.expected(f'"{text}"')
        self.position += 1
        return token

    def identifier(self, what: str) -> Token:
        """Read a name, bare or in double quotes, or raise SqlError."""
        token = self.peek()
        if token is None or token.kind not in ("name", "quoted"):
            if token is not None and token.kind == "string":
                self.fail(
                    f"{what} cannot be in single quotes", token, f'write {token.value}, or "{token.value}" if needed'
                )
            self.expected(what)
        if token.word in RESERVED:
            self.fail(f'"{token.text}" is a reserved word', token, f'put it in double quotes: "{token.text}"')
        if token.kind == "quoted" and not token.value.strip():
            self.fail("a name cannot be empty", token)
        self.position += 1
        return token

    def name(self, follows: str) -> tuple[str, Span]:
        """Read a name with dots. `follows` is the keyword after it, which may also be the name: MODEL type TYPE …"""
        token, after = self.peek(), self.peek(1)
        if token and follows and token.word == follows and not (after and (after.word == follows or after.text == ".")):
            self.fail(f"expected a model name, found {follows}", token)
        first = last = self.identifier("a model name")
        parts = [first.value]
        while self.peek_text() == ".":
            self.position += 1
            last = self.identifier("a name after the dot")
            parts.append(last.value)
        return ".".join(parts), (first.start, last.end)

    def skip_group(self) -> None:
        """Read one token or a whole group in brackets. Raises SqlError for brackets that do not match."""
        open_brackets: list[Token] = []
        while (token := self.peek()) is not None:
            self.position += 1
            if token.kind != "operator":
                pass
            elif token.text in OPENING:
                open_brackets.append(token)
            elif token.text in OPENING.values():
                if not open_brackets:
                    self.fail(f'unexpected "{token.text}"', token)
                wanted = OPENING[open_brackets.pop().text]
                if token.text != wanted:
                    self.fail(f'expected "{wanted}", found "{token.text}"', token)
            if not open_brackets:
                return
        self.fail(f'this "{open_brackets[-1].text}" is never closed', open_brackets[-1])
