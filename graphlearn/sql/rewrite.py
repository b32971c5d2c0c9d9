"""SQL assembled from pieces of the user's text and text of ours; maps offsets back to the user's text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from graphlearn.errors import Place
from graphlearn.sql.source import Source, Token


@dataclass(frozen=True, slots=True)
class Piece:
    """`text` represents the user's text at `start`: character by character if `verbatim`, otherwise as a whole."""

    text: str
    start: int
    length: int
    verbatim: bool


@dataclass(frozen=True)
class Rewritten:
    """A text for DuckDB, made of pieces. `+` joins two of them."""

    source: Source
    pieces: tuple[Piece, ...]

    @classmethod
    def verbatim(cls, source: Source, start: int, end: int) -> Rewritten:
        """The user's text from `start` up to `end`."""
        return cls(source, (Piece(source.sql[start:end], start, end - start, True),))

    def __add__(self, other: Rewritten | str) -> Rewritten:
        """Join two texts. A plain string is text of ours, placed after the last piece."""
        if isinstance(other, str):
            last = self.pieces[-1]
            return Rewritten(self.source, (*self.pieces, Piece(other, last.start + last.length, 0, False)))
        return Rewritten(self.source, self.pieces + other.pieces)

    def __radd__(self, prefix: str) -> Rewritten:
        """Prepend text of ours."""
        return Rewritten(self.source, (Piece(prefix, self.pieces[0].start, 0, False), *self.pieces))

    def replace(self, start: int, end: int, text: str) -> Rewritten:
        """Replace the user's text from `start` up to `end`, which lies inside one verbatim piece, with `text`."""
        pieces: list[Piece] = []
        for piece in self.pieces:
            if piece.verbatim and piece.start <= start and end <= piece.start + piece.length:
                cut, rest = start - piece.start, end - piece.start
                pieces += [
                    Piece(piece.text[:cut], piece.start, cut, True),
                    Piece(text, start, end - start, False),
                    Piece(piece.text[rest:], end, piece.length - rest, True),
                ]
            else:
                pieces.append(piece)
        return Rewritten(self.source, tuple(pieces))

    @cached_property
    def text(self) -> str:
        """The text for DuckDB."""
        return "".join(piece.text for piece in self.pieces)

    @cached_property
    def tokens(self) -> list[Token]:
        """The user's tokens in the verbatim pieces."""
        spans = sorted((p.start, p.start + p.length) for p in self.pieces if p.verbatim and p.length)
        return [token for span in spans for token in self.source.between(*span)]

    def place(self) -> Place:
        """The place of all the user's text in it, for errors about the query as a whole."""
        shown = [p for p in self.pieces if p.verbatim and p.length]
        if not shown:
            return self.source.place(self.pieces[0].start)
        return self.source.place(shown[0].start, shown[-1].start + shown[-1].length - shown[0].start)

    def original(self, offset: int) -> int:
        """The offset in the user's text of an offset of `text`, both in characters."""
        return self.span(offset, 1)[0]

    def span(self, offset: int, length: int) -> tuple[int, int]:
        """(start, length) in the user's text of a span of `text`; a replaced piece counts as a whole."""
        at = 0
        for piece in self.pieces:
            if offset < at + len(piece.text):
                if not piece.verbatim:
                    return piece.start, piece.length
                inside = offset - at
                return piece.start + inside, min(length, piece.length - inside)
            at += len(piece.text)
        last = self.pieces[-1]
        return last.start + last.length, 1

    def is_after_end(self, offset: int) -> bool:
        """Whether a byte offset of `text` lies after the user's last character, in text of ours."""
        last = max((i for i, piece in enumerate(self.pieces) if piece.verbatim and piece.text), default=-1)
        return offset >= len("".join(piece.text for piece in self.pieces[: last + 1]).encode())

    def byte_span(self, offset: int, length: int) -> tuple[int, int]:
        """Like `span`, for a span in bytes of `text` in UTF-8, as DuckDB counts."""
        data = self.text.encode()
        start = len(data[:offset].decode(errors="ignore"))
        return self.span(start, len(data[offset : offset + length].decode(errors="ignore")))
