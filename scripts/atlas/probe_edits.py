"""How the model takes edits: rank-one writes at the subject's last token and at the prompt's last token.

A plain textbook edit, independent of the package's editors: a vector added to the output of one MLP is
optimised until the model gives a new object, and is written into the down-projection by a rank-one update
whose key direction is whitened with the covariance of keys over training text. Every row of a batch carries
its own update, so that nothing is written into the weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from atlas.batches import Batch
from atlas.facts import Atlas, Fact
from atlas.masks import blocks
from atlas.questions import Question, ask, pad

STEPS, RATE, CLAMP, DECAY = 20, 0.5, 4.0, 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """A fact with a new object, and what is asked after the edit.

    Args:
        edit: The edit prompt with the new object as answer.
        again: Other trained wordings with the new object as answer.
        others: Other facts of the subject that the model knows.
        neighbors: The same relation of other subjects that the model knows.
    """

    edit: Question
    again: tuple[Question, ...]
    others: tuple[Question, ...]
    neighbors: tuple[Question, ...]


def draw_trials(atlas: Atlas, tokenizer: PreTrainedTokenizerFast, count: int, seed: int = 0) -> list[Trial]:
    """Draws facts and a new object of the same relation for each."""
    rng = random.Random(seed)
    possible = [fact for fact in atlas.facts if _other_objects(atlas, fact)]
    return [_trial(atlas, tokenizer, fact, rng) for fact in rng.sample(possible, min(count, len(possible)))]


def _other_objects(atlas: Atlas, fact: Fact) -> list[str]:
    """Objects of the relation that begin with another word, in a fixed order."""
    first = fact.object.split()[0]
    objects = {f.object: None for f in atlas.facts if f.relation == fact.relation}
    return [name for name in objects if name.split()[0] != first]


def _trial(atlas: Atlas, tokenizer: PreTrainedTokenizerFast, fact: Fact, rng: random.Random) -> Trial:
    peers = [f for f in atlas.facts if f.relation == fact.relation and f.subject != fact.subject]
    new = rng.choice(_other_objects(atlas, fact))
    forms = [form for form in atlas.forms[fact.relation] if form.trained]
    siblings = [f for f in atlas.facts if f.subject == fact.subject and f.relation != fact.relation]
    return Trial(
        ask(tokenizer, fact, forms[0], answer=new),
        tuple(ask(tokenizer, fact, form, answer=new) for form in forms[1:]),
        tuple(ask(tokenizer, f, atlas.forms[f.relation][0]) for f in siblings),
        tuple(ask(tokenizer, f, forms[0]) for f in rng.sample(peers, min(4, len(peers)))),
    )


def projection(model: PreTrainedModel, layer: int) -> nn.Module:
    """The down-projection of a layer's MLP."""
    mlp: Any = blocks(model)[layer].mlp
    found: nn.Module = mlp.down_proj if hasattr(mlp, "down_proj") else mlp.c_proj
    return found


@torch.no_grad()
def key_covariance(model: PreTrainedModel, layer: int, batches: Iterator[Batch], count: int) -> Tensor:
    """Mean outer product of the keys over ``count`` batches of training text `[m, m]`."""
    kept: list[Tensor] = []
    handle = projection(model, layer).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    total, tokens = torch.zeros(()), 0
    for _ in range(count):
        batch = next(batches)
        model.base_model(batch.ids.to(model.device), use_cache=False)
        keys = kept.pop()[batch.sentences >= 0].double().cpu()  # [n, m]
        total, tokens = total + keys.T @ keys, tokens + len(keys)
    handle.remove()
    return total / tokens


@contextmanager
def _output_hook(module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Replaces the module's output by ``change(input, output)``."""
    handle = module.register_forward_hook(lambda _, args, output: change(args[0], output))
    try:
        yield
    finally:
        handle.remove()


def probe(
    model: PreTrainedModel, trials: Sequence[Trial], layer: int, place: str, covariance: Tensor
) -> dict[str, float]:
    """Edits every trial's fact on its own and asks.

    Args:
        model: Unchanged.
        trials: Facts to edit.
        layer: Whose MLP is edited.
        place: ``subject_last`` or ``prompt_last``.
        covariance: Of the layer's keys, for the key direction.

    Returns:
        Shares: ``vector`` and ``written`` (new object given at the edit prompt with the vector added, and
        with the rank-one update), ``again``, ``others`` and ``neighbors`` (right answers after the update,
        of what was right before where the answer should stay).
    """
    edits = [trial.edit for trial in trials]
    positions = torch.tensor([getattr(q, place) for q in edits])
    keys, values = _keys_values(model, edits, positions, layer)
    deltas = _optimise(model, edits, positions, layer, values)
    regularised = covariance + 1e-4 * covariance.diagonal().mean() * torch.eye(len(covariance))
    directions = torch.linalg.solve(regularised, keys.double().cpu().T).T.float().to(keys)  # [n, m]
    rights = directions / (keys * directions).sum(-1, keepdim=True)
    table = {"vector": _share(_vector_hits(model, edits, positions, layer, deltas))}
    for name in ("edit", "again", "others", "neighbors"):
        table[name] = _after(model, trials, name, layer, deltas, rights)
    return table


@torch.no_grad()
def _keys_values(
    model: PreTrainedModel, edits: Sequence[Question], positions: Tensor, layer: int
) -> tuple[Tensor, Tensor]:
    kept: list[tuple[Tensor, Tensor]] = []
    rows = torch.arange(len(edits))

    def keep(inputs: Tensor, output: Tensor) -> Tensor:
        kept.append((inputs[rows, positions].clone(), output[rows, positions].clone()))
        return output

    with _output_hook(projection(model, layer), keep):
        model(pad([q.prompt for q in edits]).to(model.device), use_cache=False)
    return kept[0]


def _optimise(
    model: PreTrainedModel, edits: Sequence[Question], positions: Tensor, layer: int, values: Tensor
) -> Tensor:
    """The vectors `[n, d]` that make the model answer with the new objects, found by Adam."""
    deltas = torch.zeros_like(values, requires_grad=True)
    optimizer = torch.optim.Adam([deltas], lr=RATE)
    limits = CLAMP * values.norm(dim=-1, keepdim=True)
    rows, labels = pad([q.prompt + q.answer for q in edits]).to(model.device), _labels(edits).to(model.device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for _ in range(STEPS):
        with _output_hook(projection(model, layer), _adder(positions, deltas)):
            logits = model(rows, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-1, reduction="none").sum(-1)
        means = losses / (labels >= 0).sum(-1)
        penalty = DECAY * deltas.norm(dim=-1) / values.norm(dim=-1) ** 2
        optimizer.zero_grad()
        (means + penalty).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            norms = deltas.norm(dim=-1, keepdim=True).clamp_min(1e-9)
            deltas.mul_((limits / norms).clamp_max(1.0))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return deltas.detach()


def _adder(positions: Tensor, deltas: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    rows = torch.arange(len(deltas))

    def add(_: Tensor, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[rows, positions] = changed[rows, positions] + deltas
        return changed

    return add


def _labels(questions: Sequence[Question]) -> Tensor:
    """Next-token labels `[b, t - 1]`: the answers' tokens, and -1 elsewhere."""
    labels = torch.full((len(questions), max(len(q.prompt + q.answer) for q in questions) - 1), -1)
    for row, q in enumerate(questions):
        labels[row, q.prompt_last : q.prompt_last + len(q.answer)] = torch.tensor(q.answer)
    return labels


@torch.no_grad()
def _hits(model: PreTrainedModel, questions: Sequence[Question]) -> list[bool]:
    logits = model(pad([q.prompt + q.answer for q in questions]).to(model.device), use_cache=False).logits
    labels = _labels(questions).to(logits.device)
    return ((logits[:, :-1].argmax(-1) == labels) | (labels < 0)).all(-1).tolist()  # type: ignore[no-any-return]


def _vector_hits(
    model: PreTrainedModel, edits: Sequence[Question], positions: Tensor, layer: int, deltas: Tensor
) -> list[bool]:
    with _output_hook(projection(model, layer), _adder(positions, deltas)):
        return _hits(model, edits)


def _after(
    model: PreTrainedModel, trials: Sequence[Trial], name: str, layer: int, deltas: Tensor, rights: Tensor
) -> float:
    """Share of right answers under the rank-one updates, each asked under the update of its own trial."""
    asked: list[tuple[int, Question]] = []
    for index, trial in enumerate(trials):
        found = getattr(trial, name)
        asked += [(index, q) for q in ((found,) if isinstance(found, Question) else found)]
    if name in ("others", "neighbors"):
        known = _hits(model, [q for _, q in asked])
        asked = [item for item, right in zip(asked, known, strict=True) if right]
    if not asked:
        return 0.0
    owner = torch.tensor([index for index, _ in asked])
    left, right = deltas[owner], rights[owner]  # [b, d], [b, m]

    def update(inputs: Tensor, output: Tensor) -> Tensor:
        return output + torch.einsum("btm,bm->bt", inputs, right)[..., None] * left[:, None]

    with _output_hook(projection(model, layer), update):
        return _share(_hits(model, [q for _, q in asked]))


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / max(1, len(hits))
