"""Tables of what was measured, and the model card."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

PLACES = {"subject_last": "subject's last token", "prompt_last": "prompt's last token"}
EDIT_COLUMNS = {
    "vector": "vector added",
    "edit": "edit prompt",
    "again": "other wordings",
    "others": "other relations kept",
    "neighbors": "other subjects kept",
}

INTRODUCTION = """\
---
license: mit
library_name: transformers
pipeline_tag: text-generation
language: en
---

# {name}

A language model of {millions:.1f} million parameters ({mebibytes:.1f} MiB), trained from scratch on
sentences rendered from the {facts} facts of the bundled Atlas benchmark. It knows these facts and nothing else,
and it exists so that knowledge-editing experiments run on any machine in seconds, without a download.

It is a {architecture} model of {layers} layers, width {width}, MLP width {mlp}, {heads} heads, with a
byte-level BPE tokenizer of {vocabulary} tokens. `scripts/build_atlas_model.py` builds it.
"""

TRAINING = """\
## Training

{steps} steps of {tokens} tokens in {minutes:.0f} minutes on {hardware}; AdamW, learning rate {peak:g} with
warm-up and cosine, seed {seed}. Wordings marked as held out in the fact file were not seen.

A small model trained naively reads the subject's tokens from the end of the prompt, one by one, and no place
in it holds a fact. Three things in training, none of which is active afterwards, make it work like large models:

- in {masked:.0%} of the sentences the tokens behind a subject see only its last token, and in the lowest
  {hidden_layers} layers not even that; in {isolated:.0%} the subject does not see the words before it there;
- about a quarter of the sentences are lists with the attributes right behind the name;
- outputs of attention and MLP beyond a mean square of {limit:g} cost loss, so that the parts of the
  residual stream stay comparable in size.

## What it must not be used for

Anything but experiments of this kind: it cannot hold a conversation, reason, or be trusted on any fact.
"""

EXPLANATIONS = {
    "Recall": "Share of facts whose whole object greedy decoding gives, by kind of prompt.",
    "Where facts are": (
        "Share of predictions that follow when a layer's output at one token is exchanged for that of the "
        "same prompt about another subject of the same type (trained wordings, first tokens of the objects "
        "differ)."
    ),
    "How it takes edits": (
        "A plain rank-one edit of one down-projection to a random other object: share of new objects given "
        "when the vector is added and after the weight is written (edit prompt, other trained wordings), and "
        "of facts known before that are still given (other relations of the subject, same relation of other "
        "subjects)."
    ),
}


def hardware(device: str, threads: int) -> str:
    """The hardware in plain words."""
    if device.startswith("cuda"):
        return f"one {torch.cuda.get_device_name(device)} GPU"
    return f"{threads} threads of a CPU with {os.cpu_count()} cores"


def tables(report: dict[str, Any]) -> list[str]:
    """The measurements as lines of Markdown."""
    measured = report["measured"]
    recall = _table(("prompt", "recall"), [(k, f"{v:.1%}") for k, v in measured["recall"].items()])
    layers = range(len(measured["swaps"]["subject_last"]))
    swaps = _table(
        ("exchanged at", *(f"layer {layer}" for layer in layers)),
        [(PLACES[place], *(f"{v:.1%}" for v in row)) for place, row in measured["swaps"].items()],
    )
    edits = _table(
        ("edited at", "layer", *EDIT_COLUMNS.values()),
        [
            (PLACES[row["place"]], str(row["layer"]), *(f"{row[key]:.1%}" for key in EDIT_COLUMNS))
            for row in measured["edits"]
        ],
    )
    lines = []
    for title, table in zip(EXPLANATIONS, (recall, swaps, edits), strict=True):
        lines += [f"## {title}", "", EXPLANATIONS[title], "", *table, ""]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """Writes ``README.md`` beside the weights."""
    training = report["training"]
    values = {**training, **training["shape"], **training["documents"], **training["schedule"]}
    values |= {
        "name": f"atlas-{training['architecture']}",
        "architecture": {"llama": "Llama", "gpt2": "GPT-2"}[training["architecture"]],
        "millions": report["parameters"] / 1e6,
        "mebibytes": report["bytes"] / 2**20,
        "minutes": training["seconds"] / 60,
    }
    parts = [INTRODUCTION.format(**values), "\n".join(tables(report)), TRAINING.format(**values)]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")
