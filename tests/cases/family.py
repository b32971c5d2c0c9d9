"""The contract that every model family must meet. A subclass describes one family; see tests/jobs/test_families.py."""

from __future__ import annotations

import json
import pickle
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from cases.paths import ROOT
from cases.scans import CountedScans, count_scans
from cases.spawned import spawned
from graphlearn.cli import main
from graphlearn.errors import Interrupted, OptionError, UserError
from graphlearn.events import CheckpointSaved, Evaluated, Event, JobFinished, JobStarted, Note, PhaseFinished, Step
from graphlearn.jobs.create import create_model, measure
from graphlearn.jobs.family import Family
from graphlearn.jobs.machine import Machine
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.session import Session, connect
from graphlearn.storage.artifacts import Artifact, ArtifactStore

EPOCHS = 4


@dataclass(frozen=True)
class Ask:
    """A call of a table function: the SQL of its relation (None without a relation), its named arguments.

    `unknown`: a relation with a key unknown to the model.
    """

    function: str
    relation: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    unknown: str | None = None

    def sql(self, model: str, relation: str | None) -> str:
        """The call as a query."""
        arguments = [f"'{model}'", *([f"({relation})"] if relation else [])]
        return f"FROM {self.function}({', '.join([*arguments, *(f'{k} := {v}' for k, v in self.named.items())])})"


@dataclass(frozen=True)
class Variant:
    """Options of a model, and the calls that it answers. `inputs`: queries by role, by default those of the case."""

    options: str
    asks: tuple[Ask, ...]
    inputs: Mapping[str, str] | None = None


class FamilyCase:
    """The contract of `Family`. `tables`: SQL that creates the tables that the inputs read."""

    name: ClassVar[str]
    tables: ClassVar[str]
    inputs: ClassVar[Mapping[str, str]]
    variants: ClassVar[Mapping[str, Variant]]

    # the parts of a case

    @property
    def family(self) -> Family:
        return family(self.name)

    def statement(self, variant: str, *, force: bool = False, model: str = "m", more: str = "") -> str:
        """CREATE MODEL with the options of a variant and `more` options."""
        chosen = self.variants[variant]
        inputs = chosen.inputs or self.inputs
        query = next(iter(inputs.values())) if len(inputs) == 1 else None
        roles = ", ".join(f"{role} AS ({sql})" for role, sql in inputs.items())
        again = "OR REPLACE " if force else ""
        fixed = f"epochs = {EPOCHS}, evaluate_every = 1, checkpoint_seconds = 0, threads = 1, baseline_share = 0"
        options = [fixed, chosen.options, more]  # without a limit, baselines do not depend on how fast they are
        head = f"CREATE {again}MODEL {model} TYPE {self.name} OPTIONS ({', '.join(filter(None, options))})"
        return f"{head} AS {query or f'({roles})'}"

    def open(self, path: Path, emit: Callable[[Event], None] = lambda _: None) -> Session:
        """A session on a new workspace with the tables of the case."""
        session = connect(path / "kg.duckdb", emit=emit)
        session.connection.execute(self.tables)
        return session

    def request(self, session: Session, variant: str) -> ModelRequest:
        """The bound statement of a variant."""
        from graphlearn.sql.parser import parse
        from graphlearn.sql.source import Source

        (create,) = parse(Source("<case>", self.statement(variant)))
        return session._binder.model(create).request  # type: ignore[arg-type]

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
        """A session with a model for each variant, named after it."""
        case = cls()
        with case.open(tmp_path_factory.mktemp(cls.name)) as session:
            for variant in cls.variants:
                session.sql(case.statement(variant, model=variant))
            yield session

    @pytest.fixture
    def variant(self) -> str:
        """The variant for tests that need only one."""
        return next(iter(self.variants))

    def artifact(self, session: Session, model: str) -> Artifact:
        return ArtifactStore(session.workspace.folder).load(model)

    # declarations

    def test_declarations(self) -> None:
        kind = self.family
        assert self.name in kind.names
        assert kind.title
        assert kind.metrics
        names = [metric.name for metric in kind.metrics]
        assert len(set(names)) == len(names)
        assert any(metric.headline for metric in kind.metrics)
        with pytest.raises(OptionError):
            kind.options_type(epochs=0)

    def test_every_function_is_called_and_every_option_is_documented(self) -> None:
        asked = {ask.function for variant in self.variants.values() for ask in variant.asks}
        assert asked == set(self.family.functions)
        page = runpy.run_path(str(ROOT / "docs" / "make_options.py"))
        explained = page["meanings"](self.family.options_type)
        assert all(explained.get(name) for name in page["defaults"](self.family.options_type))
        assert self.name in page["page"]()

    # measuring and planning

    def test_measuring_reads_each_input_once_and_a_run_twice(self, tmp_path: Path, variant: str) -> None:
        with self.open(tmp_path) as session:
            request = self.request(session, variant)
            counted: dict[str, CountedScans] = {}
            inputs = {}
            for role, sql in request.inputs.items():
                counted[role] = count_scans(session.connection, f"counted_{role}", sql)
                inputs[role] = f"FROM counted_{role}"
            request = replace(request, inputs=inputs)
            rows = {role: scans.table.num_rows for role, scans in counted.items()}
            sizes = measure(session.connection, request)
            assert {role: scans.taken() for role, scans in counted.items()} == {r: (1, n) for r, n in rows.items()}
            create_model(session.workspace, request, emit=lambda _: None, sizes=sizes, cursor=session.connection)
            assert {role: scans.taken() for role, scans in counted.items()} == {r: (1, n) for r, n in rows.items()}

    def test_a_plan_is_pure_and_its_tasks_can_be_pickled(self, tmp_path: Path, variant: str) -> None:
        with self.open(tmp_path) as session:
            request = self.request(session, variant)
            sizes = pickle.loads(pickle.dumps(measure(session.connection, request)))
        machine = Machine(1e9)  # the session is closed: nothing is left to read
        plan, again = (self.family.plan(request, sizes) for _ in range(2))
        assert plan.table(machine) == again.table(machine)
        assert plan.text(machine)
        for operator in plan.operators:
            sent = pickle.loads(pickle.dumps(operator.task))
            assert (type(sent), vars(sent)) == (type(operator.task), vars(operator.task))
            assert set(operator.inputs) <= {name for other in plan.operators for name in other.outputs}
        assert [o.name for o in plan.operators if not o.needs.driver], "some task can run in another process"
        assert all(set(o.needs.devices) <= {"cpu", "cuda"} and o.needs.workers >= 1 for o in plan.operators)
        assert all(o.needs.memory == o.estimate.memory for o in plan.operators)
        assert plan.operators[-1].needs.workspace
        assert not plan.operators[-1].needs.database, "the file is closed by then"

    def test_explain_shows_the_plan_and_trains_nothing(self, tmp_path: Path, variant: str) -> None:
        with self.open(tmp_path) as session:
            rows = session.sql("EXPLAIN " + self.statement(variant)).fetchall()  # type: ignore[union-attr]
            assert {"train", "evaluate", "publish"} <= {row[0] for row in rows}
            assert session.sql("FROM runs").fetchall() == []  # type: ignore[union-attr]

    # running

    def test_tasks_run_in_separate_processes(self, tmp_path: Path, variant: str) -> None:
        """They give the same numbers and events as in this process."""
        results, logs = [], []
        for executor in (None, spawned):
            events: list[Event] = []
            folder = tmp_path / str(len(logs))
            folder.mkdir()
            with self.open(folder) as session:
                request = self.request(session, variant)
                given = {} if executor is None else {"executor": executor}
                made = create_model(session.workspace, request, emit=events.append, cursor=session.connection, **given)
                files = self.artifact(session, "m").manifest["files"]
                results.append((made.metrics, made.counts, files["weights.safetensors"]["sha256"]))
            logs.append([said for event in events if (said := self.said(event)) is not None])
        assert results[0] == results[1]
        assert logs[0] == logs[1]

    @staticmethod
    def said(event: Event) -> Any:
        """The content of an event, without times; None for events that depend on time."""
        match event:
            case Step():
                return ("step", event.epoch, event.step, event.loss) if event.epoch_done else None
            case Evaluated():
                return "evaluated", event.epoch, event.split, dict(event.metrics)
            case PhaseFinished():
                return "phase", event.phase, event.detail
            case Note():
                return "note", event.message
            case _:
                return None

    def stopped(self, path: Path, variant: str, last: Callable[[Event], bool]) -> str:
        """The id of a run that is interrupted after an event."""

        def stop(event: Event) -> None:
            if last(event):
                raise KeyboardInterrupt

        with self.open(path, stop) as session:
            with pytest.raises(Interrupted) as caught:
                session.sql(self.statement(variant))
            assert session.sql("SELECT status, resumable FROM runs").fetchall() == [("interrupted", True)]  # type: ignore[union-attr]
        return str(caught.value.run)

    @pytest.mark.parametrize("when", ["in epoch 3", "trained"])
    def test_a_resumed_run_ends_with_the_same_numbers(
        self, tmp_path: Path, trained: Session, variant: str, when: str
    ) -> None:
        def last(event: Event) -> bool:
            if when == "trained":
                return isinstance(event, PhaseFinished) and event.phase == "train"
            return isinstance(event, CheckpointSaved) and event.epoch == 2

        run = self.stopped(tmp_path, variant, last)
        with connect(tmp_path / "kg.duckdb", emit=lambda _: None) as session:
            session.sql(self.statement(variant), resume=run)
            resumed, whole = self.artifact(session, "m").manifest, self.artifact(trained, variant).manifest
        assert resumed["run"] == run
        assert resumed["metrics"] == whole["metrics"]
        assert resumed["files"]["weights.safetensors"] == whole["files"]["weights.safetensors"]

    def test_threads_are_not_part_of_the_job(self, tmp_path: Path, trained: Session, variant: str) -> None:
        """A model is up to date, and a run can be resumed, with another number of threads."""

        def other(model: str) -> str:
            found = self.statement(variant, model=model)
            return found.replace("threads = 1", "threads = 2").replace("checkpoint_seconds = 0, ", "")

        assert trained.sql(other(variant)).status == "unchanged"  # type: ignore[union-attr]
        run = self.stopped(tmp_path, variant, lambda event: isinstance(event, CheckpointSaved))
        accepted: list[int | None] = []

        def stop(event: Event) -> None:
            if isinstance(event, JobStarted):
                accepted.append(event.resumed_at)
                raise KeyboardInterrupt

        with connect(tmp_path / "kg.duckdb", emit=stop) as session, pytest.raises(Interrupted):
            session.sql(other("m"), resume=run)
        assert accepted != [None]
        assert len(accepted) == 1

    def test_the_order_of_rows_does_not_matter(self, tmp_path: Path, variant: str) -> None:
        found = []
        for order in ("ASC", "DESC"):
            folder = tmp_path / order
            folder.mkdir()
            with self.open(folder) as session:
                inputs = (self.variants[variant].inputs or self.inputs).items()
                for role, sql in inputs:
                    session.connection.execute(f"CREATE TABLE ordered_{role} AS FROM ({sql}) ORDER BY ALL {order}")
                request = self.request(session, variant)
                request = ModelRequest(
                    **{**vars(request), "inputs": {role: f"FROM ordered_{role}" for role, _ in inputs}}
                )
                create_model(session.workspace, request, emit=lambda _: None, cursor=session.connection)
                manifest = self.artifact(session, "m").manifest
                found.append((manifest["fingerprint"], manifest["metrics"], manifest["files"]["weights.safetensors"]))
        assert found[0] == found[1]

    def test_only_a_changed_model_is_trained_again(self, tmp_path: Path, variant: str) -> None:
        events: list[Event] = []
        with self.open(tmp_path, events.append) as session:
            session.sql(self.statement(variant))
            session.sql(self.statement(variant))
            assert [e.status for e in events if isinstance(e, JobFinished)] == ["done", "unchanged"]
            statement = self.statement(variant, force=True).replace(f"epochs = {EPOCHS}", f"epochs = {EPOCHS + 1}")
            session.sql(statement)
            assert self.artifact(session, "m").version == 2

    def test_baselines_can_be_left_out(self, tmp_path: Path, trained: Session) -> None:
        """The metric table names the method of each row; the verdict and the baselines' rows come from one operator."""
        from graphlearn.jobs.metrics import read_metrics

        with self.open(tmp_path) as session:
            for variant in self.variants:
                sizes = measure(session.connection, request := self.request(session, variant))
                if "baselines" not in {operator.name for operator in self.family.plan(request, sizes).operators}:
                    continue
                stored = self.artifact(trained, variant)
                methods = {row["method"] for row in read_metrics(stored.path)}
                assert self.name in methods
                assert "baseline" in stored.manifest["verdict"]
                left_out = self.statement(variant, model=variant, more="baselines = false")
                session.sql(left_out.replace("baseline_share = 0, ", ""))
                alone = self.artifact(session, variant)
                left = {row["method"] for row in read_metrics(alone.path)}
                assert self.name in left < methods
                assert "baseline" not in alone.manifest["verdict"]
                assert alone.manifest["files"]["weights.safetensors"] == stored.manifest["files"]["weights.safetensors"]

    # answers

    def test_answers_have_the_predicted_columns(self, tmp_path: Path, trained: Session) -> None:
        """A file can use a model that it creates: calls bind before the model exists."""
        with self.open(tmp_path) as session:
            binder = session._binder
            for model, variant in self.variants.items():
                from graphlearn.sql.parser import parse
                from graphlearn.sql.source import Source

                (create,) = parse(Source("<case>", self.statement(model)))
                bound = binder.model(create)  # type: ignore[arg-type]
                shape = self.family.shape(bound.request, bound.columns)
                from graphlearn.jobs.functions import Call, planned

                for ask in variant.asks:
                    call = Call(ask.function, ask.relation, self.named(session, ask), binder.cursor)
                    session.connection.register("planned", planned(bound.request, shape, call))
                    predicted = session.connection.execute("DESCRIBE planned").fetchall()
                    assert session.connection.execute("FROM planned").fetchall() == []
                    described = trained.sql("DESCRIBE " + ask.sql(model, ask.relation)).fetchall()  # type: ignore[union-attr]
                    assert [row[:2] for row in predicted] == [row[:2] for row in described], ask

    @staticmethod
    def named(session: Session, ask: Ask) -> dict[str, Any]:
        """The named arguments as Python values."""
        return {
            name: session.connection.execute(f"SELECT {value}").fetchall()[0][0] for name, value in ask.named.items()
        }

    def test_every_function_answers(self, trained: Session) -> None:
        for model, variant in self.variants.items():
            for ask in variant.asks:
                rows = trained.sql(ask.sql(model, ask.relation)).fetchall()  # type: ignore[union-attr]
                assert rows, ask
                assert rows == trained.sql(ask.sql(model, ask.relation)).fetchall(), "twice the same"  # type: ignore[union-attr]

    def test_unknown_keys_are_answered_with_null_and_reported(self, trained: Session) -> None:
        asked = 0
        for model, variant in self.variants.items():
            for ask in variant.asks:
                if ask.unknown is None:
                    continue
                asked += 1
                notes: list[Event] = []
                trained._emit, before = notes.append, trained._emit
                try:
                    rows = trained.sql(ask.sql(model, ask.unknown)).fetchall()  # type: ignore[union-attr]
                finally:
                    trained._emit = before
                assert rows, ask
                assert all(None in row for row in rows), ask
        assert asked or not any(function.argument != "none" for function in self.family.functions.values())

    def test_unknown_functions_and_arguments_are_named(self, trained: Session, variant: str) -> None:
        for ask in self.variants[variant].asks:
            with pytest.raises(OptionError, match='has no argument "nothing"'):
                trained.sql(Ask(ask.function, ask.relation, {"nothing": "1"}).sql(variant, ask.relation))
            with pytest.raises(UserError, match="has no version 99"):
                trained.sql(Ask(ask.function, ask.relation, {"version": "99"}).sql(variant, ask.relation))

    # display

    def test_every_metric_is_measured_by_a_variant_and_listed(self, trained: Session) -> None:
        measured: set[str] = set()
        for model in self.variants:
            manifest = self.artifact(trained, model).manifest
            measured |= set(manifest["metrics"])
            row = trained.sql(f"SELECT * FROM models WHERE model = '{model}'").df().iloc[0]  # type: ignore[union-attr]
            for metric in self.family.metrics:
                if metric.name in manifest["metrics"]:
                    assert row[metric.name] == pytest.approx(manifest["metrics"][metric.name])
            for count in self.family.counts:
                assert str(row[count.column]) == str(manifest["counts"][count.key])
            assert manifest["format_version"] == 2
            json.dumps(asdict(self.request(trained, model)), default=str)
        assert {metric.name for metric in self.family.metrics} <= measured

    def run_cli(self, session: Session, *arguments: str) -> Result:
        result = CliRunner().invoke(main, [*arguments, "--workspace", str(session.workspace.database)])
        assert result.exit_code == 0, result.output
        return result

    def test_the_command_line_lists_and_shows_it(self, trained: Session) -> None:
        listed = self.run_cli(trained, "models").output
        for model in self.variants:
            artifact = self.artifact(trained, model)
            summary = self.family.summary(artifact)
            assert model in listed
            assert all(title in listed for title in summary.listed)
            shown = self.run_cli(trained, "show", model).output
            assert all(name in shown for name, value in summary.fields.items() if value is not None)
            assert all(table.title in shown for table in summary.tables)
            assert summary.tables, "metrics are shown"
        assert all(model in self.run_cli(trained, "runs").output for model in self.variants)

    def test_the_picture_of_a_run(self, trained: Session, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from graphlearn.report import draw_report

        for model in self.variants:
            artifact = self.artifact(trained, model)
            run = trained.workspace.folder / "runs" / str(artifact.manifest["run"])
            for version in (artifact.path, None):
                path = draw_report(run, version, tmp_path / f"{model}-{version is None}.png")
                assert path.read_bytes().startswith(b"\x89PNG")

    def test_the_result_in_a_notebook(self, tmp_path: Path, variant: str) -> None:
        with self.open(tmp_path) as session:
            made = session.sql(self.statement(variant))
        assert f"model m version 1: {self.name}" in repr(made)
        assert "<table>" in made._repr_html_()  # type: ignore[union-attr]
