"""Reference prompts: what RETS holds still, from a file of the user or from the data set."""

from __future__ import annotations

from dataclasses import dataclass

from ke_cli.data.json_file import read_json, strange_values
from ke_cli.data.types import Dataset
from ke_cli.data.validate import LONGEST
from ke_cli.errors import UserError

HINT = "method.reference_file=FILE"


@dataclass(frozen=True, slots=True)
class References:
    """Prompts with where they are from.

    Args:
        prompts: Complete prompts, subjects filled in.
        source: The path of the file, or the name of the data set.
        fingerprint: SHA-256 of the file they were read from.
    """

    prompts: tuple[str, ...]
    source: str
    fingerprint: str

    @classmethod
    def of(cls, file: str | None, dataset: Dataset) -> References:
        """Those of the file, a JSON list of prompts; without one, the edit prompts of the data set.

        Raises:
            UserError: If the file cannot be read or holds anything but prompts.
        """
        if file is None:
            return cls(dataset.reference_prompts, dataset.name, dataset.fingerprint)
        document, fingerprint = read_json(file, HINT)
        return cls(_prompts(document, file), file, fingerprint)


def _prompts(document: object, file: str) -> tuple[str, ...]:
    wanted = 'a JSON list of prompts: ["The mother tongue of Danielle Darrieux is", ...]'
    if not isinstance(document, list) or not document:
        raise UserError("the file holds no list of prompts", where=file, allowed=wanted, hint=HINT)
    for number, prompt in enumerate(document):
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError("this is not a prompt", where=f"{file}, entry {number}", allowed=wanted, hint=HINT)
        if len(prompt) > LONGEST:
            what = f"a prompt has {len(prompt):,} characters, more than the {LONGEST:,} that are allowed"
            raise UserError(what, where=f"{file}, entry {number}", hint=HINT)
        for _, what in strange_values(prompt):
            raise UserError(f"a prompt {what}", where=f"{file}, entry {number}", hint=HINT)
    return tuple(prompt.strip() for prompt in document)
