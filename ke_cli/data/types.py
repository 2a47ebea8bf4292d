"""What an experiment is about: requests, probes, cases, and the units that are written together."""

from __future__ import annotations

from dataclasses import dataclass

PLACE = "{}"
"""The one place in an edit prompt where the subject goes."""

MULTI_HOP = "multi_hop"
"""Kind of probes that ask for what follows from one or several facts together."""


@dataclass(frozen=True, slots=True)
class Request:
    """One fact to write: ``prompt`` (with exactly one ``{}``) about ``subject`` shall end in ``target_new``.

    Targets carry no leading space and prompts no trailing one; the two are always joined by one space.
    ``target_true`` is empty where the data set does not tell it, or has no object besides the one that is written:
    what compares with it is then not measured.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str
    relation: str = ""

    @property
    def text(self) -> str:
        """The edit prompt with the subject filled in."""
        return self.prompt.replace(PLACE, self.subject, 1)


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt that is asked after an edit.

    Args:
        prompt: The complete text, subject filled in, without a trailing space.
        answer: The gold answer where the data set has one.
        tag: A label that splits results further, for example ``held_out`` or ``portability/reasoning``.
        kind: How probes are counted. Empty: each by itself. `MULTI_HOP`: they are phrasings of one question where they
            share a ``tag``, and it is answered right if one of them is.
        aliases: Further spellings, or further answers, that are as right as ``answer``.
    """

    prompt: str
    answer: str | None = None
    tag: str = ""
    kind: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers, the gold one first; empty where none is known."""
        return () if self.answer is None else (self.answer, *self.aliases)


@dataclass(frozen=True, slots=True)
class Case:
    """A request and everything that is asked about it.

    Args:
        case_id: Unique in its data set, stable between versions of it.
        request: The fact to write.
        paraphrases: The same fact in other words; the right answer after the edit is ``target_new``.
        neighborhood: Prompts about something else whose answer is ``target_true`` (``answer`` where it differs).
        relation_specific: The same subject, other relations; ``answer`` is the gold object where known.
        instructions: The fact as a bare question or instruction, before any chat template.
        generation: Complete prompts for free text about the subject.
        companions: The other requests of the unit the case is written in; a protocol fills them in.
        probes: What else is asked, each with its gold answer and tagged ``<group>/<category>``: ``portability/...`` for
            what follows from the edit, ``locality/...`` for what it must not touch, ``reverse`` for the fact asked for
            its subject, ``alias`` for the subject under another name, ``multi_hop/<hops>`` for questions of several
            steps (of the kind `MULTI_HOP`).
        consistency_texts: Texts about things of which ``target_new`` is true, where a file of them is given.
        group: Cases that share one, not empty, are one edit of several facts, and are written together.
    """

    case_id: str
    request: Request
    paraphrases: tuple[Probe, ...] = ()
    neighborhood: tuple[Probe, ...] = ()
    relation_specific: tuple[Probe, ...] = ()
    instructions: tuple[Probe, ...] = ()
    generation: tuple[str, ...] = ()
    companions: tuple[Request, ...] = ()
    probes: tuple[Probe, ...] = ()
    consistency_texts: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Loaded, validated cases with what identifies them.

    Args:
        name: As in the configuration.
        cases: In a fixed order.
        fingerprint: SHA-256 of the file the cases were read from.
        source: The path or address, for people.
        prompts: Edit prompts (subject filled in) of the whole file, also of records that a limit leaves out.
        notes: What a user should know of how the file was read, for example what was left out of it.
    """

    name: str
    cases: tuple[Case, ...]
    fingerprint: str
    source: str
    prompts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def reference_prompts(self) -> tuple[str, ...]:
        """All edit prompts that are known of the data set."""
        return self.prompts or tuple(case.request.text for case in self.cases)


@dataclass(frozen=True, slots=True)
class EditUnit:
    """The cases that are written together: one, the facts of one subject, or a batch."""

    unit_id: str
    cases: tuple[Case, ...]

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests of the unit, in the order of its cases."""
        return tuple(case.request for case in self.cases)
