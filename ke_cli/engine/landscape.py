"""How the loss of written facts answers when their value is pushed: gradients, sharpness, tolerance.

The value's place is the output of the last edited layer at the lookup position of the bare edit prompt, with the edit
attached; ``h_i`` ``[d]`` is the hidden state of fact ``i`` there. ``loss_i(p)`` is the teacher-forced mean NLL of the
fact's target with ``p`` added there. The facts of a *team* are those of one unit: they share one value, so a push of
the team adds one and the same vector at the lookup position of each of its facts. ``L`` is the mean of ``loss_i`` over
a team, ``s`` the mean of ``||h_i||``, ``u_1 ... u_J`` random directions of length 1 that depend on nothing but their
seed and the width.

    sharpness        = L(rho s g / ||g||) - L(0), g the gradient of L at 0
    sharpness_random = mean over j of L(rho s u_j) - L(0)
    tolerance_ij     = the largest radius r of the grid for which every target token of fact i is the arg-max under the
                       push r' ||h_i|| u_j for r and all smaller radii r' of the grid; 0 where it is not so
                       without any push, or not under the smallest

The gradient step is the first-order worst case of Foret et al. 2021 (arXiv 2010.01412, equation 2), taken in the value
instead of the weights.

Every push runs only the layers above the last edited one and only the tokens from the lookup position on; all pushes
of a fact share the keys and values of what stands before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from ke_cli.engine.batching import Budget, Size, in_batches
from ke_cli.engine.forward import Padded
from ke_cli.engine.partial import PartialForward
from ke_cli.engine.tokens import Continuation
from ke_cli.engine.value_rows import exact

TINY = 1e-300
PASS = MappingProxyType({"cpu": 64, "cuda": 1024})
"""About how many tokens cost as much as the overhead of one forward pass, by kind of device."""


@dataclass(frozen=True, slots=True)
class Pushes:
    """Which pushes are made; see `ke_cli.engine.queries.GeometryQuery`."""

    rho: float
    radii: tuple[float, ...]
    n_directions: int
    seed: int

    def directions(self, width: int, device: torch.device) -> Tensor:
        """``[J, d]`` random directions of length 1 in float64, drawn on the CPU so that every device has the same."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.n_directions, width, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=-1).to(device)


@dataclass(frozen=True, eq=False)
class Targets:
    """Where the target tokens of each row are predicted; ``t`` is the length of the longest target.

    Args:
        positions: ``[b, t]`` index in the full sequence.
        ids: ``[b, t]`` token ids.
        mask: ``[b, t]`` whether there is such a token.
    """

    positions: Tensor
    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[Continuation], device: torch.device) -> Targets:
        """Lay out the targets of rows."""
        positions = Padded.of([row.positions for row in rows], device)
        return cls(positions.ids, Padded.of([row.targets for row in rows], device).ids, positions.mask.bool())

    def select(self, rows: Tensor) -> Targets:
        """The same for rows ``[k]``."""
        return Targets(self.positions[rows], self.ids[rows], self.mask[rows])

    def read(self, fixed: PartialForward, push: Tensor) -> tuple[Tensor, Tensor]:
        """Loss ``[b]`` in nats, and whether all target tokens are the arg-max ``[b]``, under ``push [b, d]``."""
        logits = fixed.logits(push, self.mask.nonzero()[:, 0], self.positions[self.mask])  # [n, V]
        wanted = self.ids[self.mask]
        nll = logits.new_zeros(self.mask.shape).masked_scatter(
            self.mask, F.cross_entropy(logits, wanted, reduction="none")
        )
        hits = torch.ones_like(self.mask).masked_scatter(self.mask, logits.argmax(dim=-1) == wanted)
        return nll.sum(dim=1) / self.mask.sum(dim=1), hits.all(dim=1)


@dataclass(frozen=True, eq=False)
class Landscape:
    """What was found; ``b`` facts, ``n`` teams, ``J`` directions. All on the CPU in float64.

    Args:
        loss: ``[b]`` without a push, in nats.
        gradient: ``[b, d]`` of each fact's own loss.
        tolerance: ``[b, J]`` in units of ``||h_i||``.
        sharpness: ``[n]`` in nats.
        sharpness_random: ``[n]`` in nats.
    """

    loss: Tensor
    gradient: Tensor
    tolerance: Tensor
    sharpness: Tensor
    sharpness_random: Tensor

    def part(self, facts: slice, team: int) -> Landscape:
        """The same for one team of facts that stand next to each other."""
        own = slice(team, team + 1)
        return Landscape(
            self.loss[facts],
            self.gradient[facts],
            self.tolerance[facts],
            self.sharpness[own],
            self.sharpness_random[own],
        )


def survey(
    fixed: PartialForward, targets: Targets, team: Sequence[int], pushes: Pushes, *, budget: Budget
) -> Landscape:
    """Push the values of some teams of facts.

    Args:
        fixed: One row per fact, with the edits in place.
        targets: Likewise.
        team: ``[b]`` number of each fact's team, from 0 on.
        pushes: What to try.
        budget: Tokens per batch of pushes.
    """
    return _Survey(fixed, targets, torch.tensor(team, device=fixed.starts.device), pushes, budget).run()


class _Survey:
    """One batch of facts under all its pushes."""

    def __init__(self, fixed: PartialForward, targets: Targets, team: Tensor, pushes: Pushes, budget: Budget) -> None:
        self.fixed, self.targets, self.team, self.pushes, self.budget = fixed, targets, team, pushes, budget
        self.tails = fixed.suffix.mask.sum(dim=1)  # [b]
        self.size = fixed.initial.double().norm(dim=-1)  # [b]
        self.directions = pushes.directions(fixed.initial.shape[-1], team.device)  # [J, d]
        member = F.one_hot(team).T.double()  # [n, b]
        self.share = member / member.sum(dim=1, keepdim=True)

    def run(self) -> Landscape:
        """Take the gradient, then push."""
        loss, kept, gradient = self._at_rest()
        along, random = self._sharpness(loss, gradient)
        found = (loss, gradient, self._tolerance(kept), along, random)
        return Landscape(*(part.cpu() for part in found))

    def _at_rest(self) -> tuple[Tensor, Tensor, Tensor]:
        """Loss ``[b]``, whether the target is the arg-max ``[b]``, and gradient ``[b, d]`` without a push."""
        push = torch.zeros_like(exact(self.fixed.initial)).requires_grad_()
        with torch.enable_grad():
            loss, kept = self.targets.read(self.fixed, push)
            (gradient,) = torch.autograd.grad(loss.sum(), push)  # rows do not see each other
        return loss.detach().double(), kept, gradient.double()

    def _sharpness(self, loss: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Rise of every team's loss ``[n]`` along its gradient, and its mean rise along the random directions."""
        uphill = F.normalize(self.share @ gradient, dim=-1, eps=TINY)  # [n, d]; without a slope there is no push
        ways = torch.cat([uphill[self.team][None], self.directions[:, None].expand(-1, len(loss), -1)])  # [1 + J, b, d]
        reach = self.pushes.rho * (self.share @ self.size)[self.team]  # [b]
        rows = torch.arange(len(loss), device=loss.device).repeat(len(ways))
        pushed, _ = self._pushed(rows, (reach[:, None] * ways).flatten(0, 1))
        rise = (pushed.view(len(ways), -1) - loss) @ self.share.T  # [1 + J, n]
        return rise[0], rise[1:].mean(dim=0)

    def _tolerance(self, kept: Tensor) -> Tensor:
        """Largest radius ``[b, J]`` up to which all radii of the grid keep the target the arg-max."""
        safe = kept[:, None].repeat(1, len(self.directions))
        reached = torch.zeros_like(safe, dtype=torch.float64)
        for radius in self.pushes.radii:
            rows, ways = safe.nonzero(as_tuple=True)
            if not len(rows):
                break
            _, holds = self._pushed(rows, radius * self.size[rows, None] * self.directions[ways])
            safe[rows, ways] = holds
            reached[safe] = radius
        return reached

    @torch.no_grad()
    def _pushed(self, rows: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        """Loss ``[k]`` and arg-max flag ``[k]`` of facts ``rows [k]`` under ``push [k, d]``, in batches."""
        push = push.to(exact(self.fixed.initial).dtype)

        def work(part: Sequence[int]) -> Sequence[tuple[float, bool]]:
            chosen = torch.tensor(part, device=rows.device)
            which = rows[chosen]
            loss, kept = self.targets.select(which).read(self._rows(which), push[chosen])
            return list(zip(loss.tolist(), kept.tolist(), strict=True))

        width = self.fixed.prefix_mask.shape[1] + self.fixed.suffix.mask.shape[1]
        sizes = [Size(1, width, tail) for tail in self.tails[rows].tolist()]
        found = in_batches(work, range(len(rows)), sizes, self.budget, layout=self._batches)
        loss, kept = zip(*found, strict=True)
        return torch.tensor(loss, dtype=torch.float64, device=rows.device), torch.tensor(kept, device=rows.device)

    def _batches(self, sizes: Sequence[Size], budget: int) -> list[list[int]]:
        """Indices of rows, the longest first; a batch ends where its padding would cost more than another pass."""
        width, tails = sizes[0].length, [size.tail for size in sizes]
        spare = PASS.get(self.team.device.type, PASS["cuda"])
        batches: list[list[int]] = []
        padding = 0
        for index in sorted(range(len(tails)), key=lambda i: (-tails[i], i)):
            padding += tails[batches[-1][0]] - tails[index] if batches else 0
            if not batches or padding > spare or len(batches[-1]) * width >= budget:
                batches.append([])
                padding = 0
            batches[-1].append(index)
        return batches

    def _rows(self, rows: Tensor) -> PartialForward:
        """The fixed part of ``rows [k]``, without slots that all of them leave empty."""
        fixed = self.fixed.select(rows)
        slots = int(fixed.suffix.mask.sum(dim=1).max())
        return replace(
            fixed,
            suffix=Padded(fixed.suffix.ids[:, :slots], fixed.suffix.mask[:, :slots]),
            hidden=None if fixed.hidden is None else fixed.hidden[:, :slots],
        )
