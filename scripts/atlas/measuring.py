"""All measurements of a trained model: recall, where facts are stored, how edits work."""

from __future__ import annotations

import random
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from atlas.batches import Plan, Writer
from atlas.facts import KINDS, Atlas
from atlas.masks import blocks
from atlas.probe_edits import draw_trials, key_covariance, probe
from atlas.questions import ask_all, recall, sample_prefixes
from atlas.swaps import swap_pairs, swap_table

SWAPS, TRIALS, COVARIANCE_BATCHES, PREFIXES = 512, 100, 12, 30


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, atlas: Atlas, *, quick: bool = False
) -> dict[str, Any]:
    """Measures a model.

    Args:
        model: In evaluation mode.
        tokenizer: Of the model.
        atlas: The facts to ask for.
        quick: Few swaps and edits.

    Returns:
        ``recall`` (share by kind of prompt), ``swaps`` (share by place and layer) and ``edits`` (one row for
        each place and layer).
    """
    prefixes = sample_prefixes(model, tokenizer, 6 if quick else PREFIXES)
    shares = {kind: recall(model, ask_all(tokenizer, atlas, kind)) for kind in KINDS}
    shares["edit behind generated context"] = recall(model, ask_all(tokenizer, atlas, "edit", prefixes))
    return {
        "recall": shares,
        "swaps": swap_table(model, swap_pairs(atlas, tokenizer, 8 if quick else SWAPS)),
        "edits": measure_edits(model, tokenizer, atlas, 4 if quick else TRIALS),
    }


def measure_edits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, atlas: Atlas, count: int
) -> list[dict[str, Any]]:
    """Rank-one edits at both places: in the lower half at the subject, in the upper half at the end."""
    trials = draw_trials(atlas, tokenizer, count)
    batches = Writer(atlas, tokenizer, Plan(), random.Random(1)).batches()
    half = len(blocks(model)) // 2
    rows = []
    for place, layers in (("subject_last", range(half)), ("prompt_last", range(half, 2 * half))):
        for layer in layers:
            covariance = key_covariance(model, layer, batches, COVARIANCE_BATCHES)
            rows.append({"place": place, "layer": layer, **probe(model, trials, layer, place, covariance)})
    return rows
