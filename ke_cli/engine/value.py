"""Value optimisation: the vector to add at a lookup position so that a model says what it should.

Objective of one problem (source: ROME, arXiv 2202.05262, section 3.1, equation 4, with the decay of the authors' code):

    sum of weights * nll(target | row, delta)                          target rows (weights add up to 1)
    + kl_factor * KL( P(. | row, delta) || P(. | row) )                 essence row
    + weight_decay * ||delta|| / ||v_init||^2
    + sum of weights * distance(h(row, delta), goal)                    match rows (TOP, relation targets)
    + pull * ||delta - anchor||^2                                       two-level integration

Problems are independent: solved together or alone they give the same ``delta``. All rows of all problems that have not
converged run in one batch, above the edited layer and from the lookup position on only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ke_cli.engine.batching import halving
from ke_cli.engine.edits import NO_EDIT, Edit, attached
from ke_cli.engine.partial import PartialForward, Where, prepare
from ke_cli.models.editable import EditableModel

Distance = Literal["euclidean", "squared"]


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A prompt with its target: the logits at ``positions`` shall predict ``targets``.

    Args:
        ids: Token ids without the last target token.
        lookup: Index of the token at which the value is added.
        positions: Where each target token is predicted.
        targets: The target's token ids.
        weight: Share in the problem's mean.
    """

    ids: tuple[int, ...]
    lookup: int
    positions: tuple[int, ...]
    targets: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class EssenceRow:
    """A prompt whose next-token distribution shall stay: ``KL(current || unedited)`` at token ``position``."""

    ids: tuple[int, ...]
    lookup: int
    position: int


@dataclass(frozen=True, eq=False, slots=True)
class MatchRow:
    """A prompt whose residual stream behind ``layer`` shall reach ``goal [d]`` at token ``position``."""

    ids: tuple[int, ...]
    lookup: int
    layer: int
    position: int
    goal: Tensor
    weight: float
    distance: Distance = "euclidean"


Row = TargetRow | EssenceRow | MatchRow


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """One value to find. ``rows[0]`` is the un-prefixed prompt: its activation is ``v_init``.

    Args:
        rows: Target and essence rows, or match rows of one layer.
        start: ``[d]`` first value of delta (zero without).
        anchor: ``[d]`` point that the pull term draws towards.
        edit: An edit that is already in place when the value is looked for.
    """

    rows: tuple[Row, ...]
    start: Tensor | None = None
    anchor: Tensor | None = None
    edit: Edit = NO_EDIT


@dataclass(frozen=True, slots=True)
class Objective:
    """Hyper-parameters of the optimisation; the loss is evaluated ``steps`` times, delta updated one time fewer.

    Args:
        steps: Evaluations of the loss.
        lr: Adam's step size.
        threshold: A problem ends as soon as its total loss is below.
        clamp: ``||delta|| <= clamp * ||v_init||`` after each update.
        kl_factor: Weight of the essence rows.
        weight_decay: Weight of ``||delta|| / ||v_init||^2`` (norm over squared norm, as the published code does).
        pull: Weight of ``||delta - anchor||^2``.
    """

    steps: int
    lr: float
    threshold: float
    clamp: float
    kl_factor: float
    weight_decay: float
    pull: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class Solution:
    """The value found.

    Args:
        delta: ``[d]`` float32.
        initial: ``[d]`` ``v_init``.
        losses: Total loss at each evaluation, in nats.
    """

    delta: Tensor
    initial: Tensor
    losses: tuple[float, ...] = field(default=())

    @property
    def value(self) -> Tensor:
        """``v* = v_init + delta``."""
        return self.initial + self.delta


def optimise(
    model: EditableModel,
    problems: Sequence[Problem],
    objective: Objective,
    layer: int,
    where: Where,
    *,
    budget: int,
) -> list[Solution]:
    """Solve independent problems together.

    Args:
        model: The model.
        problems: Any number; batched so that no batch exceeds ``budget`` tokens.
        objective: Hyper-parameters, the same for all.
        layer: Layer that the value is added to.
        where: ``mlp`` (the projection's output) or ``layer`` (the residual stream behind the layer).
        budget: Tokens per batch.

    Returns:
        One solution per problem, in order.
    """
    solutions: list[Solution] = []
    for package in _packages(problems, budget):
        solutions += halving(lambda part: _Loop(model, part, objective, layer, where).run(), package)
    return solutions


def _packages(problems: Sequence[Problem], budget: int) -> list[list[Problem]]:
    """Consecutive problems whose padded rows fit the budget; one that does not fit is alone."""
    packages: list[list[Problem]] = []
    rows, longest = 0, 0
    for problem in problems:
        length = max(len(row.ids) for row in problem.rows)
        if packages and (rows + len(problem.rows)) * max(longest, length) <= budget:
            packages[-1].append(problem)
        else:
            packages.append([problem])
            rows, longest = 0, 0
        rows, longest = rows + len(problem.rows), max(longest, length)
    return packages


class _Loop:
    """The optimisation of one package of problems."""

    def __init__(
        self,
        model: EditableModel,
        problems: Sequence[Problem],
        objective: Objective,
        layer: int,
        where: Where,
    ) -> None:
        self.objective, self.problems, self.model = objective, problems, model
        rows = [row for problem in problems for row in problem.rows]
        owners = [k for k, problem in enumerate(problems) for _ in problem.rows]
        with self._edits_in_place(owners):
            self.fixed = prepare(model, [row.ids for row in rows], [row.lookup for row in rows], layer, where)
        first = torch.tensor([0, *torch.tensor([len(p.rows) for p in problems]).cumsum(0)[:-1].tolist()])
        self.initial = _exact(self.fixed.initial[first.to(model.device)])  # [n, d]
        self.deltas = [_start(problem, self.initial[i]) for i, problem in enumerate(problems)]
        self.batch = _Batch.of(problems, range(len(problems)), self.fixed)
        self.unedited = self._unedited_essence()

    def _edits_in_place(self, owners: Sequence[int]) -> AbstractContextManager[None]:
        """Attach each row's own earlier edit; ``owners [b]`` are problem numbers."""
        if not any(problem.edit.updates for problem in self.problems):
            return nullcontext()
        return attached(self.model, [problem.edit for problem in self.problems], owners)

    def _unedited_essence(self) -> Tensor:
        """``[n, V]`` log-probabilities of every problem's essence row before the edit (zeros where it has none)."""
        batch = self.batch
        if not len(batch.essence_rows):
            return self.initial.new_zeros(len(self.problems), 0)
        zero = torch.zeros_like(self.fixed.initial)
        with torch.no_grad(), self._edits_in_place(batch.owner.tolist()):
            logits = self.fixed.logits(zero, batch.essence_rows, batch.essence_positions)
        kept = logits.new_zeros(len(self.problems), logits.shape[-1])
        kept[batch.essence_owner] = F.log_softmax(logits, dim=-1)
        return kept

    def run(self) -> list[Solution]:
        """Take Adam steps until every problem has converged or the steps are used up."""
        adam = torch.optim.Adam(self.deltas, lr=self.objective.lr)
        losses: list[list[float]] = [[] for _ in self.problems]
        active = list(range(len(self.problems)))
        for step in range(self.objective.steps):
            with self._edits_in_place([active[k] for k in self.batch.owner.tolist()]):
                loss = self._loss(active)  # [k]
            values = loss.detach().tolist()
            for problem, value in zip(active, values, strict=True):
                losses[problem].append(value)
            going = [k for k, value in enumerate(values) if not value < self.objective.threshold]
            if not going or step == self.objective.steps - 1:
                break
            adam.zero_grad(set_to_none=True)
            loss[going].sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
            self._drop(going, active)
            active = [active[k] for k in going]
            self._clamp(active)
        return [
            Solution(d.detach(), v, tuple(losses[i]))
            for i, (d, v) in enumerate(zip(self.deltas, self.initial, strict=True))
        ]

    def _drop(self, going: Sequence[int], active: Sequence[int]) -> None:
        """Take the rows of converged problems out of the batch."""
        if len(going) == len(active):
            return
        keep = torch.isin(self.batch.owner, torch.tensor(going, device=self.batch.owner.device)).nonzero()[:, 0]
        self.fixed = self.fixed.select(keep)
        self.batch = _Batch.of(self.problems, [active[k] for k in going], self.fixed)

    @torch.no_grad()
    def _clamp(self, active: Sequence[int]) -> None:
        for problem in active:
            limit = self.objective.clamp * self.initial[problem].norm()
            norm = self.deltas[problem].norm()
            if norm > limit:
                self.deltas[problem].mul_(limit / norm)

    def _loss(self, active: Sequence[int]) -> Tensor:
        """Total loss ``[k]`` of each problem that is still going."""
        delta = torch.stack([self.deltas[problem] for problem in active])  # [k, d]
        initial = self.initial[list(active)]
        loss = self.objective.weight_decay * delta.norm(dim=-1) / initial.norm(dim=-1) ** 2
        loss = loss + self._pull(delta, active)
        batch, rows = self.batch, delta[self.batch.owner]  # [b, d]
        if len(batch.match_rows):
            return loss + batch.match_loss(self.fixed, rows, len(active))
        positions = torch.cat([batch.target_positions, batch.essence_positions])
        logits = self.fixed.logits(rows, torch.cat([batch.target_rows, batch.essence_rows]), positions)
        log_probabilities = F.log_softmax(logits, dim=-1)
        n = len(batch.target_rows)
        loss = loss + batch.target_loss(log_probabilities[:n], len(active))
        unedited = self.unedited[[active[k] for k in batch.essence_owner.tolist()]]
        return loss + self.objective.kl_factor * batch.essence_loss(log_probabilities[n:], unedited, len(active))

    def _pull(self, delta: Tensor, active: Sequence[int]) -> Tensor:
        anchors = [self.problems[problem].anchor for problem in active]
        if not self.objective.pull or all(anchor is None for anchor in anchors):
            return delta.new_zeros(len(active))
        goal = torch.stack([d.detach() if a is None else a.to(d) for a, d in zip(anchors, delta, strict=True)])
        return self.objective.pull * (delta - goal).pow(2).sum(dim=-1)


def _exact(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _start(problem: Problem, like: Tensor) -> Tensor:
    start = torch.zeros_like(like) if problem.start is None else problem.start.to(like).clone()
    return start.requires_grad_()


@dataclass(frozen=True, eq=False)
class _Batch:
    """Index tensors of the rows of the problems that are still going; ``k`` counts these problems.

    ``owner [b]`` is the problem of each row; ``target_*`` have one entry per target token, ``essence_*`` one per
    essence row, ``match_*`` one per match row.
    """

    owner: Tensor
    target_rows: Tensor
    target_positions: Tensor
    target_ids: Tensor
    target_owner: Tensor
    target_weights: Tensor
    essence_rows: Tensor
    essence_positions: Tensor
    essence_owner: Tensor
    match_rows: Tensor
    matches: tuple[MatchRow, ...]

    @classmethod
    def of(cls, problems: Sequence[Problem], active: Sequence[int], fixed: PartialForward) -> _Batch:
        """Lay out the rows of the problems ``active`` in order; their rows are those of ``fixed``."""
        rows = [(k, row) for k, problem in enumerate(active) for row in problems[problem].rows]
        targets = [
            (b, position, token, k, row.weight / len(row.targets))
            for b, (k, row) in enumerate(rows)
            if isinstance(row, TargetRow)
            for position, token in zip(row.positions, row.targets, strict=True)
        ]
        essences = [(b, row.position, k) for b, (k, row) in enumerate(rows) if isinstance(row, EssenceRow)]
        matches = [(b, row) for b, (_, row) in enumerate(rows) if isinstance(row, MatchRow)]
        device = fixed.starts.device

        def column(entries: Sequence[tuple[Any, ...]], index: int) -> Tensor:
            return torch.tensor([entry[index] for entry in entries], dtype=torch.long, device=device)

        weights = torch.tensor([entry[4] for entry in targets], dtype=torch.float64, device=device)
        return cls(
            owner=torch.tensor([k for k, _ in rows], device=device),
            target_rows=column(targets, 0),
            target_positions=column(targets, 1),
            target_ids=column(targets, 2),
            target_owner=column(targets, 3),
            target_weights=weights.to(_exact(fixed.initial).dtype),
            essence_rows=column(essences, 0),
            essence_positions=column(essences, 1),
            essence_owner=column(essences, 2),
            match_rows=column(matches, 0),
            matches=tuple(row for _, row in matches),
        )

    def target_loss(self, log_probabilities: Tensor, k: int) -> Tensor:
        """Weighted mean NLL ``[k]`` from log-probabilities ``[n, V]`` at the target positions."""
        nll: Tensor = -log_probabilities.gather(1, self.target_ids[:, None])[:, 0]  # [n]
        return nll.new_zeros(k).index_add(0, self.target_owner, nll * self.target_weights)

    def essence_loss(self, current: Tensor, unedited: Tensor, k: int) -> Tensor:
        """``KL(current || unedited)`` ``[k]`` from log-probabilities ``[e, V]``."""
        kl: Tensor = (current.exp() * (current - unedited)).sum(dim=-1)
        return kl.new_zeros(k).index_add(0, self.essence_owner, kl)

    def match_loss(self, fixed: PartialForward, delta: Tensor, k: int) -> Tensor:
        """Weighted distances ``[k]`` of the residual stream to the goals of the match rows."""
        positions = torch.tensor([row.position for row in self.matches], device=delta.device)
        hidden = fixed.hidden_at(delta, self.matches[0].layer, self.match_rows, positions)  # [n, d]
        goals = torch.stack([row.goal for row in self.matches]).to(hidden)
        weights = torch.tensor([row.weight for row in self.matches], device=delta.device, dtype=hidden.dtype)
        if self.matches[0].distance == "euclidean":
            distances = F.pairwise_distance(hidden, goals)
        else:
            distances = (hidden - goals).pow(2).sum(dim=-1)
        return hidden.new_zeros(k).index_add(0, self.owner[self.match_rows], distances * weights)
