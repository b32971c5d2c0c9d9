"""What is said about metrics: intervals, verdicts, and rows with too few test items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from graphlearn.jobs.budget import Budget
from graphlearn.jobs.metrics import CUT, TOO_FEW, Metric, MetricTable, measured, metrics_line, verdict
from graphlearn.models.core.bootstrap import Sample
from graphlearn.types import DoubleArray

ACCURACY = Metric(name="accuracy", label="accuracy", interval=True, headline=True)
ERROR = Metric(name="error", label="error", interval=True, higher_is_better=False)


def figures(sums: DoubleArray) -> dict[str, DoubleArray]:
    return {"accuracy": sums[..., 0] / sums[..., 1], "error": 1 - sums[..., 0] / sums[..., 1]}


def sample(right: int, of: int) -> Sample:
    return Sample.of(np.stack([np.arange(of) < right, np.ones(of)], axis=1).astype(np.float64), figures)


def test_a_metric_comes_with_its_interval() -> None:
    found = measured(sample(80, 100), (ACCURACY, ERROR))
    assert list(found) == ["accuracy", "error", "accuracy_low", "accuracy_high", "error_low", "error_high"]
    assert found["accuracy_low"] == pytest.approx(0.72, abs=0.02)
    assert found["error_high"] == pytest.approx(0.28, abs=0.02)
    line = metrics_line({"accuracy": 0.8, "accuracy_low": 0.72, "accuracy_high": 0.88, "error": 0.2}, (ACCURACY, ERROR))
    assert line == "accuracy 0.8000 (0.7200 to 0.8800) · error 0.2000"


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "outcome", "begins"),
    [
        (
            ACCURACY,
            90,
            40,
            "better",
            "m beats the best baseline, other: accuracy 0.9000 against 0.4000 on the test split",
        ),
        (ACCURACY, 40, 90, "worse", "m loses to a baseline, other: accuracy 0.4000 against 0.9000"),
        (ACCURACY, 90, 89, "tie", "m ties with the best baseline, other: accuracy 0.9000 against 0.8900"),
        (ERROR, 90, 40, "better", "m beats the best baseline, other: error 0.1000 against 0.6000"),
        (ERROR, 40, 90, "worse", "m loses to a baseline, other: error 0.6000 against 0.1000"),
    ],
)
def test_a_difference_within_its_interval_is_a_tie(
    metric: Metric, ours: int, theirs: int, outcome: str, begins: str
) -> None:
    others = {"guess": sample(10, 100), "other": sample(theirs, 100)}
    found = verdict("m", metric, sample(ours, 100), others, "on the test split", advice="train longer")
    assert found is not None
    assert (found.outcome, found.best) == (outcome, "other")
    assert found.sentence.startswith(begins)
    assert found.sentence.endswith("train longer") == (outcome == "worse")
    assert found.level == ("warning" if outcome == "worse" else "info")


def test_there_is_no_verdict_without_baselines_and_none_on_few_items() -> None:
    assert verdict("m", ACCURACY, sample(1, 2), {}, "") is None
    for right, of, items in ((1, 1, "1 independent test item"), (8, 9, "9 independent test items")):
        few = verdict("m", ACCURACY, sample(right, of), {"other": sample(0, of)}, "on the test split", cut=True)
        assert few is not None
        assert few.outcome == "tie"
        assert few.sentence.startswith(f"m and the best baseline, other, cannot be compared on {items}: accuracy ")
        assert few.sentence.endswith("against 0.0000 on the test split")


def test_baselines_that_were_cut_are_not_beaten() -> None:
    for ours, begins in ((90, "m is ahead of the best baseline so far, other"), (41, "m ties with the best baseline")):
        found = verdict("m", ACCURACY, sample(ours, 100), {"other": sample(40, 100)}, "on the test split", cut=True)
        assert found is not None
        assert found.sentence.startswith(begins)
        assert found.sentence.endswith(f"; {CUT}")
    lost = verdict("m", ACCURACY, sample(10, 100), {"other": sample(90, 100)}, "on the test split", cut=True)
    assert lost is not None
    assert lost.sentence.startswith("m loses to a baseline, other")
    assert CUT not in lost.sentence


def test_rows_with_too_few_items_are_marked() -> None:
    table = MetricTable((pa.field("class", pa.string()),), (ACCURACY,))
    rows = [{"class": "a", "accuracy": 0.5, "count": TOO_FEW}, {"class": "b", "count": TOO_FEW - 1}, {"class": "c"}]
    assert table.schema.names == ["class", "accuracy", "accuracy_low", "accuracy_high", "count", "too_few", "protocol"]
    assert table.table(rows, "by hand")["too_few"].to_pylist() == [False, True, None]


def test_the_budget_of_baselines_is_a_share_of_the_training() -> None:
    assert Budget(100, 0.2).seconds == 20
    assert Budget(0.5, 0.2).seconds == 1
    assert Budget.unlimited().left == float("inf")
    budget = Budget(100, 0.2)
    assert budget.note() == ""
    budget.cut("rules were mined from 10 of 20 triples")
    budget.cut("the random walk was left out")
    assert budget.note() == (
        "to save time, rules were mined from 10 of 20 triples; the random walk was left out "
        "(baselines may use 20 s of CPU time)"
    )
