"""NET3 compared with a plain-loop reference, on edge cases, and in training."""

from __future__ import annotations

import math
import pickle
from dataclasses import fields
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from graphlearn.errors import InputError, OptionError, TrainingDiverged
from graphlearn.models.core.early_stop import EarlyStop
from graphlearn.models.core.fit import fit, train_epoch
from graphlearn.models.net3.baselines.linear_ar import LinearAR
from graphlearn.models.net3.baselines.naive import LastValue
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.metrics import measure
from graphlearn.models.net3.network.layers import TGCN, TRNN, Head, LinearSkip
from graphlearn.models.net3.network.mode_products import mode_product, normalise
from graphlearn.models.net3.network.model import Net3, masked_loss
from graphlearn.models.net3.options import Net3Options
from graphlearn.models.net3.training.forecast import ForecastTraining
from graphlearn.models.net3.training.make import make_training
from graphlearn.models.net3.training.recover import hold_out
from graphlearn.types import Split


def ring(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.arange(n)
    return np.r_[at, (at + 1) % n], np.r_[(at + 1) % n, at], np.ones(2 * n, np.float32)


def options(**changes: object) -> Net3Options:
    return Net3Options(**({"dim": 4, "window": 3, "device": "cpu", "batch_size": 8} | changes))  # type: ignore[arg-type]


def naive_forecast(model: Net3, z: Tensor, seen: Tensor) -> Tensor:
    """The published model cell by cell: every subset of modes, one gate and one window at a time."""
    shape, tgcn, trnn, head = model.shape, model.tgcn, model.trnn, model.head
    graphs = {m: getattr(tgcn, names[0]) for m, names in enumerate(tgcn.given) if names}
    modes = sorted(graphs)
    subsets = [()]  # in the order in which the layer stacks its terms
    for m in modes:
        subsets += [(*s, m) for s in subsets]
    assert set(subsets) == set(chain.from_iterable(combinations(modes, r) for r in range(len(modes) + 1)))

    def multiply(x: Tensor, a: Tensor, m: int) -> Tensor:
        return torch.tensordot(a, x, dims=([1], [m])).movedim(0, m)

    def layer(x: Tensor, side: str, gate: int) -> Tensor:
        x = x @ trnn.weights[side][gate]
        for m in range(len(shape)):
            x = multiply(x, trnn.modes[f"{side}{m}"][gate], m)
        return x

    out = []
    for b in range(len(z)):
        guess, y, c = torch.zeros(shape), None, None
        for t in range(z.shape[1]):
            s = torch.where(seen[b, t], z[b, t], guess)
            h = tgcn.bias.expand(*shape, -1)
            for k, subset in enumerate(subsets):
                moved = s
                for m in subset:
                    moved = multiply(moved, graphs[m], m)
                h = h + moved.unsqueeze(-1) * tgcn.theta[k]
            h = h * (h > 0)
            core = h
            for m, u in enumerate(trnn.factors):
                core = multiply(core, u.T, m)
            gates = [layer(core, "x", g) + trnn.bias[g].flatten() for g in range(4)]
            if y is not None:
                gates = [gate + layer(y, "h", g) for g, gate in enumerate(gates)]
            f, i, o = (torch.sigmoid(g) for g in gates[:3])
            c = i * torch.tanh(gates[3]) + (f * c if c is not None else 0)
            y = o * torch.tanh(c)
            r = y
            for m, u in enumerate(trnn.factors):
                r = multiply(r, u, m)
            both = torch.cat([r, h], -1).reshape(-1, 2 * h.shape[-1])
            weights = head.own if head.own is not None else head.shared.expand(len(both), -1, -1)
            flat = torch.stack([weights[n] @ both[n] + head.bias[n % len(head.bias)] for n in range(len(both))])
            guess = flat[:, 0].reshape(shape)
        out.append(flat.T.reshape(-1, *shape))
    return torch.stack(out)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (4, 1, 3)])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("head", ["series", "shared"])
def test_the_paper_variant_equals_the_loops(shape: tuple[int, ...], missing: bool, head: str) -> None:
    model = Net3(
        shape,
        {0: ring(shape[0])} | ({2: ring(3)} if len(shape) == 3 else {}),
        options(variant="paper", head=head, horizon=2),
    )
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, 3, *shape, generator=generator)
    seen = torch.rand(z.shape, generator=generator) > 0.4 if missing else torch.ones_like(z, dtype=torch.bool)
    model.double()
    phases = torch.zeros(3, 5, 0, dtype=torch.int64)
    z = z.double()
    found = model(z, seen, phases)[0]
    torch.set_default_dtype(torch.float64)
    try:
        expected = naive_forecast(model, z, seen)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(found, expected, atol=1e-9)
    ours = torch.autograd.grad(found.square().sum(), list(model.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-5)
    model.float()
    assert torch.allclose(model(z.float(), seen, phases)[0].double(), expected, atol=1e-5)


def test_the_penalty_of_the_paper_and_hard_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    soft = TRNN((6, 4), options(variant="paper"), generator)
    expected = sum(float(torch.linalg.norm(u @ u.T - torch.eye(len(u))).detach()) for u in soft.factors)
    assert float(soft.penalty().detach()) == pytest.approx(expected, rel=1e-5)
    assert expected > 1  # a smaller core can never reach 0
    ours = TRNN((6, 4), options(orthonormal="soft"), generator)
    assert float(ours.penalty().detach()) < 1e-4
    hard = TRNN((6, 4), options(), generator)
    with torch.no_grad():
        for v in hard.factors:
            v.add_(torch.randn(v.shape, generator=generator))
    for u in hard.orthonormal():
        assert torch.allclose(u.T @ u, torch.eye(u.shape[1]), atol=1e-5)
    assert float(hard.penalty().detach()) == 0


def test_reconstruction_is_the_norm_of_what_the_core_loses() -> None:
    model = Net3((5, 3), {0: ring(5)}, options(variant="paper"))
    z = torch.randn(2, 3, 5, 3)
    lost = model(z, torch.ones_like(z, dtype=torch.bool), torch.zeros(2, 4, 0, dtype=torch.int64))[1]
    norms = []
    for h in model.tgcn(z.reshape(1, 6, 5, 3).permute(0, 2, 3, 1)).permute(3, 1, 2, 0):
        back = h
        for m, u in enumerate(model.trnn.factors):
            back = torch.tensordot(u @ u.T, back, dims=([1], [m])).movedim(0, m)
        norms.append(torch.linalg.norm(h - back).item())
    assert lost.item() == pytest.approx(np.mean(norms), rel=1e-5)


def test_graphs_are_normalised() -> None:
    (a,) = normalise((np.array([0, 1, 1, 2]), np.array([1, 0, 2, 1]), np.array([1, 1, 2, 2.0], np.float32)), 4)
    degrees = torch.tensor([1.0, 3.0, 2.0])
    assert torch.allclose(
        a[:3, :3], torch.tensor([[0, 1, 0], [1, 0, 2], [0, 2, 0.0]]) / (degrees[:, None] * degrees).sqrt()
    )
    assert float(a[3].abs().sum() + a[:, 3].abs().sum()) == 0  # a node that is not in the graph
    one_way = (np.array([0]), np.array([1]), np.array([2.0], np.float32))
    along, against = normalise(one_way, 2, directions="both")
    assert along.tolist() == [[0, 0], [1, 0]]
    assert torch.equal(against, along.T)
    with pytest.raises(InputError, match="names node 7"):
        normalise((np.array([0]), np.array([7]), np.ones(1, np.float32)), 3)
    with pytest.raises(InputError, match="not finite"):
        normalise((np.array([0]), np.array([1]), np.array([np.nan], np.float32)), 3)


def test_sparse_and_dense_matrices_agree() -> None:
    graph = ring(600)
    (a,) = normalise(graph, 600)
    assert a.is_sparse
    x = torch.randn(2, 3, 600, 2, requires_grad=True)
    sparse, dense = mode_product(x, a, 1), mode_product(x, a.to_dense(), 1)
    assert torch.allclose(sparse, dense, atol=1e-6)
    g_sparse, g_dense = (torch.autograd.grad(y.square().sum(), x)[0] for y in (sparse, dense))
    assert torch.allclose(g_sparse, g_dense, atol=1e-5)


def test_learnt_graph_has_rows_that_add_up_to_one() -> None:
    tgcn = TGCN((6,), {}, 1, options(learnt_rank=2), torch.Generator().manual_seed(0))
    moved = tgcn.subsets(torch.eye(6)[None])[1]  # column j: what entry j sends to everyone
    assert torch.allclose(moved.sum(1), torch.ones(6), atol=1e-6)
    assert torch.linalg.matrix_rank(moved) == 2


def test_linear_skip_and_heads() -> None:
    x = torch.randn(2, 3, 4, 2)
    own = torch.randn(4, 2, 4, 5)
    found = LinearSkip(own.numpy())(x)
    expected = torch.einsum("bwij,ijwh->bhij", x, own[..., :3, :]) + own[..., 3, :].permute(2, 0, 1)
    assert torch.allclose(found, expected, atol=1e-5)
    shared = torch.randn(4, 5)
    assert torch.allclose(LinearSkip(shared.numpy())(x), LinearSkip(shared.expand(4, 2, 4, 5).numpy())(x), atol=1e-5)
    head = Head((4, 2), 3, 5, options(), False, torch.Generator().manual_seed(0))
    assert head.own is not None
    with torch.no_grad():
        head.own.normal_()
    y = torch.randn(2, 4, 2, 3)
    expected = torch.einsum("bne,nhe->bhn", y.reshape(2, 8, 3), head.own + head.shared) + head.bias.T
    assert torch.allclose(head(y.permute(3, 1, 2, 0)), expected.reshape(2, 5, 4, 2), atol=1e-5)


@pytest.mark.parametrize("kind", ["rmse", "mse", "mae"])
def test_losses_and_empty_masks(kind: str) -> None:
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    mask = torch.rand(3, 4) > 0.5
    error = (x - y)[mask]
    expected = {"rmse": error.square().mean().sqrt(), "mse": error.square().mean(), "mae": error.abs().mean()}[kind]
    y[~mask] = np.nan
    assert torch.allclose(masked_loss(x, y, mask, kind), expected)
    nothing = masked_loss(x, y * np.nan, torch.zeros_like(mask), kind)
    (gradient,) = torch.autograd.grad(nothing, x)
    assert float(nothing.detach()) == pytest.approx(0, abs=1e-5)
    assert torch.equal(gradient, torch.zeros(3, 4))


def graph_var(T: int = 240, n: int = 8, k: int = 2, seed: int = 0) -> np.ndarray:
    """Each cell depends on the squares of its ring neighbours' last values, which an AR does not use."""
    generator = np.random.default_rng(seed)
    x = np.zeros((T, n, k), np.float32)
    for t in range(1, T):
        last = x[t - 1]
        x[t] = 0.25 * last + 0.6 * np.roll(last, 1, 0) + generator.normal(size=(n, k)) * 0.5
    return x


def test_beats_last_value_and_ar_on_a_graph_var() -> None:
    x = graph_var()
    training = ForecastTraining(x, {0: ring(8)}, options(learning_rate=0.01, epochs=8, patience=0))
    fit(training)
    W, scaler, stop = 3, training.scaler, training.split.train_end
    starts = training.starts(Split.TEST)
    last = measure(LastValue(x, scaler, W, 1).predict, x, starts, W, 1, scaler.scale).total["z_rmse"]
    ar = measure(LinearAR.fit(x, scaler, W, 1, stop=stop).predict, x, starts, W, 1, scaler.scale).total["z_rmse"]
    ours = training.evaluate(Split.TEST).total["z_rmse"]
    assert ours < 0.9 * ar < 0.9 * last


def test_smooth_recovery_beats_its_completion_and_causal() -> None:
    noise = np.random.default_rng(0).normal(size=(100, 24, 2)).astype(np.float32)
    x = sum(np.roll(noise, k, 1) for k in range(4))  # a cell resembles its neighbours at the same step
    assert isinstance(x, np.ndarray)
    found = {}
    for recovery in ("smooth", "causal"):
        settings = options(
            task="recover",
            recovery=recovery,
            window=1,
            learning_rate=0.03,
            hidden=0.3,
            batch_size=16,
            epochs=3,
            patience=0,
        )
        training = make_training(x, {0: ring(24)}, settings)
        start = training.evaluate(Split.TEST).total["z_rmse"]
        fit(training)
        found[recovery] = training.evaluate(Split.TEST).total["z_rmse"]
        assert found[recovery] < start
    assert found["smooth"] < 0.9 * found["causal"]


def test_recovery_never_reads_held_out_cells() -> None:
    x = graph_var(60)
    settings = options(task="recover", window=2, hidden=0.4)
    observed, targets = hold_out(x, settings.hidden, 0)
    assert not (observed & (targets[Split.VALID] | targets[Split.TEST])).any()
    assert (observed ^ targets[Split.VALID] ^ targets[Split.TEST]).all()
    for recovery in ("smooth", "causal"):
        predictions = []
        for values in (x, np.where(observed, x, np.float32(1e6)), np.where(observed, x, np.float32(np.nan))):
            o = options(task="recover", window=2, hidden=0.4, recovery=recovery)
            training = make_training(
                values, {0: ring(8)}, o, observed=observed & np.isfinite(values), eval_target=targets
            )
            train_epoch(training, 0)
            predictions.append(training.predict(np.arange(5)))
        assert np.array_equal(predictions[0], predictions[1])
        assert np.array_equal(predictions[0], predictions[2])


@pytest.mark.parametrize("settings", [{}, {"variant": "paper"}, {"dropout": 0.3, "ema": 0.5}])
def test_resumes_to_the_same_bits(settings: dict[str, object]) -> None:
    x = graph_var(80)
    calendar = Calendar.cycles(80, (7,))

    def begin() -> ForecastTraining:
        return ForecastTraining(x, {0: ring(8)}, options(**settings), calendar)

    whole, broken = begin(), begin()
    for step in range(whole.steps_per_epoch):
        whole.step(0, step)
    train_epoch(whole, 1)
    for step in range(3):
        broken.step(0, step)
    again = ForecastTraining(x, {0: ring(8)}, options(**settings), calendar, fitted=broken.state())
    for step in range(3, again.steps_per_epoch):
        again.step(0, step)
    train_epoch(again, 1)
    ours, theirs = whole.state(), again.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    fresh = begin()
    fresh.load(whole.weights())
    assert np.array_equal(fresh.predict(np.arange(4)), whole.predict(np.arange(4)))


@pytest.mark.parametrize("nodes", [8, 600])  # 600: the graph is a sparse matrix
@pytest.mark.parametrize("settings", [{}, {"task": "recover", "recovery": "causal"}, {"task": "recover"}])
def test_a_pickled_training_continues_bit_for_bit(settings: dict[str, object], nodes: int, tmp_path: Path) -> None:
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(30, nodes, 1))
    x[:] = graph_var(30, nodes, 1)
    chosen = {"window": 1} if settings == {"task": "recover"} else {"season": 4.0, "season_rank": 0, "ridge": 10.0}
    given = options(**settings, **chosen, rank=2) if "task" in settings else options(**chosen)
    training = make_training(x, {0: ring(nodes)}, given, Calendar.cycles(30, (7,)))
    copy = pickle.loads(pickle.dumps(training))
    assert [training.step(0, k) for k in range(3)] == [copy.step(0, k) for k in range(3)]
    later = pickle.loads(pickle.dumps(training))
    assert training.step(1, 0) == copy.step(1, 0) == later.step(1, 0)
    assert training.evaluate(Split.VALID).rows() == later.evaluate(Split.VALID).rows()
    ours, theirs = training.state(), later.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_weights_carry_what_was_fitted() -> None:
    """A model for new values of the same series gets scaler, seasonal means and linear_skip from the stored one."""
    x, calendar = graph_var(80), Calendar.cycles(80, (7,))
    trained = ForecastTraining(x, {0: ring(8)}, options(), calendar)
    train_epoch(trained, 0)
    longer = np.concatenate([x, x[:40] * 9])
    other = ForecastTraining(longer, {0: ring(8)}, options(), calendar, fitted=trained.weights())
    assert np.array_equal(other.predict(np.arange(4)), trained.predict(np.arange(4)))
    assert torch.equal(other.chosen, trained.chosen)


def test_smooth_recovery_is_restored() -> None:
    x, settings = graph_var(50), options(task="recover")
    trained = make_training(x, {0: ring(8)}, settings)
    trained.step(0, 0)
    again = make_training(x, {0: ring(8)}, settings, fitted=trained.state())
    for training in (trained, again):
        training.step(0, 1)
    ours, theirs = trained.state(), again.state()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert np.array_equal(trained.predict(np.arange(5)), again.predict(np.arange(5)))


EDGES: list[tuple[str, tuple[int, ...], dict[str, object]]] = [
    ("one series", (40, 1), {}),
    ("a mode of one", (40, 1, 3), {}),
    ("batches of one", (40, 4), {"batch_size": 1}),
    ("horizon", (40, 4, 2), {"horizon": 3}),
    ("window of one", (40, 4), {"window": 1}),
    ("window longer than the data", (10, 4), {"window": 30}),
    ("one step", (1, 4), {}),
    ("three modes", (40, 2, 3, 2), {}),
    ("shared weights", (40, 4), {"head": "shared", "linear_skip": "shared"}),
    ("paper", (40, 4, 1), {"variant": "paper"}),
]


@pytest.mark.parametrize(("shape", "settings"), [e[1:] for e in EDGES], ids=[e[0] for e in EDGES])
@pytest.mark.parametrize("task", ["forecast", "causal", "smooth"])
def test_edges_neither_crash_nor_give_nan(shape: tuple[int, ...], settings: dict[str, object], task: str) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x.reshape(len(x), -1)[:, 0] = 7  # a constant series
    x.reshape(len(x), -1)[: len(x) // 2, -1] = np.nan  # one that starts late
    if task != "forecast":
        if "horizon" in settings or (settings.get("variant") and task == "smooth"):
            return  # there is no such option
        settings = settings | {"task": "recover", "recovery": task}
    o = options(**settings)
    graphs = {0: (np.array([0]), np.array([shape[1] - 1]), np.ones(1, np.float32))}
    training = make_training(x, graphs, o, Calendar.cycles(len(x), (5,)))
    train_epoch(training, 0)
    predicted = training.predict(np.array([0, max(0, len(x) - o.window)]))
    assert predicted.shape == (2, o.horizon, *shape[1:])
    assert np.isfinite(predicted).all()
    for part in (Split.VALID, Split.TEST):
        rows = training.evaluate(part).rows()
        assert len(rows) == o.horizon + 1
        assert all(math.isfinite(r["z_rmse"]) == (r["cells"] > 0) for r in rows)
    assert all(bool(torch.isfinite(v).all()) for v in training.state().values())


@pytest.mark.parametrize("task", ["forecast", "recover"])
def test_nothing_observed_at_all(task: str) -> None:
    training = make_training(np.full((30, 3), np.nan, np.float32), {0: ring(3)}, options(task=task))
    assert np.isfinite([train_epoch(training, 0)]).all()
    assert np.isfinite(training.predict(np.arange(2))).all()


def test_wrong_shapes_and_extremes() -> None:
    with pytest.raises(InputError, match="at least one mode"):
        make_training(np.zeros(5, np.float32), {}, options())
    training = ForecastTraining(graph_var(40), {}, options())
    with torch.no_grad():
        training.model.head.bias.fill_(math.inf)
    with pytest.raises(TrainingDiverged):
        training.step(0, 0)


CHANGES: dict[str, object] = {
    "window": 2, "dim": 3, "core": 1.0, "core_limit": 1, "orthonormal": "soft", "reconstruction": 0.5, "head": "shared",
    "linear_skip": "shared", "ridge": 500.0, "season": 50.0, "season_rank": 1, "calendar": False, "identity": False,
    "learnt_rank": 0, "directions": "along", "loss": "mae", "batch_size": 16, "learning_rate": 0.1, "dropout": 0.5,
    "weight_decay": 5.0, "ema": 0.0, "seed": 5, "variant": "paper", "split": (0.5, 0.25, 0.25), "horizon": 2,
}  # fmt: skip
ELSEWHERE = {
    "task", "recovery", "hidden", "rank", "orthonormality", "epochs", "evaluate_every", "patience", "device", "threads",
    "checkpoint_seconds", "baselines", "baseline_share",
}  # fmt: skip


def test_every_option_changes_something() -> None:
    assert {f.name for f in fields(Net3Options)} == set(CHANGES) | ELSEWHERE
    x, calendar = graph_var(60), Calendar.cycles(60, (7,))
    one_way = (np.arange(7), np.arange(1, 8), np.ones(7, np.float32))

    def outcome(**changes: object) -> np.ndarray:
        training = ForecastTraining(x, {0: one_way}, options(**changes), calendar)
        for epoch in range(2):
            train_epoch(training, epoch)
        return training.predict(np.arange(50, 53))

    plain = outcome()
    assert np.array_equal(plain, outcome())
    for name, value in CHANGES.items():
        found = outcome(**{name: value})
        assert found.shape != plain.shape or not np.allclose(found, plain, atol=1e-6), name
    soft = {"orthonormal": "soft"}
    assert not np.array_equal(outcome(**soft), outcome(**soft, orthonormality=1.0))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"horizon": 0}, "horizon"),
        ({"window": -1}, "window"),
        ({"core": 0.0}, "core"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"split": (0.8, 0.3, 0.1)}, "split"),
        ({"split": (0.5, 0.5)}, "split"),
        ({"dropout": 1.0}, "dropout"),
        ({"variant": "paper", "linear_skip": "shared"}, "linear_skip"),
        ({"variant": "paper", "task": "recover"}, "recovery"),
        ({"task": "recover", "horizon": 2}, "horizon"),
        ({"hidden": 1.0}, "hidden"),
    ],
)
def test_wrong_options(changes: dict[str, object], key: str) -> None:
    with pytest.raises(OptionError) as error:
        Net3Options(**changes)  # type: ignore[arg-type]
    assert error.value.key == key


def test_early_stop_keeps_the_best() -> None:
    training = ForecastTraining(graph_var(40), {}, options())
    stop = EarlyStop(2)
    assert [stop.update(score, training) for score in (1.0, 0.5, 0.6)] == [False, False, False]
    kept = stop.best
    train_epoch(training, 0)
    assert stop.update(math.nan, training)
    assert stop.best is kept
    assert stop.best_score == 0.5
