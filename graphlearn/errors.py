"""The exceptions, and how they are printed.

GraphLearnError
├── UserError            the request is wrong; nothing was started             (exit code 2)
│   ├── SqlError         a statement does not parse or bind
│   ├── OptionError      an option is unknown, of the wrong type or out of range
│   ├── InputError       a query lacks a column, returns no rows or unusable values
│   ├── ModelNotFound    no model has that name
│   ├── ModelExists      the name is taken
│   └── ResourceError    the job would not fit in memory or on disk
├── WorkspaceError       locked by another writer, read-only, or damaged       (exit code 2)
│   └── ArtifactError    a stored model is damaged or was written by a newer version
├── JobError             a job failed after it had started                     (exit code 1)
│   └── TrainingDiverged the loss or the weights are no longer finite
└── Interrupted          stopped by the user; holds the run to resume          (exit code 130)

An error prints as a headline, the place in the user's file if there is one, and a line of help.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters, changes of direction and halves of surrogate pairs escaped (\\x1b).

    Nothing that is printed can then move the cursor, change colours or reorder a line, wherever it came from.
    """
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A span of text that the user wrote. Offsets are in characters from the start of the whole text."""

    file: str
    text: str
    start: int
    length: int = 1

    @property
    def line(self) -> int:
        """1-based line number."""
        return self.text.count("\n", 0, self.start) + 1

    @property
    def column(self) -> int:
        """1-based column, in characters."""
        return self.start - (self.text.rfind("\n", 0, self.start) + 1) + 1

    def render(self) -> str:
        """The line of the place with carets under the span. Long lines are cut around the carets."""
        begin = self.text.rfind("\n", 0, self.start) + 1
        end = self.text.find("\n", self.start)
        line = self.text[begin : end if end >= 0 else len(self.text)].rstrip("\r")
        shift = self.start - begin
        width = max(1, min(self.length, len(line) - shift))
        if len(line) > 160:
            cut = max(0, shift - 60)
            line, shift = ("…" if cut else "") + line[cut : cut + 140] + "…", shift - cut + (1 if cut else 0)
            width = max(1, min(width, len(line) - shift))
        pad = "".join("\t" if c == "\t" else " " for c in line[:shift])
        number = str(self.line)
        margin = " " * len(number)
        return (
            f"{margin}--> {self.file}:{self.line}:{self.column}\n"
            f"{margin} |\n{number} | {line}\n{margin} | {pad}{'^' * width}"
        )


class GraphLearnError(Exception):
    """Base class of all exceptions that GraphLearn raises."""

    exit_code = 1

    def __init__(self, message: str, *, place: Place | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.help = help
        self.others: tuple[GraphLearnError, ...] = ()
        """Further errors in the same file."""

    def at(self, place: Place | None) -> GraphLearnError:
        """This error with a place, unless it already has one."""
        if self.place is None:
            self.place = place
        return self

    def render(self) -> str:
        """The text to print: headline, place with carets, help."""
        parts = [f"error: {self.message}"]
        margin = ""
        if self.place is not None:
            parts.append(self.place.render())
            margin = " " * len(str(self.place.line))
            if self.help:
                parts.append(f"{margin} |")
        if self.help:
            parts.append(f"{margin}{' ' if margin else '  '}= help: {self.help}")
        return printable("\n".join(parts))

    def __str__(self) -> str:
        return self.render().removeprefix("error: ")


class UserError(GraphLearnError):
    """The request is wrong; nothing was started."""

    exit_code = 2


class SqlError(UserError):
    """A statement does not parse or bind."""


class OptionError(UserError):
    """An option is unknown, of the wrong type or out of range. `key` names it."""

    def __init__(
        self, message: str, *, key: str | None = None, place: Place | None = None, help: str | None = None
    ) -> None:
        super().__init__(message, place=place, help=help)
        self.key = key


class InputError(UserError):
    """An input query lacks a column, or returns no rows or unusable values. `role` names the input."""

    def __init__(
        self, message: str, *, role: str | None = None, place: Place | None = None, help: str | None = None
    ) -> None:
        super().__init__(message, place=place, help=help)
        self.role = role


class ModelNotFound(UserError):
    """No model has that name."""


class ModelExists(UserError):
    """The name is taken."""


class ResourceError(UserError):
    """The job would not fit in memory or on disk, and is refused before it starts."""


class WorkspaceError(GraphLearnError):
    """The workspace is locked by another writer, read-only, or damaged."""

    exit_code = 2


class ArtifactError(WorkspaceError):
    """A stored model is damaged, incomplete or was written by a newer version."""


class JobError(GraphLearnError):
    """A job failed after it had started."""


class TrainingDiverged(JobError):
    """The loss or the weights are no longer finite."""


class Interrupted(GraphLearnError):
    """Stopped by the user. `run` names the run to resume, if it has a checkpoint."""

    exit_code = 130

    def __init__(self, message: str, *, run: str | None = None, help: str | None = None) -> None:
        super().__init__(message, help=help)
        self.run = run


def raise_all(errors: list[GraphLearnError]) -> None:
    """Raise the first error with the rest in its `others`. Does nothing for an empty list."""
    if errors:
        first, *others = errors
        first.others += tuple(others)
        raise first


def nearest(word: str, known: list[str], count: int = 3) -> list[str]:
    """The known words most similar to `word`, best first."""
    from difflib import get_close_matches

    lowered = {k.lower(): k for k in known}
    return [lowered[m] for m in get_close_matches(word.lower(), list(lowered), n=count, cutoff=0.6)]


def did_you_mean(word: str, known: list[str]) -> str:
    """A line of help: the most similar known words, or all of them if none is similar."""
    close = nearest(word, known)
    if close:
        return f"did you mean: {', '.join(close)}?"
    return f"known: {', '.join(sorted(known))}" if known else "there are none yet"
