"""Losses of sampled negatives and of 1-vs-all scoring, each with its hand-derived gradient.

`value` is differentiable torch and is the reference; `gradient` is what the fused step uses. Losses are summed over
queries. Shapes: B queries, N negatives, E entities. A masked negative carries the score MASKED.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from graphlearn.models.kge.options import KgeOptions

MASKED = -1e30


class Loss(ABC):
    """A loss on the score of the answer and the scores of negatives."""

    @abstractmethod
    def value(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        """Sum over queries; differentiable. shape: [B], [B, N] -> []"""

    @abstractmethod
    def gradient(self, positive_B: Tensor, negative_BN: Tensor) -> tuple[float, Tensor, Tensor]:
        """(sum of losses, d/d positive [B], d/d negative [B, N]). May overwrite `negative_BN`."""


class Softmax(Loss):
    """Cross-entropy of the answer against the negatives.

    `log_weight` is added to the scores of negatives: log(E / N) lets N uniform draws represent all E entities (sampled
    softmax with importance weights, Jean et al. 2015).
    """

    def __init__(self, log_weight: float = 0.0) -> None:
        self.log_weight = log_weight

    def value(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        logits = torch.cat([positive_B.unsqueeze(1), negative_BN + self.log_weight], dim=1)
        return (torch.logsumexp(logits, dim=1) - positive_B).sum()

    def gradient(self, positive_B: Tensor, negative_BN: Tensor) -> tuple[float, Tensor, Tensor]:
        negative_BN += self.log_weight
        top = torch.maximum(negative_BN.amax(dim=1), positive_B)
        g_neg = negative_BN.sub_(top.unsqueeze(1)).exp_()
        own = (positive_B - top).exp_()
        total = g_neg.sum(dim=1) + own
        g_neg.div_(total.unsqueeze(1))
        loss = float((total.log() + (top - positive_B)).sum())
        return loss, own / total - 1, g_neg


class Logistic(Loss):
    """-log sigmoid(margin + s) - sum_j p_j log sigmoid(-margin - s_j), halved. Sun et al. 2019, equations 4 and 5.

    p = softmax(temperature * s_j), constant in the gradient; temperature 0 is the plain mean.
    """

    def __init__(self, margin: float, temperature: float) -> None:
        self.margin, self.temperature = margin, temperature

    def _weights(self, negative_BN: Tensor) -> Tensor:
        if self.temperature:
            return torch.softmax(negative_BN.detach() * self.temperature, dim=1)
        return torch.full_like(negative_BN, 1 / negative_BN.shape[1])

    def value(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        away = (self._weights(negative_BN) * F.softplus(negative_BN + self.margin)).sum(dim=1)
        return 0.5 * (F.softplus(-positive_B - self.margin) + away).sum()

    def gradient(self, positive_B: Tensor, negative_BN: Tensor) -> tuple[float, Tensor, Tensor]:
        weights = self._weights(negative_BN)
        negative_BN += self.margin
        loss = 0.5 * float(
            F.softplus(-positive_B - self.margin).sum()
            + torch.dot(weights.flatten(), F.softplus(negative_BN).flatten())
        )
        g_pos = -0.5 * torch.sigmoid(-positive_B - self.margin)
        return loss, g_pos, weights.mul_(negative_BN.sigmoid_()).mul_(0.5)


class Margin(Loss):
    """mean_j max(0, margin - s + s_j). Bordes et al. 2013, equation 1."""

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def value(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        return F.relu(self.margin - positive_B.unsqueeze(1) + negative_BN).mean(dim=1).sum()

    def gradient(self, positive_B: Tensor, negative_BN: Tensor) -> tuple[float, Tensor, Tensor]:
        share = 1 / negative_BN.shape[1]
        slack = negative_BN.add_((self.margin - positive_B).unsqueeze(1)).clamp_min_(0)
        loss = float(slack.sum()) * share
        g_neg = slack.sign_().mul_(share)
        return loss, -g_neg.sum(dim=1), g_neg


class BinaryCrossEntropy(Loss):
    """-log sigmoid(s + margin) - sum_j log sigmoid(-s_j - margin)."""

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def value(self, positive_B: Tensor, negative_BN: Tensor) -> Tensor:
        away = F.softplus(negative_BN + self.margin).sum(dim=1)
        return (F.softplus(-positive_B - self.margin) + away).sum()

    def gradient(self, positive_B: Tensor, negative_BN: Tensor) -> tuple[float, Tensor, Tensor]:
        negative_BN += self.margin
        loss = float(F.softplus(-positive_B - self.margin).sum() + F.softplus(negative_BN).sum())
        return loss, -torch.sigmoid(-positive_B - self.margin), negative_BN.sigmoid_()


def sampled_loss(options: KgeOptions, n_entities: int) -> Loss:
    """The loss that the options name, for sampled negatives."""
    if options.loss == "softmax":
        return Softmax(math.log(n_entities / max(1, options.negatives)))
    if options.loss == "logistic":
        return Logistic(options.margin, options.adversarial_temperature)
    if options.loss == "margin":
        return Margin(options.margin)
    return BinaryCrossEntropy(options.margin)


class OneVsAll(ABC):
    """A loss on the scores of all entities, for queries that may have several answers."""

    @abstractmethod
    def gradient(self, scores_BE: Tensor, rows: Tensor, answers: Tensor, counts_B: Tensor) -> tuple[float, Tensor]:
        """(sum of losses, gradient [B, E], which overwrites `scores_BE`).

        Answer k belongs to query rows[k] and is entity answers[k]; counts_B holds the answers of each query.
        """


class OneVsAllSoftmax(OneVsAll):
    """The cross-entropy of each triple over all entities; the answers of a query share one row of scores."""

    def gradient(self, scores_BE: Tensor, rows: Tensor, answers: Tensor, counts_B: Tensor) -> tuple[float, Tensor]:
        own = scores_BE[rows, answers].float()
        top = scores_BE.amax(dim=1, keepdim=True)
        weights = scores_BE.sub_(top).exp_()
        total = weights.sum(dim=1, dtype=torch.float32)
        loss = float((counts_B * (total.log() + top.squeeze(1).float())).sum() - own.sum())
        weights.mul_((counts_B / total).to(weights.dtype).unsqueeze(1))
        weights.index_put_((rows, answers), -torch.ones_like(own).to(weights.dtype), accumulate=True)
        return loss, weights


class OneVsAllBinary(OneVsAll):
    """Binary cross-entropy of every entity: 1 for answers, 0 for the rest (KvsAll, Dettmers et al. 2018)."""

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def gradient(self, scores_BE: Tensor, rows: Tensor, answers: Tensor, counts_B: Tensor) -> tuple[float, Tensor]:
        scores_BE += self.margin
        own = scores_BE[rows, answers].float()
        loss = float(F.softplus(scores_BE).sum(dtype=torch.float32) - own.sum())
        weights = scores_BE.sigmoid_()
        weights.index_put_((rows, answers), -torch.ones_like(own).to(weights.dtype), accumulate=True)
        return loss, weights


def one_vs_all_loss(options: KgeOptions) -> OneVsAll:
    """The loss that the options name, for scores of all entities."""
    return OneVsAllSoftmax() if options.loss == "softmax" else OneVsAllBinary(options.margin)
