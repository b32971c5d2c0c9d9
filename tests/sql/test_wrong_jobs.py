"""Wrong jobs and the exact text that a user sees, in tests/fixtures/wrong_jobs.

A file consists of `-- job`, the job, `-- expected` and the text. Words after `-- job` change how it runs: `crlf` (line
ends), `bom` (a byte order mark in front), `set key=value` (an override). <folder> stands for the current folder.
After an intended change of a message, regenerate the expected texts and read the diff:
PYTHONPATH=tests python tests/sql/test_wrong_jobs.py
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from cases.paths import FIXTURES

from graphlearn.errors import GraphLearnError
from graphlearn.events import silent
from graphlearn.session import Session, connect
from graphlearn.storage.artifacts import ArtifactStore

FOLDER = FIXTURES / "wrong_jobs"
SETUP = """
CREATE TABLE triples (head VARCHAR, relation VARCHAR, tail VARCHAR, split VARCHAR);
INSERT INTO triples SELECT 'e' || i, 'r' || i % 2, 'e' || (i * 7 + 1) % 12, 'train' FROM range(12) t(i);
CREATE TABLE questions AS SELECT 'e1' AS head, 'r0' AS relation;
CREATE TABLE numbers AS SELECT 1 AS head, 'r' AS relation, 'x' AS tail;
CREATE SCHEMA kg;
CREATE MODEL kg.medical TYPE distmult OPTIONS (dim = 4, epochs = 1, batch_size = 4) AS
  SELECT head, relation, tail FROM triples;
"""


@dataclass(frozen=True)
class WrongJob:
    """A fixture file."""

    path: Path
    flags: str
    job: str
    expected: str

    @classmethod
    def read(cls, path: Path) -> WrongJob:
        """Read the two sections of a file."""
        header, _, rest = path.read_text(encoding="utf-8").partition("\n")
        job, _, expected = rest.partition("\n-- expected\n")
        return cls(path, header.removeprefix("-- job").strip(), job, expected.rstrip("\n"))

    def run(self, session: Session) -> str:
        """What the user sees. The current folder must be a temporary one."""
        text = self.job.replace("\n", "\r\n") if "crlf" in self.flags else self.job
        Path("job.sql").write_bytes((b"\xef\xbb\xbf" if "bom" in self.flags else b"") + text.encode())
        _, _, setting = self.flags.partition("set ")
        key, _, value = setting.partition("=")
        try:
            session.run_file("job.sql", overrides={key: value} if key else None)
        except GraphLearnError as error:
            texts = [each.render() for each in (error, *error.others)]
            return "\n\n".join(texts).replace(str(Path.cwd()), "<folder>")
        return "no error"


def wrong_jobs() -> list[WrongJob]:
    """All fixture files, by name."""
    return [WrongJob.read(path) for path in sorted(FOLDER.glob("*.txt"))]


@contextmanager
def workspace() -> Iterator[Session]:
    """A session with the tables and the model that the jobs use, in a temporary folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, connect(emit=silent) as session:
        os.chdir(Path(folder).resolve())
        try:
            session.sql(SETUP)
            session.sql("COPY triples TO 'triples.parquet'")
            yield session
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with workspace() as opened:
        yield opened


@pytest.mark.parametrize("job", wrong_jobs(), ids=lambda job: job.path.stem)
def test_message_is_exactly_as_expected(session: Session, job: WrongJob) -> None:
    before = state(session)
    assert job.run(session) == job.expected
    assert state(session) == before


def test_there_are_enough() -> None:
    assert len(wrong_jobs()) >= 45


def test_every_caret_is_under_text() -> None:
    for job in wrong_jobs():
        lines = job.expected.splitlines()
        for shown, carets in pairwise(lines):
            if "| " in shown and carets.rstrip().endswith("^") and "^" not in shown:
                start, end = carets.index("^"), carets.rindex("^") + 1
                assert start <= len(shown), job.path.stem
                assert shown[start:end].strip() or start == len(shown.rstrip()), job.path.stem


def state(session: Session) -> list[object]:
    """Everything that a refused job must not change."""
    settings = "SELECT name, value FROM duckdb_settings() WHERE name NOT LIKE '%memory%' ORDER BY name"
    models = [(a.model, a.version) for a in ArtifactStore(session.workspace.folder).models()]
    return [models, *(session.connection.execute(q).fetchall() for q in ("SHOW TABLES", settings))]


def main() -> None:
    """Regenerate the expected texts."""
    with workspace() as session:
        for job in wrong_jobs():
            text = f"-- job {job.flags}".rstrip() + f"\n{job.job}\n-- expected\n{job.run(session)}\n"
            job.path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
