"""Value optimisation: the vector to add at a lookup position so that a model says what it should.

Objective of one problem (source: ROME, arXiv 2202.05262, section 3.1, equation 4, with the decay of the authors' code):

    sum of weights * nll(target | row, delta)                          target rows (weights add up to 1)
    + kl_factor * KL( P(. | row, delta) || P(. | row) )                 essence row
    + weight_decay * ||delta|| / ||v_init||^2
    + sum of weights * distance(h(row, delta), goal)                    match rows (TOP, relation targets)
    + pull * ||delta - anchor||^2                                       two-level integration

With a value in two parts (attention and MLP output) the decay is the sum over both, and each is clamped by its own
``||v_init||``.

Problems are independent: solved together or alone they give the same ``delta``. All rows of all problems that have not
converged run in one batch, above the edited layer and from the lookup position on only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ke_cli.engine.batching import Budget, Size, in_batches
from ke_cli.engine.edits import attached
from ke_cli.engine.packages import thrifty_on
from ke_cli.engine.partial import adds_to_residual, prepare
from ke_cli.engine.problems import Objective, Problem, Solution, Where, read_part
from ke_cli.engine.value_rows import ValueRows, exact
from ke_cli.models.editable import EditableModel


def optimise(
    model: EditableModel,
    problems: Sequence[Problem],
    objective: Objective,
    layer: int,
    where: Where,
    *,
    budget: int | Budget,
    keys: bool = False,
) -> list[Solution]:
    """Solve independent problems together.

    Args:
        model: The model.
        problems: Any number; batched so that no batch exceeds ``budget`` tokens.
        objective: Hyper-parameters, the same for all.
        layer: Layer that the value is added to.
        where: ``mlp`` (the projection's output), ``layer`` (the residual stream behind the layer), or
            ``attention_and_mlp`` (a part for each; values are then ``[2 d]``).
        budget: Tokens per batch.
        keys: Whether the solutions shall hold the keys of their rows, which are read in passing.

    Returns:
        One solution per problem, in order.
    """
    sizes = [_size(problem) for problem in problems]
    layout = thrifty_on(model.device.type)
    return in_batches(
        lambda part: _Loop(model, part, objective, layer, where).run(keys), problems, sizes, budget, layout=layout
    )


def _size(problem: Problem) -> Size:
    """What a step costs is the tokens from the lookup position on, so these are what should be of one length."""
    rows = problem.rows
    lengths = [len(read_part(row)) for row in rows]
    return Size(len(rows), max(lengths), max(n - row.lookup for n, row in zip(lengths, rows, strict=True)))


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
        self.parts = 2 if where == "attention_and_mlp" else 1
        self.sure_for = [0] * len(problems)  # consecutive evaluations
        rows = [row for problem in problems for row in problem.rows]
        owners = [k for k, problem in enumerate(problems) for _ in problem.rows]
        self.edited = any(problem.edit.updates for problem in problems)
        residual = adds_to_residual(model, layer)  # before edits are attached: it runs a row of its own
        with self._edits_in_place(owners):
            ids, lookups = [read_part(row) for row in rows], [row.lookup for row in rows]
            self.fixed = prepare(model, ids, lookups, layer, where, residual=residual, share=not self.edited)
        first = torch.tensor([0, *torch.tensor([len(p.rows) for p in problems]).cumsum(0)[:-1].tolist()])
        self.initial = exact(self.fixed.initial[first.to(model.device)])  # [n, d]
        self.limits = objective.clamp * self._norms(self.initial)  # [n, p]
        starts = [_start(problem, initial) for problem, initial in zip(problems, self.initial, strict=True)]
        self.delta = torch.stack(starts).requires_grad_()  # [n, d]
        self.batch = ValueRows.of(problems, range(len(problems)), self.fixed)
        self.unedited = self._unedited_essence()

    def _edits_in_place(self, owners: Sequence[int]) -> AbstractContextManager[None]:
        """Attach each row's own earlier edit; ``owners [b]`` are problem numbers."""
        if not self.edited:
            return nullcontext()
        return attached(self.model, [problem.edit for problem in self.problems], owners)

    @torch.no_grad()
    def _unedited_essence(self) -> Tensor:
        """``[n, V]`` log-probabilities of every problem's essence row before the edit (zeros where it has none)."""
        batch, rows = self.batch, self.batch.essence_rows
        if not len(rows):
            return self.initial.new_zeros(len(self.problems), 0)
        fixed, places = self.fixed.select(rows), torch.arange(len(rows), device=rows.device)
        with self._edits_in_place(batch.essence_owner.tolist()):
            logits = fixed.logits(torch.zeros_like(fixed.initial), places, batch.essence_positions)
        kept = logits.new_zeros(len(self.problems), logits.shape[-1])
        kept[batch.essence_owner] = F.log_softmax(logits, dim=-1)
        return kept

    def run(self, keys: bool) -> list[Solution]:
        """Take Adam steps until every problem has converged or the steps are used up."""
        adam = torch.optim.Adam([self.delta], lr=self.objective.lr)
        losses: list[list[float]] = [[] for _ in self.problems]
        found: list[Tensor] = list(self.delta.detach())
        rows: Sequence[Tensor | None] = self._keys() if keys else [None] * len(found)
        active = list(range(len(self.problems)))
        for step in range(self.objective.steps):
            with self._edits_in_place([active[k] for k in self.batch.owner.tolist()]):
                terms = self._terms(active)
            values = terms.loss.detach().tolist()
            for problem, value in zip(active, values, strict=True):
                losses[problem].append(value)
            going = self._going(active, values, terms)
            for k in {*range(len(active))} - {*going}:  # Adam's momentum must not move what has converged
                found[active[k]] = self.delta.detach()[active[k]].clone()
            if not going or step == self.objective.steps - 1:
                break
            adam.zero_grad(set_to_none=True)
            terms.loss[going].sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
            self._clamp()
            self._drop(going, active)
            active = [active[k] for k in going]
        for problem in active:
            found[problem] = self.delta.detach()[problem].clone()
        return [
            Solution(delta, initial, tuple(told), read)
            for delta, initial, told, read in zip(found, self.initial, losses, rows, strict=True)
        ]

    def _keys(self) -> list[Tensor]:
        """Per problem the keys ``[r, m]`` of its rows at their lookup positions."""
        return list(torch.split(exact(self.fixed.keys), [len(problem.rows) for problem in self.problems]))

    def _going(self, active: Sequence[int], values: Sequence[float], terms: _Terms) -> list[int]:
        """Which of the active problems have not ended with this evaluation."""
        ended = [value < self.objective.threshold for value in values]
        if terms.sure is not None:
            for problem, sure in zip(active, terms.sure.tolist(), strict=True):
                self.sure_for[problem] = self.sure_for[problem] + 1 if sure else 0
            essence = terms.essence.detach().tolist()
            limit, patience = self.objective.sure_kl, self.objective.patience
            for k, problem in enumerate(active):
                ended[k] |= patience is not None and self.sure_for[problem] >= patience
                ended[k] |= limit is not None and self.sure_for[problem] > 0 and essence[k] <= limit
        return [k for k, done in enumerate(ended) if not done]

    def _drop(self, going: Sequence[int], active: Sequence[int]) -> None:
        """Take the rows of converged problems out of the batch."""
        if len(going) == len(active):
            return
        keep = torch.isin(self.batch.owner, torch.tensor(going, device=self.batch.owner.device)).nonzero()[:, 0]
        self.fixed = self.fixed.select(keep)
        self.batch = ValueRows.of(self.problems, [active[k] for k in going], self.fixed)

    def _norms(self, values: Tensor) -> Tensor:
        """Norm of each part of values ``[..., p d]``: ``[..., p]``."""
        return torch.stack([part.norm(dim=-1) for part in values.chunk(self.parts, dim=-1)], dim=-1)

    @torch.no_grad()
    def _clamp(self) -> None:
        """Scale every part back into its ball; a step that overflowed must not be scaled to look sane."""
        norms = self._norms(self.delta)  # [n, p]
        scale = torch.where(norms > self.limits, self.limits / norms, torch.ones_like(norms))
        scale = scale.masked_fill(~torch.isfinite(norms), math.nan)
        self.delta.mul_(scale.repeat_interleave(self.delta.shape[-1] // self.parts, dim=-1))

    def _terms(self, active: Sequence[int]) -> _Terms:
        """The loss of each problem that is still going, and what else decides whether it ends."""
        delta = self.delta[list(active)]  # [k, p d]
        decay = (self._norms(delta) / self._norms(self.initial[list(active)]) ** 2).sum(dim=-1)
        loss = self.objective.weight_decay * decay + self._pull(delta, active)
        batch, rows = self.batch, delta[self.batch.owner]  # [b, p d]
        if len(batch.match_rows):
            return _Terms(loss + batch.match_loss(self.fixed, rows, len(active)), torch.zeros_like(loss), None)
        positions = torch.cat([batch.target_positions, batch.essence_positions])
        logits = self.fixed.logits(rows, torch.cat([batch.target_rows, batch.essence_rows]), positions)
        asked, essence = torch.split(logits, [len(batch.target_rows), len(batch.essence_rows)])
        unedited = self.unedited[[active[k] for k in batch.essence_owner.tolist()]]
        kept = batch.essence_loss(F.log_softmax(essence, dim=-1), unedited, len(active))
        said = self._factors(active, loss) * batch.target_loss(asked, len(active))
        sure = batch.sure(asked.detach(), len(active)) if self.objective.asks_if_sure else None
        return _Terms(loss + said + self.objective.kl_factor * kept, kept, sure)

    def _factors(self, active: Sequence[int], like: Tensor) -> Tensor:
        """Weight ``[k]`` of the target rows: lower once a problem was sure, where the objective says so."""
        sure = [self.objective.sure_factor if self.sure_for[problem] else 1.0 for problem in active]
        return torch.tensor(sure, dtype=like.dtype, device=like.device)

    def _pull(self, delta: Tensor, active: Sequence[int]) -> Tensor:
        anchors = [self.problems[problem].anchor for problem in active]
        if not self.objective.pull or all(anchor is None for anchor in anchors):
            return delta.new_zeros(len(active))
        goal = torch.stack([d.detach() if a is None else a.to(d) for a, d in zip(anchors, delta, strict=True)])
        pull: Tensor = self.objective.pull * (delta - goal).pow(2).sum(dim=-1)
        return pull


@dataclass(frozen=True, eq=False, slots=True)
class _Terms:
    """One evaluation of ``k`` problems.

    Args:
        loss: ``[k]`` total loss, in nats.
        essence: ``[k]`` KL of the essence rows in it, without its weight.
        sure: ``[k]`` whether every target token is the arg-max; None where nothing depends on it.
    """

    loss: Tensor
    essence: Tensor
    sure: Tensor | None


def _start(problem: Problem, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if problem.start is None else problem.start.to(like)
