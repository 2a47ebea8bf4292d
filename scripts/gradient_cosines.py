"""Do the facts of a subject pull its value the same way before anything is edited?

    python scripts/gradient_cosines.py [--facts 8] [--subjects 40] [KEY=VALUE ...]

For every subject the gradient of each fact's loss (mean NLL of the new object after the bare edit prompt) is taken with
respect to the output of RoSE's last edited layer at the subject's last token, at the unedited model, where the joint
optimisation starts. Prints mean and quartiles of the cosines between facts of one subject. `KEY=VALUE` are settings of
``ke-run``, for example ``model.path=DIR``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ke_cli.config import compose_run
from ke_cli.data.types import EditUnit
from ke_cli.engine.batching import packed, rows_of
from ke_cli.engine.landscape import Targets
from ke_cli.engine.partial import prepare
from ke_cli.engine.tokens import Prompt, continuation
from ke_cli.models.editable import EditableModel
from ke_cli.models.loading import load
from ke_cli.running.plan import make_plan


def main(argv: Sequence[str] | None = None) -> None:
    """Print the cosines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=8, help="facts of a subject")
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    group = [f"protocol.min_facts={given.facts}", f"protocol.max_facts={given.facts}"]
    config = compose_run(
        ["method=rose", "protocol=same_subject", f"dataset.limit={given.subjects}", *group, *given.settings]
    )
    plan = make_plan(config)
    model = load(plan.source)
    budget = plan.budget(model)
    layer = plan.editor.edited_layers(model.n_layers)[-1]
    found = torch.cat([cosines(gradients(model, unit, layer, budget.tokens)) for unit in plan.units])
    low, middle, high = found.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=found.dtype)).tolist()
    print(f"{model.name}, layer {layer}: {len(plan.units)} subjects, {len(found)} pairs of facts")
    print(f"cosine: mean {found.mean():.3f}, quartiles {low:.3f} {middle:.3f} {high:.3f}")
    print(f"absolute cosine under 0.1: {(found.abs() < 0.1).double().mean():.1%}")


def gradients(model: EditableModel, unit: EditUnit, layer: int, budget: int) -> Tensor:
    """Gradient ``[n, d]`` of each fact's loss at the unedited model, with respect to the output of ``layer``."""
    prompts = [Prompt.of(request.prompt, request.subject) for request in unit.requests]
    rows = [
        continuation(model.tokenizer, prompt.text, request.target_new)
        for prompt, request in zip(prompts, unit.requests, strict=True)
    ]
    lookups = [prompt.subject_last(row.tokens) for prompt, row in zip(prompts, rows, strict=True)]
    parts: dict[int, Tensor] = {}
    for batch in packed(rows_of(len(row.ids) for row in rows), budget):
        with torch.no_grad():
            fixed = prepare(model, [rows[i].ids for i in batch], [lookups[i] for i in batch], layer, "layer")
        push = torch.zeros_like(fixed.initial, dtype=torch.float32).requires_grad_()
        loss, _ = Targets.of([rows[i] for i in batch], model.device).read(fixed, push)
        (gradient,) = torch.autograd.grad(loss.sum(), push)
        parts.update(zip(batch, gradient.double(), strict=True))
    return torch.stack([parts[i] for i in range(len(rows))])


def cosines(vectors: Tensor) -> Tensor:
    """Cosines ``[n (n - 1) / 2]`` between all pairs of vectors ``[n, d]``."""
    unit = F.normalize(vectors, dim=-1)
    places = torch.triu_indices(len(unit), len(unit), offset=1)
    return (unit @ unit.T)[places[0], places[1]]


if __name__ == "__main__":
    main()
