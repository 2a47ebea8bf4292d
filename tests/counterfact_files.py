"""Records made to order."""

from __future__ import annotations

from typing import Any

OFFICIAL = {"url": "http://127.0.0.1:9/counterfact.json", "sha256": "0" * 64, "size_bytes": 1}
"""An official file that nobody can fetch: port 9 discards."""


def record(**changes: Any) -> dict[str, Any]:
    """A valid record; ``rewrite`` holds changes of its request, and None takes a key away."""
    rewrite = {
        "prompt": "{} is located in",
        "relation_id": "P30",
        "target_new": {"str": "Antarctica", "id": "Q51"},
        "target_true": {"str": "Africa", "id": "Q15"},
        "subject": "Angola",
    }
    whole = {
        "case_id": 7,
        "requested_rewrite": rewrite | changes.pop("rewrite", {}),
        "paraphrase_prompts": ["A map.\nAngola belongs to the continent of"],
        "neighborhood_prompts": ["Ghana is in", "Kenya is in"],
        "generation_prompts": ["Angola's surroundings include"],
    } | changes
    whole["requested_rewrite"] = {k: v for k, v in whole["requested_rewrite"].items() if v is not None}
    return {key: value for key, value in whole.items() if value is not None}


def flat(**changes: Any) -> dict[str, Any]:
    """A valid fact of the same-subject form."""
    return {
        "case_id": 1,
        "prompt": "The capital of Peru is",
        "prompt_template": "The capital of {} is",
        "subject": "Peru",
        "target_new": "Oslo",
        "ground_truth": "Lima",
        "relation_id": "P36",
        "rephrase_prompt": "Peru is known for",
        "locality_prompt": "The mayor of Lima works in",
        "locality_ground_truth": "Lima",
    } | changes
