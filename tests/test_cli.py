"""The command line, as used by people and by scripts."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases.storage import write_format_1
from click.testing import CliRunner, Result

from graphlearn import cli, running
from graphlearn.cli import main
from graphlearn.errors import SqlError
from graphlearn.storage import database
from graphlearn.storage.runs import RunFolder
from graphlearn.storage.workspace import Workspace

JOB = """
SET VARIABLE path = 'nowhere.parquet';
CREATE OR REPLACE TABLE t AS FROM read_parquet(getvariable('path'));
CREATE OR REPLACE MODEL kg.toy TYPE distmult OPTIONS (dim = 8, epochs = 2, negatives = 4) AS FROM t;
SELECT split, count FROM evaluate('kg.toy') WHERE relation IS NULL AND side = 'both';
"""
ENDLESS = """
CREATE OR REPLACE MODEL long TYPE distmult OPTIONS (dim = 8, epochs = 1000000, negatives = 4, patience = 0)
AS FROM 'toy.parquet';
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, catch_exceptions=False)


def write_toy(folder: Path) -> None:
    rows = [(f"e{i}", f"r{j}", f"e{(i * 3 + j) % 60}") for i in range(60) for j in range(4)]
    head, relation, tail = (list(column) for column in zip(*rows, strict=True))
    pq.write_table(pa.table({"head": head, "relation": relation, "tail": tail}), folder / "toy.parquet")
    (folder / "job.sql").write_text(JOB)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job that has run; tests must not change its models."""
    folder = tmp_path_factory.mktemp("home")
    write_toy(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = run("run", "job.sql", "--set", "path=toy.parquet")
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# running


def test_run_trains_shows_rows_and_draws(fresh: Path) -> None:
    done = run("run", "job.sql", "--set", "path=toy.parquet", "--set", "kg.toy.dim=4")
    assert done.exit_code == 0, done.output
    assert "│ test" in done.stdout
    assert "kg.toy trained as version 1" in done.stderr
    assert "kg.toy" not in done.stdout, "messages go to stderr"
    assert list((fresh / "kg.graphlearn" / "runs").glob("*/report.png"))
    manifest = json.loads(run("show", "kg.toy", "--json").stdout)
    assert manifest["options"]["dim"] == 4


def test_an_unchanged_job_is_not_run_again(here: Path) -> None:
    done = run("run", "job.sql", "--set", "path=toy.parquet")
    assert done.exit_code == 0
    assert "kg.toy is up to date (version 1)" in done.stderr
    assert "│ test" in done.stdout, "queries still answer"


def test_quiet_says_nothing(here: Path) -> None:
    done = run("run", "job.sql", "--set", "path=toy.parquet", "--quiet")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert "│ test" in done.stdout


def test_json_is_json_lines_and_nothing_else(fresh: Path) -> None:
    done = run("run", "job.sql", "--set", "path=toy.parquet", "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    records = [json.loads(line) for line in done.stdout.splitlines()]
    names = [record["event"] for record in records]
    assert names[0] == "job_started"
    assert names[-2:] == ["job_finished", "rows"]
    assert {row["split"] for row in records[-1]["rows"]} == {"valid", "test"}


def test_tensorboard_files_are_in_the_run_folder(home: Path) -> None:
    pytest.importorskip("tensorboard")
    assert list((home / "kg.graphlearn" / "runs").glob("*/tensorboard/events.out.tfevents.*"))


def test_all_files_are_parsed_before_the_first_runs(fresh: Path) -> None:
    (fresh / "second.sql").write_text("SELECT 1;\nSELEC 1;\n")
    done = run("run", "job.sql", "second.sql", "missing.sql", "--set", "path=toy.parquet")
    assert done.exit_code == 2
    assert "second.sql:2:1" in done.stderr
    assert "cannot read missing.sql: No such file" in done.stderr
    assert not (fresh / "kg.graphlearn").exists()


def test_select_and_resume_choose_among_files(fresh: Path) -> None:
    for name in ("one", "two"):
        (fresh / f"{name}.sql").write_text(
            f"CREATE MODEL {name} TYPE cp OPTIONS (dim = 4, epochs = 1, negatives = 4) AS FROM 'toy.parquet';"
        )
    done = run("run", "one.sql", "two.sql", "--select", "ONE")
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["model"] for line in run("models", "--json").stdout.splitlines()] == ["one"]
    assert "did you mean: two" in run("run", "one.sql", "two.sql", "--select", "twoo").stderr
    assert run("run", "one.sql", "two.sql").exit_code == 0
    assert "up to date" in run("run", "one.sql", "two.sql").stderr


def test_a_missing_file_creates_no_workspace(fresh: Path) -> None:
    assert run("run", "missing.sql").exit_code == 2
    assert not (fresh / "kg.duckdb").exists()


def test_a_mistake_points_into_the_file(fresh: Path) -> None:
    (fresh / "typo.sql").write_text(JOB.replace("epochs = 2", "epoch = 2"))
    done = run("run", "typo.sql", "--set", "path=toy.parquet")
    assert done.exit_code == 2
    assert "--> typo.sql:4:" in done.stderr
    assert "^^^^^" in done.stderr
    assert "did you mean: epochs" in done.stderr
    assert done.stdout == ""
    assert not (fresh / "kg.graphlearn" / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "ray"], "cannot run on 'ray'"),
        (["--set", "dim"], "--set takes KEY=VALUE"),
        (["--set", "=3"], "--set takes KEY=VALUE"),
        (["--set", "dim=3", "--set", "dim=4"], "--set dim is given twice"),
        (["--set", "path=toy.parquet", "--set", "dimm=4"], "did you mean: dim"),
        (["--set", "path=toy.parquet", "--set", "dim=big"], "dim takes a whole number"),
        (["--set", "path=toy.parquet", "--select", "kg.toi"], "did you mean: kg.toy"),
        (["--set", "path=toy.parquet", "--resume", "nothing"], 'there is no run "nothing"'),
        (["--set", "path=other.parquet"], "other.parquet"),
        (["--workspace", "no/such/folder.duckdb"], "does not exist"),
        (["--nonsense"], "No such option"),
    ],
)
def test_what_cannot_start_exits_with_2(here: Path, arguments: list[str], message: str) -> None:
    done = run("run", "job.sql", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stdout == ""


def test_a_job_that_fails_exits_with_1(fresh: Path) -> None:
    (fresh / "wild.sql").write_text(
        "CREATE MODEL wild TYPE transe OPTIONS (learning_rate = 1e38, epochs = 3) AS FROM 'toy.parquet';"
    )
    done = run("run", "wild.sql")
    assert done.exit_code == 1, done.output
    assert "learning_rate" in done.stderr
    assert "failed" in run("runs").stdout


def test_explain_prints_the_drawing(fresh: Path) -> None:
    (fresh / "explain.sql").write_text("EXPLAIN SELECT 1;\nEXPLAIN CREATE MODEL m TYPE cp AS FROM 'toy.parquet';")
    done = run("run", "explain.sql")
    assert done.exit_code == 0, done.output
    assert "explain_key" not in done.stdout
    assert "Projection" in done.stdout
    assert "encode" in done.stdout


def test_a_picture_that_fails_does_not_fail_the_job(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("graphlearn.report.draw_report", fail)
    done = run("run", "job.sql", "--set", "path=toy.parquet")
    assert done.exit_code == 0
    assert "warning: the picture could not be drawn: ValueError: no ink" in done.stderr


def test_several_errors_of_a_file_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    error = SqlError("first")
    error.others = (SqlError("second"), SqlError("third"))
    error.add_note("and a note")
    cli.report(error)
    assert capsys.readouterr().err.splitlines() == [
        "error: first",
        "  = note: and a note",
        "error: second",
        "error: third",
    ]


def test_a_prepared_query_prints_its_rows(fresh: Path) -> None:
    job = """
        PREPARE twice AS SELECT 2 * $1 AS doubled;
        EXECUTE twice(21);
        CREATE TABLE t (i INTEGER);
        PREPARE put AS INSERT INTO t VALUES ($1);
        EXECUTE put(3);
        SELECT sum(i) AS total FROM t;
    """
    (fresh / "job.sql").write_text(job)
    lines = run("run", "job.sql", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"event": "rows", "rows": [{"doubled": 42}]},
        {"event": "rows", "rows": [{"total": 3}]},
    ]


EXIT_CODES = [
    ("SELECT nosuch", 2),
    ("SET VARIABLE low = 1; CREATE MODEL m TYPE complex AS SELECT 1 AS head, 2 AS relation, 3 AS tail LIMIT 0", 2),
    ("CREATE OR REPLACE TABLE t AS SELECT 'one' AS word; SELECT word::INTEGER FROM t", 1),
    ("SELECT word::INTEGER FROM (SELECT 'one' || random() AS word)", 1),
    ("SELECT 1; CREATE MODEL m TYPE complex AS SELECT 1 AS head, 2 AS relation, 3 AS tail LIMIT 0", 1),
    ("DROP MODEL nosuch", 2),
    ("SELECT 1", 0),
]


@pytest.mark.parametrize(("job", "code"), EXIT_CODES)
def test_exit_codes_tell_whether_something_has_run(fresh: Path, job: str, code: int) -> None:
    (fresh / "job.sql").write_text(job)
    done = run("run", "job.sql")
    assert done.exit_code == code, done.output
    if "MODEL" not in job:
        assert run("query", job).exit_code == code


def test_a_later_file_that_cannot_start_fails_a_job_that_has(fresh: Path) -> None:
    (fresh / "one.sql").write_text("CREATE TABLE t AS SELECT 1 AS i")
    (fresh / "two.sql").write_text("SELECT nosuch FROM t")
    assert run("run", "one.sql", "two.sql").exit_code == 1
    assert run("run", "two.sql", "one.sql").exit_code == 2


# stopping and resuming


@pytest.fixture
def stopped(fresh: Path) -> tuple[Path, str]:
    """A folder in which Ctrl-C has stopped a run after its first epoch, and the output."""
    (fresh / "endless.sql").write_text(ENDLESS)
    command = [sys.executable, "-m", "graphlearn", "run", "endless.sql", "--json", "--set", "dim=4"]
    with subprocess.Popen(command, cwd=fresh, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"step"' in line:
                process.send_signal(signal.SIGINT)
                break
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    return fresh, said


def test_ctrl_c_before_training_promises_no_resuming(fresh: Path) -> None:
    facts = "SELECT i // 9 AS head, i % 3 AS relation, i AS tail FROM range(9000000) t(i)"
    job = f"CREATE MODEL long TYPE distmult OPTIONS (dim = 4) AS {facts}"
    (fresh / "job.sql").write_text(job)
    command = [sys.executable, "-m", "graphlearn", "run", "job.sql", "--json"]
    with subprocess.Popen(command, cwd=fresh, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"job_started"' in line:
                process.send_signal(signal.SIGINT)
                break
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[0] == "error: interrupted; nothing was saved yet"
    assert said.splitlines()[1] == "  = help: start again with: python -m graphlearn run job.sql --json"
    (listed,) = (json.loads(line) for line in run("runs", "--json").stdout.splitlines())
    assert (listed["status"], listed["resumable"]) == ("interrupted", False)


def test_ctrl_c_names_the_command_that_resumes(stopped: tuple[Path, str]) -> None:
    folder, said = stopped
    line = next(line for line in said.splitlines() if "continue with: " in line)
    command = shlex.split(line.partition("continue with: ")[2])
    assert command[:3] == ["python", "-m", "graphlearn"]
    assert command[3:-2] == ["run", "endless.sql", "--json", "--set", "dim=4"]
    assert command[-2] == "--resume"
    run_id = command[-1]
    assert RunFolder.open(folder / "kg.graphlearn", run_id).has_checkpoint

    resumed = run(*command[3:], "--set", "epochs=2")
    assert resumed.exit_code == 2, "another job is not resumed"
    assert "has changed since" in resumed.stderr

    listed = [json.loads(line) for line in run("runs", "--json").stdout.splitlines()]
    assert [(r["run"], r["status"], r["resumable"]) for r in listed] == [(run_id, "interrupted", True)]
    assert "can be resumed" in run("runs", "--model", "LONG").stdout
    assert "no run of kg.toy" in run("runs", "--model", "kg.toy").stderr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["run", "a b.sql", "--resume", "old", "-q"], "graphlearn run 'a b.sql' -q"),
        (["run", "a.sql", "--resume=old"], "graphlearn run a.sql"),
    ],
)
def test_the_resume_command_is_what_was_typed(monkeypatch: pytest.MonkeyPatch, typed: list[str], expected: str) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/graphlearn"])
    monkeypatch.setattr(running, "typed", lambda: typed)
    assert running.resume_command(Path("nowhere"), None) == expected


def test_a_run_is_offered_with_the_command_that_started_it(stopped: tuple[Path, str]) -> None:
    folder, _ = stopped
    (run_id,) = (json.loads(line)["run"] for line in run("runs", "--json").stdout.splitlines())
    again = "run endless.sql --json --set dim=4 --resume " + run_id
    assert again in offered("run", "endless.sql", "--set", "epochs=1", "--set", "dim=2")
    begun = folder / "kg.graphlearn" / "runs" / run_id / running.COMMAND
    general = f"graphlearn run FILE --resume {run_id}"
    here = str(Path.cwd())
    for command, expected in (
        ({"words": ["run", "endless.sql"], "folder": "/some where"}, general),
        ({"words": ["run", "/tmp/x.sql"], "folder": here}, general),
        ({"words": ["run", "endless.sql", "/tmp/more.sql"], "folder": here}, general),
        ({"words": ["run", "endless.sql", "-w", "/tmp/other.duckdb"], "folder": here}, general),
        ({"words": ["query", "DROP TABLE facts"], "folder": here}, general),
        ({"words": ["run", "endless.sql", "-w"], "folder": here}, None),
        ({"words": 5, "folder": 7}, again.replace("dim=4", "dim=2")),
        ({"words": [5, "run"], "folder": ["x"]}, again.replace("dim=4", "dim=2")),
        ({"words": {"run": 1}}, again.replace("dim=4", "dim=2")),
    ):
        begun.write_text(json.dumps(command))
        now = ["run", "endless.sql", "--json", "--set", "dim=2"]
        outer = main.make_context("graphlearn", list(now))
        with main.commands["run"].make_context("run", now[1:], parent=outer):
            said = running.resume_command(folder / "kg.graphlearn", run_id)
        assert expected is None or said.endswith(expected), (command, said)


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_a_damaged_run_is_named(stopped: tuple[Path, str], name: str) -> None:
    folder, _ = stopped
    (run_id,) = (json.loads(line)["run"] for line in run("runs", "--json").stdout.splitlines())
    path = folder / "kg.graphlearn" / "runs" / run_id / name
    path.write_text("[]")
    resumed = run("run", "endless.sql", "--set", "dim=4", "--resume", run_id)
    assert resumed.exit_code == 2
    assert f'run "{run_id}" is damaged: ' in resumed.stderr
    assert f"{run_id}/{name} is unreadable (does not hold a JSON object)" in resumed.stderr
    assert "Traceback" not in resumed.stderr
    listed = run("runs")
    assert listed.exit_code == 0
    assert run_id in listed.stdout
    assert ("damaged" in listed.stdout) == (name == "run.json")
    assert run("query", "SELECT count(*) FROM runs, training_info").exit_code == 0


def test_a_run_folder_removed_during_training_is_one_error(fresh: Path) -> None:
    (fresh / "endless.sql").write_text(ENDLESS)
    command = [sys.executable, "-m", "graphlearn", "run", "endless.sql", "--json"]
    with subprocess.Popen(command, cwd=fresh, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "job_started":
                path = Path(event["folder"])
            if event["event"] == "step":
                shutil.rmtree(path.rename(fresh / "removed"))
                break
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert said.count("the folder of the run was removed while it was running") == 1
    assert "Traceback" not in said
    assert not path.exists()
    assert not list((fresh / "kg.graphlearn" / "models").glob("long*"))


def offered(*arguments: str) -> str:
    """The resume command that a run offers when it starts."""
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return next(line for line in done.stderr.splitlines() if "to continue it instead" in line)


def test_the_reason_of_a_failure_is_printed_once(fresh: Path) -> None:
    (fresh / "wild.sql").write_text(
        "CREATE MODEL wild TYPE transe OPTIONS (learning_rate = 1e38, epochs = 3) AS FROM 'toy.parquet';"
    )
    assert run("run", "wild.sql").stderr.count("learning_rate") == 1


# queries


def test_query_prints_a_box(here: Path) -> None:
    done = run("query", "SELECT count(*) AS n FROM t")
    assert done.exit_code == 0
    assert "│   240 │" in done.stdout
    assert done.stderr == ""


def test_query_json_and_csv_keep_types(here: Path) -> None:
    sql = """SELECT 170141183460469231731687303715884105727::HUGEINT AS huge, 'NaN'::DOUBLE AS nan, [1, NULL] AS list,
             DATE '2020-02-29' AS day, 'a,"b"' AS text, NULL AS nothing"""
    (record,) = (json.loads(line) for line in run("query", sql, "--json").stdout.splitlines())
    assert record == {
        "huge": 2**127 - 1,
        "nan": None,
        "list": [1, None],
        "day": "2020-02-29",
        "text": 'a,"b"',
        "nothing": None,
    }
    header, row = csv.reader(io.StringIO(run("query", sql, "--csv").stdout))
    assert header == ["huge", "nan", "list", "day", "text", "nothing"]
    assert row == [str(2**127 - 1), "nan", "[1, NULL]", "2020-02-29", 'a,"b"', ""]


def test_query_streams_all_rows(here: Path) -> None:
    assert len(run("query", "FROM range(10000)", "--csv").stdout.splitlines()) == 10001
    assert len(run("query", "FROM range(10000)", "--json").stdout.splitlines()) == 10000
    assert len(run("query", "FROM range(10000)").stdout.splitlines()) < 100


def test_query_answers_table_functions_and_system_tables(here: Path) -> None:
    done = run("query", "FROM predict('kg.toy', (SELECT 'e1' AS head, 'r1' AS relation), k := 3)", "--json")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["rank"] for answer in answers] == [1, 2, 3]
    assert "kg.toy" in run("query", "SELECT model FROM models").stdout
    assert run("query", "DROP MODEL IF EXISTS nobody").stdout == "model nobody does not exist\n"


def test_query_reads_stdin(here: Path) -> None:
    done = CliRunner().invoke(cli.main, ["query", "-"], input="SELECT 40 + 2 AS answer")
    assert "42" in done.stdout


@pytest.mark.parametrize(
    ("sql", "message", "code"),
    [
        ("SELECT nope FROM t", 'Referenced column "nope" not found', 2),
        ("SELECT tail::INT FROM t", "Could not convert string", 1),  # it has read rows
        ("SELEC 1", "SELEC", 2),
        ("FROM predict('nope', t)", 'there is no model "nope"', 2),
    ],
)
def test_query_mistakes(here: Path, sql: str, message: str, code: int) -> None:
    done = run("query", sql)
    assert done.exit_code == code
    assert message in done.stderr
    assert "--> <sql>:1:" in done.stderr
    assert "Traceback" not in done.stderr


def test_query_refuses_two_formats(here: Path) -> None:
    assert run("query", "SELECT 1", "--json", "--csv").exit_code == 2


def test_query_needs_a_workspace(fresh: Path) -> None:
    done = run("query", "SELECT 1")
    assert done.exit_code == 2
    assert "workspace kg.duckdb does not exist" in done.stderr
    assert not (fresh / "kg.duckdb").exists(), "a query creates no file"
    assert run("query", "SELECT 1", "--workspace", ":memory:").exit_code == 0


# reading while another process writes


@pytest.fixture
def locked(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The workspace, opened by another program, for which nobody waits."""
    monkeypatch.setattr(database, "OTHERS", 0.0)
    program = "import duckdb, sys; c = duckdb.connect('kg.duckdb'); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield here
        holder.communicate(timeout=30)


def test_readers_work_while_another_process_holds_the_database(locked: Path) -> None:
    for command in (["models"], ["show", "kg.toy"], ["runs"]):
        done = run(*command)
        assert done.exit_code == 0, done.output
        assert "kg.toy" in done.stdout
        assert done.stderr == ""


def test_query_still_answers_from_stored_models(locked: Path) -> None:
    done = run("query", "SELECT count(*) AS n FROM embeddings('kg.toy')", "--csv")
    assert done.exit_code == 0
    assert done.stdout == "n\n60\n"
    assert "in use by process" in done.stderr
    done = run("query", "FROM t")
    assert done.exit_code == 2
    assert "t cannot be read now: " in done.stderr
    assert "kg.duckdb is in use by process" in done.stderr
    assert "wait until it is done, or close the file there" in done.stderr
    assert "does not exist" not in done.stderr


@pytest.mark.parametrize("sql", ["CREATE TABLE lost AS SELECT 1", "SELECT 1; DROP TABLE t", "DROP MODEL kg.toy"])
def test_a_query_that_changes_what_another_process_holds_is_refused(locked: Path, sql: str) -> None:
    done = run("query", sql)
    assert done.exit_code == 2
    assert "in use by process" in done.stderr
    assert "wait until it is done, or close the file there" in done.stderr
    assert done.stdout == ""


def test_unknown_keys_are_reported_on_stderr(here: Path) -> None:
    done = run("query", "SELECT rank FROM predict('kg.toy', (SELECT 'nobody' AS head, 'r1' AS relation))", "--csv")
    assert done.stdout == 'rank\n""\n'
    said = "predict: kg.toy has never seen a key of 1 of 1 questions ('nobody'); their rank and score are NULL"
    assert done.stderr == f"warning: {said}\n"


def test_run_names_the_process_that_has_the_database_open(locked: Path) -> None:
    done = run("run", "job.sql", "--set", "path=toy.parquet")
    assert done.exit_code == 2
    assert "in use by process" in done.stderr


# the catalog


def test_models(here: Path) -> None:
    done = run("models")
    assert "kg.toy" in done.stdout
    assert "distmult" in done.stdout
    (record,) = (json.loads(line) for line in run("models", "--json").stdout.splitlines())
    assert (record["model"], record["version"], record["entities"]) == ("kg.toy", 1, 60)
    assert record["options"]["dim"] == 8


def test_show(here: Path) -> None:
    text = run("show", "KG.TOY").stdout
    for part in ("distmult", "60 (VARCHAR)", "dim = 8", "CREATE OR REPLACE MODEL kg.toy", "by relation", "Hits@10"):
        assert part in text
    assert re.search(r"MRR, 95 % +triples", text)
    assert json.loads(run("show", "kg.toy", "--version", "1", "--json").stdout)["version"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["kg.toi"], "did you mean: kg.toy"), (["kg.toy", "--version", "7"], "its versions: 1")],
)
def test_show_of_missing_models_and_versions(here: Path, arguments: list[str], message: str) -> None:
    done = run("show", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_catalog_without_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["models"], ["runs"], ["show", "m"]):
        done = run(*command)
        assert done.exit_code == 2
        assert "workspace kg.duckdb does not exist" in done.stderr
    (tmp_path / "other.duckdb").write_bytes(b"")
    assert "here: other.duckdb" in run("models").stderr
    assert "no model is stored yet" in run("models", "-w", "other.duckdb").stderr


def test_the_workspace_can_be_set_in_the_environment(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHLEARN_WORKSPACE", str(home / "kg.duckdb"))
    assert "kg.toy" in run("models").stdout


# planning and the doctor


def test_plan_runs_nothing(fresh: Path) -> None:
    done = run("plan", "job.sql", "--set", "path=toy.parquet")
    assert done.exit_code == 0, done.output
    assert "kg.toy (distmult): to train" in done.stdout
    for operator in ("scan", "encode", "split", "train", "evaluate", "publish"):
        assert operator in done.stdout
    assert not list(fresh.glob("kg.*"))


def test_plan_fails_as_a_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("late.sql").write_text(
        "CREATE MODEL m TYPE net3 OPTIONS (time = 't', start = '900') AS SELECT t, sin(t) AS value FROM range(90) a(t);"
    )
    planned, ran = run("plan", "late.sql"), run("run", "late.sql", "--no-picture")
    assert (planned.exit_code, ran.exit_code) == (2, 2)
    assert "there is no reading at or after start" in planned.stderr
    assert planned.stderr == ran.stderr


def test_plan_knows_what_is_unchanged(here: Path) -> None:
    assert "kg.toy (distmult): unchanged" in run("plan", "job.sql", "--set", "path=toy.parquet").stdout
    (record,) = (
        json.loads(line) for line in run("plan", "job.sql", "--set", "path=toy.parquet", "--json").stdout.splitlines()
    )
    assert record["unchanged"] is True
    assert record["operators"][0]["operator"] == "scan"


def test_doctor(here: Path) -> None:
    text = run("doctor").stdout
    for part in ("graphlearn", "torch", "duckdb", "cores", "free", "1 model in"):
        assert part in text
    record = json.loads(run("doctor", "--json").stdout)
    assert record["packages"]["torch"]
    assert record["memory_free"] > 0


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    for command in ("run", "plan", "query", "models", "show", "runs", "doctor"):
        assert f"  {command} " in text
        assert run(command, "--help").exit_code == 0
    assert run("--version").stdout.startswith("graphlearn, version ")


@pytest.mark.parametrize("command", [["models"], ["query", "SELECT '→' AS arrow"], ["doctor"]])
def test_output_without_unicode(here: Path, command: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "graphlearn", *command], cwd=here, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"", "nothing leaks at exit"


def test_nothing_is_printed_at_exit(here: Path) -> None:
    """DuckDB's Python client prints errors about objects that still exist at exit."""
    job = ["run", "job.sql", "-q", "--set", "path=toy.parquet"]
    for command in (["query", "FROM models"], ["query", "SELECT nope"], ["runs"], job):
        done = subprocess.run(
            [sys.executable, "-m", "graphlearn", *command], cwd=here, capture_output=True, text=True, check=False
        )
        assert "nanobind" not in done.stderr
        assert "Traceback" not in done.stderr


def test_a_damaged_model_is_named_and_others_still_work(fresh: Path) -> None:
    assert run("run", "job.sql", "-q", "--set", "path=toy.parquet").exit_code == 0
    with Workspace.open("kg.duckdb") as workspace:
        folder = workspace.folder
    weights = folder / "models" / "kg.toy" / "1" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    done = run("show", "kg.toy")
    assert done.exit_code == 2
    assert "weights.safetensors" in done.stderr
    assert "kg.toy" in run("models").stdout


def test_a_model_of_an_older_format_is_refused_by_name(fresh: Path) -> None:
    with Workspace.open("kg.duckdb") as workspace:
        folder = workspace.folder
    write_format_1(folder / "models", "kg.toy")
    why = "its format 1 is older than this version of GraphLearn reads (2)"
    text = JOB.replace("CREATE OR REPLACE MODEL", "CREATE MODEL")
    (fresh / "job.sql").write_text(text)
    job = ("run", "job.sql", "-q", "--set", "path=toy.parquet")
    question = "SELECT 'e1' AS head, 'r1' AS relation"
    calls = (f"predict('kg.toy', ({question}))", "embeddings('kg.toy')", "evaluate('kg.toy')")
    for command in (("show", "kg.toy"), *(("query", f"FROM {call}") for call in calls), job):
        done = run(*command)
        assert done.exit_code == (1 if command == job else 2), command  # the job has created a table before
        assert f'model "kg.toy" version 1 cannot be used: {why}' in done.stderr, command
        assert "graphlearn run FILE --force, or CREATE OR REPLACE MODEL" in done.stderr, command
    assert json.loads(run("query", "--json", "SELECT damage FROM models").stdout) == {"damage": why}
    assert "kg.toy" in run("models").stdout
    assert run(*job, "--force").exit_code == 0
    assert run("show", "kg.toy").exit_code == 0


def test_what_cannot_be_read_is_listed_and_planned_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path)
    job = ["job.sql", "--set", "path=toy.parquet"]
    assert run("run", *job, "--no-picture").exit_code == 0
    path = next(Path("kg.graphlearn").rglob("metrics.parquet"))
    path.write_bytes(b"x" * path.stat().st_size)  # the size is right, so that only reading shows the damage
    listed = run("models")
    assert listed.exit_code == 0
    assert re.search(r"kg\.toy .*unusable: the metric table .* is missing or damaged", listed.stdout)
    path.unlink()
    assert "kg.toy (distmult): to train" in run("plan", *job).stdout


def test_a_mistake_after_training_is_no_start_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path)
    Path("late.sql").write_text(JOB + "SELECT error('late');")
    late = run("run", "late.sql", "--set", "path=toy.parquet", "--no-picture")
    assert late.exit_code == 1
    assert "late" in late.stderr
    again = run("run", "late.sql", "--set", "path=toy.parquet", "--no-picture")
    assert again.exit_code == 1, "nothing was trained, but other statements have run"
    assert "kg.toy is up to date (version 1)" in again.stderr
    assert "MRR 0." in again.stderr, "metrics have their labels"
