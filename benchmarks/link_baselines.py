"""Popularity and rules on knowledge graphs: filtered test MRR, with full budget.

    python -m benchmarks.link_baselines [NAME…] [--seconds S] [--rewrite]

Rules are mined without sampling, and all test triples are ranked. `--seconds` gives the baselines that much CPU time
instead, as a run does; then nothing is stored. `--rewrite` regenerates the table from the stored figures.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from benchmarks import data, results
from graphlearn.jobs.budget import Budget
from graphlearn.jobs.link_baselines import LinkTask, link_baselines
from graphlearn.models.core.known import KnownAnswers
from graphlearn.types import Side, Split

SECTION = "link_baselines"
NAMES = ("fb15k-237", "wn18rr", "codex-s", "umls", "kinships", "nations", "debian-packages")


def measured(name: str, seconds: float) -> dict[str, Any]:
    """The figures of a graph. `seconds`: of CPU time, 0 for no limit."""
    encoded = data.load(name)
    known = {side: KnownAnswers.of(list(encoded.splits.values()), side, encoded.n_relations) for side in Side}
    train, valid, test = (encoded.splits[split] for split in Split)
    task = LinkTask(
        n_entities=encoded.n_entities,
        n_relations=encoded.n_relations,
        train=train,
        valid=valid,
        test=test,
        known=known,
    )
    budget, started = Budget(seconds, 1.0 if seconds else 0.0), time.perf_counter()
    found = link_baselines(task, budget)
    methods = {}
    for method, ranks in found.ranks.items():
        low, high = ranks.sample().intervals(["mrr"])["mrr"]
        methods[method] = {**ranks.metrics(), "mrr_low": low, "mrr_high": high}
    return {
        "dataset": name,
        "train": len(train),
        "test": len(test),
        "ranked": len(found.rows),
        "methods": methods,
        "settings": vars(found.settings),
        "cpu_seconds": budget.spent,
        "seconds": time.perf_counter() - started,
        "cut": budget.cuts,
    }


def table(figures: dict[str, Any]) -> str:
    """The Markdown table of all graphs measured so far."""
    rows = []
    for name, found in figures.items():
        row = {"graph": name, "train": f"{found['train']:,}", "test": f"{found['ranked']:,}"}
        for method, m in found["methods"].items():
            row[f"{method} MRR"] = f"{m['mrr']:.3f} ({m['mrr_low']:.3f} to {m['mrr_high']:.3f})"
            row[f"{method} Hits@10"] = f"{100 * m['hits_at_10']:.1f} %"
        chosen = found["settings"]
        row["settings"] = f"{chosen['aggregation']}, pessimism {chosen['pessimism']:g}"
        row["CPU s"] = f"{found['cpu_seconds']:.1f}"
        rows.append(row)
    return results.markdown(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.0)
    given = parser.parse_args()
    figures = {} if given.seconds else results.stored(SECTION) or {}
    for name in () if given.rewrite else given.names or NAMES:
        figures[name] = measured(name, given.seconds)
        print(json.dumps(figures[name]), flush=True)
        if not given.seconds:
            write(figures)
    if given.rewrite:
        write(figures)
    print(table(figures))


def write(figures: dict[str, Any]) -> None:
    """Store the figures."""
    body = (
        "Filtered ranking of both sides among all entities, with ties at their mean rank; intervals of 95 %. "
        "Settings are chosen on validation triples. See `jobs/link_baselines.py`.\n\n"
    )
    results.write(SECTION, "Baselines of knowledge graphs: popularity and rules", body + table(figures), figures)


if __name__ == "__main__":
    main()
