"""ROME, r-ROME, RETS and TOP: one outer product per fact and layer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.edits import NO_EDIT, Edit, LowRank, merged, sum_of
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.rets import Rets
from ke_cli.methods.rome import Rome
from ke_cli.methods.rows import Lookup, lookup_tokens, target_rows
from ke_cli.methods.top import Top

from .passes import read
from .values import Path, optimise_feature, optimise_value

KEPT = 1e-6
"""Share of a key's own direction left without it, under which the inverse is made anew (the engine's limit)."""


class RomeLoop:
    """Mirrors ``apply_rome_to_model`` and ``execute_rome``: fact by fact, written before the next one is looked at.

    The inverse of ``C`` is made once per layer and kept, as in ``get_inv_cov``.
    """

    lookup: Lookup = "subject_last"

    def __init__(self, bench: Workbench, editor: Rome) -> None:
        self.bench, self.model, self.editor = bench, bench.model, editor
        self.layers = editor.edited_layers(bench.model.n_layers)
        self.inverses: dict[int, Tensor] = {}

    def prepare(self) -> None:
        """Templates and ``C^-1 [m, m]`` of every edited layer in float64."""
        self.templates = self.bench.templates(self.editor.context())
        if self.editor.covariance and not self.inverses:
            found = self.bench.covariances(self.layers)
            exact = {layer: one.matrix.to(self.model.device, torch.float64) for layer, one in found.items()}
            self.inverses = {layer: torch.linalg.inv(matrix) for layer, matrix in exact.items()}

    def edit(self, unit: EditUnit) -> Edit:
        """Write the facts of a unit, and put the old weights back in the end."""
        total = NO_EDIT
        with ExitStack() as writes:
            for layer in self.layers:
                for request in unit.requests:
                    written = self.insert(layer, request, unit, self.value(layer, request))
                    writes.enter_context(merged(self.model, written))
                    total = sum_of(total, written)
        return total

    def value(self, layer: int, request: Request) -> Path:
        """``compute_v``: the output of the MLP that makes the target likely."""
        rows = target_rows(self.model.tokenizer, request, self.templates, self.lookup)
        essence = self.editor.essence(self.model.tokenizer, request)
        return optimise_value(self.model, self.model.projection(layer), rows, essence, self.editor.objective)

    def direction(self, layer: int, key: Tensor, unit: EditUnit) -> Tensor:
        """``C^-1 k* [m]`` (or ``k*``), not normalised."""
        return self.inverses[layer] @ key if layer in self.inverses else key

    def insert(self, layer: int, request: Request, unit: EditUnit, path: Path) -> Edit:
        """``compute_u``, then the last lines of ``compute_v``: ``r u^T`` with ``r = (v* - W k) / (k . u)``.

        The keys of all templates come out of one batch, and for ROME key and output of the bare prompt out of a pass of
        their own (``get_module_input_output_at_word``); r-ROME has both from the first.
        """
        tokens = lookup_tokens(self.model.tokenizer, request, self.templates, self.lookup)
        projection = self.model.projection(layer)
        if isinstance(self.editor, Rome) and self.editor.key == "templates":
            keys, outputs = read(self.model, projection, tokens, ("input", "output"))
            key, output = keys.double().mean(dim=0), outputs.double().mean(dim=0)
        else:
            (keys,) = read(self.model, projection, tokens)
            key, output = (found.double()[0] for found in read(self.model, projection, tokens[:1], ("input", "output")))
        u = self.direction(layer, keys.double().mean(dim=0), unit)
        u = u / u.norm()
        left = (path.value.double() - output) / (key @ u)
        pair = LowRank(left.to(path.delta.dtype)[:, None], u.to(path.delta.dtype)[None])
        info = {"loss": path.losses[-1], "steps": len(path.losses)}
        return Edit({self.model.projection_name(layer): pair}, info)


class RetsLoop(RomeLoop):
    """Mirrors ``compute_ur`` and ``compute_vr`` of RETS: ROME at the last token of the prompt, ``C`` with ``C_sub``.

    ``get_inv_cov_SC`` inverts ``C_text + C_sub`` once per layer and keeps the inverse; the edited prompts are in it.
    Leaving them out is this project's. A program of that kind would not invert again for every fact, so the kept
    inverse is corrected (Woodbury), and made anew only where that would lose digits.
    """

    lookup: Lookup = "prompt_last"
    editor: Rets  # type: ignore[assignment]

    def prepare(self) -> None:
        """Templates and, per layer, ``(C_text + C_sub)^-1`` in float64 and the reference keys ``[n, m]``."""
        self.templates = self.bench.templates(self.editor.context())
        if self.inverses:
            return
        self.texts = self.bench.reference_prompts[: self.editor.reference_prompts] if self.editor.subject_const else ()
        if self.editor.subject_const and not self.texts:
            raise UserError("RETS needs reference prompts", where="dataset", hint="method.subject_const=false")
        self.matrices: dict[int, Tensor] = {}
        for layer in self.layers:
            self.matrices[layer] = self._constraint(layer)
            self.inverses[layer] = torch.linalg.inv(self.matrices[layer])

    def _constraint(self, layer: int) -> Tensor:
        """``C_text + C_sub [m, m]``, or what is used of it."""
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        if self.editor.origin_mom:
            total = total + self.bench.covariances([layer])[layer].matrix.to(total)
        if self.texts:
            keys = self.bench.last_token_keys(layer, self.texts).to(total)
            total = total + keys.T @ keys
        return total

    def value(self, layer: int, request: Request) -> Path:
        """``compute_vr``; in the essence row the whole prompt plays the subject unless the editor says otherwise."""
        rows = target_rows(self.model.tokenizer, request, self.templates, self.lookup)
        essence = self.editor.essence(self.model.tokenizer, request, self.editor.essence_at)
        return optimise_value(self.model, self.model.projection(layer), rows, essence, self.editor.objective)

    def direction(self, layer: int, key: Tensor, unit: EditUnit) -> Tensor:
        """``C^-1 k* [m]``, without what the unit's own prompts have added to ``C``."""
        inverse = self.inverses[layer]
        own = self._own_keys(layer, unit)
        if not own.shape[1]:
            return inverse @ key
        removed = inverse @ own  # [m, q]
        inner = torch.eye(own.shape[1], dtype=own.dtype, device=own.device) - own.T @ removed
        found: Tensor
        if float(torch.linalg.eigvalsh(inner)[0]) > KEPT:
            found = inverse @ key + removed @ torch.linalg.solve(inner, removed.T @ key)
        else:
            found = torch.linalg.solve(self.matrices[layer] - own @ own.T, key)
        return found

    def _own_keys(self, layer: int, unit: EditUnit) -> Tensor:
        """``[m, q]``: reference keys of the unit's own prompts, if they shall not count."""
        edited = set() if self.editor.own_prompts else {request.text for request in unit.requests}
        places = [place for place, text in enumerate(self.texts) if text in edited]
        if not places:
            return self.matrices[layer][:, :0]
        return self.bench.last_token_keys(layer, self.texts)[places].T.to(self.matrices[layer])


class TopLoop(RomeLoop):
    """Mirrors ``compute_v_s1`` and ``compute_v_s2`` of TOP: a relation feature first, then a subject value for it."""

    editor: Top

    def value(self, layer: int, request: Request) -> Path:
        """Both stages, for one layer of the model as it is now."""
        goal = self._feature(layer, request).value
        rows = target_rows(self.model.tokenizer, request, self.templates, self.lookup)
        numbers = replace(
            self.editor.objective, steps=self.editor.subject_steps, threshold=self.editor.subject_threshold
        )
        return optimise_feature(
            self.model,
            self.model.projection(layer),
            rows,
            self.model.layer(layer + self.editor.relation_offset),
            self._prompt_last(request),
            goal,
            self.editor.vec_loss_factor,
            numbers,
        )

    def _feature(self, layer: int, request: Request) -> Path:
        """Stage 1: the layer's output at the prompt's last token that makes the target likely."""
        rows = target_rows(self.model.tokenizer, request, self.templates, "prompt_last")
        essence = self.editor.essence(self.model.tokenizer, request, self.editor.essence_at)
        module = self.model.layer(layer + self.editor.relation_offset)
        return optimise_value(self.model, module, rows, essence, self.editor.objective)

    def _prompt_last(self, request: Request) -> int:
        return lookup_tokens(self.model.tokenizer, request, self.templates[:1], "prompt_last")[0].index
