"""What metrics are called where people read them, and how their values are written.

RMSE and MAE are in the units of the readings, MAPE is in percent, (z) marks figures on z-scores of the train part.
F1, accuracy, AUC and NMI lie between 0 and 1, ARI may be below 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphlearn.text import number

LABELS = {
    "mrr": "MRR",
    "hits_at_1": "Hits@1",
    "hits_at_3": "Hits@3",
    "hits_at_10": "Hits@10",
    "rmse": "RMSE",
    "mae": "MAE",
    "mape": "MAPE",
    "z_rmse": "RMSE (z)",
    "z_mae": "MAE (z)",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "accuracy": "accuracy",
    "ndcg_10": "NDCG@10",
    "auc": "AUC",
    "nmi": "NMI",
    "ari": "ARI",
}
IN_A_LINE = (
    "macro_f1", "micro_f1", "mrr", "ndcg_10", "hits_at_1", "hits_at_3", "hits_at_10", "auc", "nmi", "ari",
    "rmse", "mae", "mape", "z_rmse",
)  # fmt: skip
GRAPH = ("macro_f1", "micro_f1", "accuracy", "ndcg_10", "auc", "nmi", "ari")
"""Figures that only models of graphs have."""
SERIES = ("rmse", "mae", "mape", "z_rmse", "z_mae")


def title(name: str) -> str:
    """The head of a column: like the label, with the unit where it is not the user's."""
    return "MAPE (%)" if name == "mape" else LABELS.get(name, name)


def metrics_line(metrics: Mapping[str, float], separator: str = " · ") -> str:
    """The usual metrics in one line: `MRR 0.3456 · Hits@1 25.1 %`, or `RMSE 12.3 · MAE 8.1 · MAPE 4.2 %`."""
    names = [name for name in IN_A_LINE if name in metrics] or list(metrics)[:4]
    return separator.join(f"{LABELS.get(name, name)} {_value(name, metrics[name])}" for name in names)


def _value(name: str, value: float) -> str:
    if name.startswith("hits_at_"):
        return f"{value:.1%}".replace("%", " %")
    return f"{value:,.1f} %" if name == "mape" else number(value)
