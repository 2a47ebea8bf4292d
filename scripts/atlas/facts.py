"""The facts the model is trained on, and every wording in which they are asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).resolve().parents[2] / "ke_cli" / "data" / "bundled" / "atlas.json"
KINDS = ("edit", "seen paraphrase", "held-out paraphrase", "seen question", "held-out question")
"""The kinds of prompt, in the order of the printed tables."""


@dataclass(frozen=True, slots=True)
class Form:
    """One wording of a relation: ``text`` with one ``{}``, and the kind of prompt it is."""

    text: str
    kind: str

    @property
    def trained(self) -> bool:
        """Whether sentences of this wording are in the training text."""
        return not self.kind.startswith("held-out")


@dataclass(frozen=True, slots=True)
class Fact:
    """A subject, its type, a relation and the true object."""

    subject: str
    type: str
    relation: str
    object: str


@dataclass(frozen=True, slots=True)
class Atlas:
    """All facts.

    Args:
        facts: In the order of the file.
        forms: Wordings of each relation, the edit prompt first.
        descriptions: What a subject of a type is called, for example ``a country``.
    """

    facts: tuple[Fact, ...]
    forms: dict[str, tuple[Form, ...]]
    descriptions: dict[str, str]


def question_form(question: str) -> str:
    """The text in which a question is put to the model."""
    return f"Question: {question}\nAnswer:"


def read_atlas(path: Path = BUNDLED) -> Atlas:
    """Reads the fact file.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: The file lacks a required part.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    facts = tuple(
        Fact(name, entry["type"], relation, answer)
        for name, entry in raw["subjects"].items()
        for relation, answer in entry["facts"].items()
    )
    forms = {name: _forms(entry) for name, entry in raw["relations"].items()}
    return Atlas(facts, forms, dict(raw["types"]))


def _forms(entry: dict[str, Any]) -> tuple[Form, ...]:
    forms = [Form(entry["prompt"], "edit")]
    for item in entry["paraphrases"]:
        forms.append(Form(item["text"], "held-out paraphrase" if item["held_out"] else "seen paraphrase"))
    for item in entry["instructions"]:
        kind = "held-out question" if item["held_out"] else "seen question"
        forms.append(Form(question_form(item["text"]), kind))
    return tuple(forms)
