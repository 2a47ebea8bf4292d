"""The rows of the problems that are still going, as index tensors, and the loss terms that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ke_cli.engine.partial import PartialForward
from ke_cli.engine.problems import EssenceRow, MatchRow, Problem, TargetRow


@dataclass(frozen=True, eq=False)
class ValueRows:
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
    target_asked: Tensor
    essence_rows: Tensor
    essence_positions: Tensor
    essence_owner: Tensor
    match_rows: Tensor
    matches: tuple[MatchRow, ...]

    @classmethod
    def of(cls, problems: Sequence[Problem], active: Sequence[int], fixed: PartialForward) -> ValueRows:
        """Lay out the rows of the problems ``active`` in order; their rows are those of ``fixed``."""
        rows = [(k, row) for k, problem in enumerate(active) for row in problems[problem].rows]
        targets = [
            (b, position, token, k, row.weight / len(row.targets), row.asked)
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
            target_weights=weights.to(exact(fixed.initial).dtype),
            target_asked=column(targets, 5).bool(),
            essence_rows=column(essences, 0),
            essence_positions=column(essences, 1),
            essence_owner=column(essences, 2),
            match_rows=column(matches, 0),
            matches=tuple(row for _, row in matches),
        )

    def target_loss(self, logits: Tensor, k: int) -> Tensor:
        """Weighted mean NLL ``[k]`` from logits ``[n, V]`` at the target positions."""
        nll = F.cross_entropy(logits, self.target_ids, reduction="none")  # [n]
        return nll.new_zeros(k).index_add(0, self.target_owner, nll * self.target_weights)

    def sure(self, logits: Tensor, k: int) -> Tensor:
        """``[k]``: whether every target token of every row asked is the arg-max of ``[n, V]`` at its position."""
        missed = (self.target_asked & (logits.argmax(dim=-1) != self.target_ids)).long()  # [n]
        return missed.new_zeros(k).index_add(0, self.target_owner, missed) == 0

    def essence_loss(self, current: Tensor, unedited: Tensor, k: int) -> Tensor:
        """``KL(current || unedited)`` ``[k]`` from log-probabilities ``[e, V]``; zero for problems without the row."""
        if not len(current):
            return current.new_zeros(k)
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


def exact(tensor: Tensor) -> Tensor:
    """Float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
