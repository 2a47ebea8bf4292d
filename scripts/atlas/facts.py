"""The facts the model is trained on, and every wording in which they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ke_cli.data.atlas_facts import Relation, read_facts

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


def read_atlas(path: Path | None = None) -> Atlas:
    """Reads the bundled facts, or those of another file of the same format.

    Raises:
        UserError: The file is missing or malformed.
    """
    raw = read_facts(path)
    facts = tuple(Fact(one.subject, raw.subjects[one.subject].type, one.relation, one.object) for one in raw.triples())
    forms = {name: _forms(relation) for name, relation in raw.relations.items()}
    return Atlas(facts, forms, dict(raw.types))


def _forms(relation: Relation) -> tuple[Form, ...]:
    forms = [Form(relation.prompt, "edit")]
    for wording in relation.paraphrases:
        forms.append(Form(wording.text, "held-out paraphrase" if wording.held_out else "seen paraphrase"))
    for wording in relation.instructions:
        kind = "held-out question" if wording.held_out else "seen question"
        forms.append(Form(question_form(wording.text), kind))
    return tuple(forms)
