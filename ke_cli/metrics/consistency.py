"""Consistency: do texts about the subject speak of what is true of the new object?

Meng et al. 2022 (arXiv 2202.05262), where it is called RS, which other papers use for R-Specificity.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ke_cli.data.types import Case
from ke_cli.engine.queries import Answers, Query
from ke_cli.metrics.answers import generated
from ke_cli.metrics.base import Column, Metric, Values
from ke_cli.metrics.fluency import SampledText

WORD = re.compile(r"\b\w\w+\b")
"""What counts as a word in the published files of frequencies: two letters or digits at least."""


@dataclass(frozen=True)
class Consistency(SampledText, Metric):
    """Cosine of the TF-IDF vectors of all texts of a case, and of all its reference texts, each joined to one.

    A word's weight is how often it stands there, times its inverse document frequency; words outside the vocabulary
    do not count. A case without prompts or reference texts has no value, nor one whose reference texts have
    no word of the vocabulary.

    Args:
        vocabulary: JSON file that maps words, in lower case, to their places in ``idf``.
        idf: Inverse document frequencies: a JSON list, or an ``.npy`` file.
    """

    vocabulary: str = field(kw_only=True)
    idf: str = field(kw_only=True)

    name = "consistency"
    version = 1

    def __post_init__(self) -> None:
        """Refuse files that are none, before anything is computed."""
        super().__post_init__()
        _ = self.weights

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """Words and their inverse document frequencies.

        Raises:
            ValueError: A file cannot be read, or the two do not fit together.
        """
        places = _places(Path(self.vocabulary).expanduser())
        frequencies = _numbers(Path(self.idf).expanduser())
        if places and not 0 <= min(places.values()) <= max(places.values()) < len(frequencies):
            raise ValueError(f"idf: expected a number for each place in vocabulary, got {len(frequencies)}")
        return {word: frequencies[place] for word, place in places.items()}

    @property
    def columns(self) -> Sequence[Column]:
        """The cosine."""
        return (Column("consistency", "Consist."),)

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for one text for each prompt."""
        return self.texts(case) if case.consistency_texts else ()

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Compare the texts with the references."""
        asked = self.texts(case)
        if not (case.consistency_texts and asked):
            return {"consistency": None}
        written = " ".join(generated(after, query) for query in asked)
        reference = " ".join(case.consistency_texts)
        return {"consistency": cosine(self.vector(written), self.vector(reference))}

    def vector(self, text: str) -> dict[str, float]:
        """Return the weight of each word of a text."""
        counts = Counter(WORD.findall(text.lower()))
        return {word: count * self.weights[word] for word, count in counts.items() if word in self.weights}


def cosine(found: Mapping[str, float], reference: Mapping[str, float]) -> float | None:
    """Return the cosine of two vectors: 0 where the first is zero, None where the second is."""
    lengths = [math.sqrt(sum(value**2 for value in vector.values())) for vector in (found, reference)]
    if not lengths[1]:
        return None
    product = sum(value * reference.get(word, 0.0) for word, value in found.items())
    return product / (lengths[0] * lengths[1]) if lengths[0] else 0.0


def _places(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"vocabulary: expected a JSON file, got '{path}' ({type(error).__name__})") from error
    if not isinstance(content, dict) or not content or not all(type(place) is int for place in content.values()):
        raise ValueError(f"vocabulary: expected an object of words and whole numbers in '{path}'")
    return content


def _numbers(path: Path) -> list[float]:
    try:
        content = _array(path) if path.suffix == ".npy" else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"idf: expected a JSON list or .npy file, got '{path}' ({type(error).__name__})") from error
    if not isinstance(content, list) or not all(type(one) in (int, float) and math.isfinite(one) for one in content):
        raise ValueError(f"idf: expected a list of numbers in '{path}'")
    return content


def _array(path: Path) -> object:
    import numpy as np

    return np.load(path, allow_pickle=False).tolist()
