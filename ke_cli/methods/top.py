"""TOP: two-stage optimisation of a relation feature and a subject feature (authors' code: github sunshower-liu/TOP).

For each edited layer ``l``, ascending, with ``u`` as in ROME at ``subject_last``:

    stage 1  delta_r on the output of layer ``l_r = l + relation_offset`` at ``prompt_last``, with ROME's objective;
             h_r* = h_r + delta_r from the un-prefixed prompt, held fixed
    stage 2  delta_s on the MLP output of layer ``l`` at ``subject_last``, minimising
             vec_loss_factor * || h_{l_r}(un-prefixed prompt, prompt_last) - h_r* ||  +  the decay of section 2
    then     ROME's rank-one update with  v* = v_init + delta_s

The published code takes the index of stage 1's essence row from the length of the edit prompt's target, so that it
lands inside the subject for targets of several tokens (``essence_at: target_offset``); the default is the row's last
token, which is the same for targets of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ke_cli.checks import check_above_zero, check_at_least
from ke_cli.data.types import Request
from ke_cli.engine.edits import Edit
from ke_cli.engine.problems import MatchRow, Problem
from ke_cli.engine.tokens import Prompt, encode
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.rome import Rome
from ke_cli.methods.rows import Essence, target_rows


@dataclass(frozen=True, kw_only=True)
class Top(Rome):
    """Rank-one editing whose subject value reproduces an optimised relation feature.

    ``steps``, ``lr``, ``threshold``, ``clamp``, ``kl_factor`` are those of stage 1.

    Args:
        relation_offset: Layers between the edited one and that of the relation feature.
        subject_steps: Evaluations of the loss in stage 2.
        subject_threshold: Loss under which stage 2 ends.
        vec_loss_factor: Weight of the distance in stage 2.
        essence_at: Where the value is added in stage 1's essence row.
    """

    relation_offset: int
    subject_steps: int
    subject_threshold: float
    vec_loss_factor: float
    essence_at: Essence

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_above_zero(self, "subject_steps", "vec_loss_factor")
        check_at_least(self, 0, "relation_offset")

    def edited_layers(self, depth: int) -> list[int]:
        """The configured layers; each must leave room for its relation feature."""
        layers = super().edited_layers(depth)
        feature = layers[-1] + self.relation_offset
        if feature >= depth:
            raise UserError(
                f"TOP's relation feature would be at layer {feature}, which the model does not have",
                where="method.relation_offset",
                allowed=f"at most {depth - 1 - layers[-1]} above layer {layers[-1]}",
                hint=f"method.relation_offset={max(0, min(depth - 1 - layers[-1], depth // 3))}",
            )
        return layers

    def write(self, bench: Workbench, layer: int, requests: Sequence[Request], before: Sequence[Edit]) -> list[Edit]:
        """One rank-one edit per request, with ``before[i]`` already in place for request ``i``."""
        relation_layer = layer + self.relation_offset
        stage_one = [self._relation_problem(bench, r, e) for r, e in zip(requests, before, strict=True)]
        features = bench.optimise(stage_one, self.objective, relation_layer, "layer")
        stage_two = [
            self._subject_problem(bench, request, edit, relation_layer, feature.value)
            for request, edit, feature in zip(requests, before, features, strict=True)
        ]
        objective = replace(self.objective, steps=self.subject_steps, threshold=self.subject_threshold, kl_factor=0.0)
        solutions = bench.optimise(stage_two, objective, layer, "mlp")
        return self.insert(bench, layer, requests, before, solutions)

    def _relation_problem(self, bench: Workbench, request: Request, edit: Edit) -> Problem:
        tokenizer, templates = bench.model.tokenizer, bench.templates(self.context())
        rows = target_rows(tokenizer, request, templates, "prompt_last")
        return Problem((*rows, self.essence(tokenizer, request, self.essence_at)), edit=edit)

    def _subject_problem(
        self, bench: Workbench, request: Request, edit: Edit, relation_layer: int, goal: Tensor
    ) -> Problem:
        prompt = Prompt.of(request.prompt, request.subject)
        tokens = encode(bench.model.tokenizer, prompt.text)
        row = MatchRow(
            tokens.ids,
            prompt.subject_last(tokens),
            relation_layer,
            prompt.prompt_last(tokens),
            goal,
            self.vec_loss_factor,
        )
        return Problem((row,), edit=edit)
