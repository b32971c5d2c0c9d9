"""What a run reports: metrics with intervals, baselines, the verdict, and how many triples were ranked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases.jobs import request, workspace

from graphlearn.events import Event, Note, PhaseAdvanced, PhaseStarted, silent
from graphlearn.jobs.create import create_model, measure
from graphlearn.jobs.execute import Context, Driver
from graphlearn.jobs.kge import plan as planning
from graphlearn.jobs.kge import tasks
from graphlearn.jobs.kge.metrics import compared, metric_rows, metrics_of
from graphlearn.jobs.kge.view import summary
from graphlearn.jobs.link_baselines import LinkBaselines
from graphlearn.jobs.machine import Machine
from graphlearn.jobs.metrics import HITS_AT_10, TOO_FEW, read_metrics
from graphlearn.jobs.registry import family
from graphlearn.models.core.ranks import Ranks
from graphlearn.storage.artifacts import Artifact, ArtifactStore
from graphlearn.storage.workspace import Workspace
from graphlearn.types import Split, Triples


def trained(w: Workspace, **options: Any) -> tuple[Artifact, list[Event]]:
    """A stored model and the events of its run."""
    events: list[Event] = []
    create_model(w, request(baseline_share=0.0, **options), emit=events.append)
    return ArtifactStore(w.folder).load("m"), events


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Artifact, list[Event]]]:
    with workspace(tmp_path_factory.mktemp("run")) as w:
        yield trained(w)


def overall(artifact: Artifact) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = [row for row in read_metrics(artifact.path) if row["relation"] < 0]
    return {(row["method"], row["split"], row["side"]): row for row in rows}


def test_the_model_and_its_baselines_have_metrics_with_intervals(run: tuple[Artifact, list[Event]]) -> None:
    rows = overall(run[0])
    assert {method for method, split, _ in rows if split == "test"} == {"complex", "popularity", "rules"}
    assert {method for method, split, _ in rows if split == "valid"} == {"complex"}
    assert all(row["mrr_low"] < row["mrr"] < row["mrr_high"] for row in rows.values())
    counts = {row["count"] for (_, split, side), row in rows.items() if (split, side) == ("test", "head")}
    assert len(counts) == 1, "all methods ranked the same triples"
    manifest = run[0].manifest
    mine = rows["complex", "test", "both"]
    assert {name: manifest["metrics"][name] for name in ("mrr", "mrr_low", "mrr_high")} == {
        name: mine[name] for name in ("mrr", "mrr_low", "mrr_high")
    }
    assert manifest["verdict"].startswith(("complex beats", "complex ties", "complex loses"))
    assert manifest["verdict"] in [event.message for event in run[1] if isinstance(event, Note)]
    shown = summary(run[0])
    assert shown.fields["verdict"] == manifest["verdict"]
    assert {row[0] for row in shown.tables[0].rows} == {"complex", "popularity", "rules"}
    assert shown.listed["Hits@10"] == HITS_AT_10.text(mine["hits_at_10"])


def test_the_phase_of_baselines_shows_its_progress(run: tuple[Artifact, list[Event]]) -> None:
    phases = {event.phase: event for event in run[1] if isinstance(event, PhaseStarted)}
    assert (phases["baselines"].total, phases["baselines"].unit) == (100, "%")
    done = [event.done for event in run[1] if isinstance(event, PhaseAdvanced) and event.phase == "baselines"]
    assert done == sorted(done)
    assert done[-1] == 100
    counts = run[0].manifest["counts"]
    assert (phases["evaluate"].total, phases["evaluate"].unit) == (counts["valid"] + counts["test"], "triples")


def test_a_large_split_is_sampled_unless_all_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with workspace(tmp_path) as w:
        whole, _ = trained(w)
        for module in (tasks, planning):
            monkeypatch.setattr(module, "EVALUATED", 9)
        part, _ = trained(w, seed=1)
        again, _ = trained(w, seed=1, evaluate_all=True)
        counts = whole.manifest["counts"]
        said = f"; 9 of {counts['valid']} valid triples and 9 of {counts['test']} test triples, drawn at random"
        assert whole.manifest["protocol"] == again.manifest["protocol"]
        assert part.manifest["protocol"] == whole.manifest["protocol"] + said
        for artifact, count in ((whole, counts["test"]), (part, 9), (again, counts["test"])):
            rows = overall(artifact)
            assert all(rows[method, "test", "tail"]["count"] == count for method in ("complex", "popularity", "rules"))
            assert rows["complex", "test", "both"]["count"] == 2 * count
            assert rows["complex", "test", "both"]["too_few"] == (count < TOO_FEW)
            assert {row["protocol"] for row in rows.values()} == {artifact.manifest["protocol"]}
        assert overall(part)["complex", "test", "both"]["mrr"] != overall(again)["complex", "test", "both"]["mrr"]
        assert f"9 of {counts['test']} test triples" in summary(part).tables[0].title
        details = [
            {
                row["operator"]: row["detail"]
                for row in family("complex").plan(made, measure(w.cursor(), made)).table(Machine(1e9)).to_pylist()
            }
            for made in (request(), request(evaluate_all=True))
        ]
        assert "9 of about 60 test triples, drawn at random" in details[0]["evaluate"]
        assert "drawn" not in details[1]["evaluate"]


def some_ranks(n: int, best: float, seed: int = 0) -> Ranks:
    rng = np.random.default_rng(seed)
    head, tail = rng.integers(1, 50, (2, n)) * best
    triples = Triples(np.arange(n), np.arange(n) % 2, np.arange(n))
    return Ranks(triples, 1 + head, 1 + tail, np.full(n, 100.0), np.full(n, 100.0))


def test_the_verdict_is_on_the_triples_that_both_ranked() -> None:
    ours, rules = some_ranks(200, 1.0), some_ranks(200, 0.02)
    rows = np.arange(0, 200, 2)
    found = compared("rotate", ours, LinkBaselines(rows, {"popularity": ours[rows], "rules": rules[rows]}), cut=False)
    assert found is not None
    assert (found.best, found.outcome) == ("rules", "worse")
    assert found.comparison.ours == pytest.approx(ours[rows].metrics()["mrr"])
    assert "on 100 of 200 test triples" in found.sentence
    same = compared("rotate", ours, LinkBaselines(np.arange(200), {"popularity": ours}), cut=False)
    assert same is not None
    assert same.outcome == "tie"
    assert "on the test split" in same.sentence


def test_both_ranks_of_a_triple_are_resampled_together() -> None:
    """If they agree, they tell no more than one of them."""
    one = some_ranks(300, 1.0)
    both = Ranks(one.triples, one.head, one.head, one.head_candidates, one.head_candidates)
    twice, once = metrics_of(both), metrics_of(both, tasks.Side.HEAD)
    assert twice["mrr_high"] - twice["mrr_low"] == pytest.approx(once["mrr_high"] - once["mrr_low"])
    assert twice["count"] == 2 * once["count"]


def test_too_few_goes_by_triples_and_not_by_ranks() -> None:
    rows = metric_rows("complex", Split.TEST, some_ranks(2 * TOO_FEW - 1, 1.0))
    few = {(row["relation"], row["side"]): (row["count"], row["too_few"]) for row in rows}
    assert few[0, "both"] == (2 * TOO_FEW, False)
    assert few[1, "both"] == (2 * TOO_FEW - 2, True)
    assert few[1, "head"] == (TOO_FEW - 1, True)
    assert few[-1, "tail"] == (2 * TOO_FEW - 1, False)
    assert all(("mrr_low" in row) == (row["relation"] < 0 or row["side"] == "both") for row in rows)


def test_triples_per_second_count_a_triple_once(tmp_path: Path) -> None:
    """With both sides, an epoch has two queries per triple."""
    with workspace(tmp_path) as w:
        made = {
            sides: tasks.TrainKge(family="complex", options=request(sides=sides, reciprocal=False).options)
            for sides in ("both", "tail")
        }
        data: dict[str, Any] = {"query": "FROM triples"}
        loops = {}
        for sides, task in made.items():
            context = Context(emit=silent, run="r", folder=tmp_path, driver=Driver(w, w.cursor()))
            digest = planning.measure(w.cursor(), request()).fingerprints["triples"]
            encoded = tasks.EncodeTriples(fingerprint=digest, holdout=(0, 0), seed=0).run(data, context)
            loops[sides] = task.loop(tasks.CollectKnown().run(encoded, context), context)
        examples = {sides: sum(n for _, n in loop.train(0, 0)) for sides, loop in loops.items()}
        triples = {sides: examples[sides] / loop.examples_per_unit for sides, loop in loops.items()}
        assert examples["both"] == 2 * examples["tail"]
        assert triples["both"] == triples["tail"]
        for loop in loops.values():
            loop.close()
