"""Documents of several sentences, batched by length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from atlas.facts import Atlas
from atlas.sentences import Sentence, stream
from atlas.tokens import AFTER, OUTSIDE, Piece, encode

LENGTHS = (1, 1, 1, 2, 2, 3, 4)
"""Sentences in a document, drawn uniformly."""
POOL = 256
"""Documents that are sorted by length before they are cut into batches."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What training documents look like.

    Args:
        masked: Share of sentences in which the tokens behind a subject see only its last token.
        isolated: Share of sentences in which the subject does not see the words before it.
        cut: Share of leading sentences that break off, as generated context does.
        worn: Share of sentences that lose a token or two of their wording, which helps with unseen wordings.
        tokens: Tokens in a batch, padding included.
    """

    masked: float = 0.85
    isolated: float = 0.6
    cut: float = 0.2
    worn: float = 0.25
    tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded documents; every field is `[b, t]`.

    Args:
        ids: Token ids.
        roles: Role of the token in its sentence.
        sentences: Number of the sentence in its document; 0 for the start token.
        masked: Whether the sentence hides its subject from the tokens behind it.
        isolated: Whether the sentence hides the words before its subject from the subject.
        weights: Weight of the token as a prediction target; 0 for padding.
    """

    ids: Tensor
    roles: Tensor
    sentences: Tensor
    masked: Tensor
    isolated: Tensor
    weights: Tensor


def wear(piece: Piece, rng: random.Random) -> Piece:
    """Drops one or two tokens that belong neither to subject nor object; only the object is then learnt."""
    wording = (piece.roles == OUTSIDE) | (piece.roles == AFTER)
    places = np.flatnonzero(wording & (piece.weights < 1))[:-1].tolist()
    dropped = rng.sample(places, min(len(places), rng.randint(1, 2)))
    weights = np.where(piece.weights < 1, 0, piece.weights)
    return Piece(np.delete(piece.ids, dropped), np.delete(piece.roles, dropped), np.delete(weights, dropped))


class Writer:
    """Writes documents.

    Args:
        atlas: The facts.
        tokenizer: Of the model to be trained.
        plan: What documents look like.
        rng: Source of all chance.
    """

    def __init__(self, atlas: Atlas, tokenizer: PreTrainedTokenizerFast, plan: Plan, rng: random.Random) -> None:
        """Starts the stream of sentences."""
        self._tokenizer, self._plan, self._rng = tokenizer, plan, rng
        self._stream = stream(atlas, rng)
        self._pieces: dict[tuple[str, str], Piece] = {}
        self._start = [tokenizer.bos_token_id] if tokenizer("")["input_ids"] else []

    def batches(self) -> Iterator[Batch]:
        """Endless batches of documents of like length."""
        while True:
            documents = sorted((self._document() for _ in range(POOL)), key=lambda item: item.shape[1])
            groups = self._groups(documents)
            self._rng.shuffle(groups)
            for group in groups:
                yield self._pad(group)

    def _groups(self, documents: list[np.ndarray]) -> list[list[np.ndarray]]:
        groups: list[list[np.ndarray]] = [[]]
        for document in documents:
            if (len(groups[-1]) + 1) * document.shape[1] > self._plan.tokens and groups[-1]:
                groups.append([])
            groups[-1].append(document)
        return groups

    def _document(self) -> np.ndarray:
        """One document `[6, t]`: the fields of `Batch` as rows."""
        count, seen, columns = self._rng.choice(LENGTHS), set(), []
        columns.append(np.array([[i, OUTSIDE, 0, 0, 0, 0] for i in self._start], float).reshape(-1, 6).T)
        for number in range(1, count + 1):
            subject, sentence = next(self._stream)
            if subject in seen:
                continue
            seen.add(subject or sentence.text)
            lead = "" if number == 1 else self._rng.choice((" ", " ", "\n"))
            columns.append(self._columns(sentence, lead, number, last=number == count))
        columns.append(np.array([[self._tokenizer.eos_token_id], [OUTSIDE], [count + 1], [0], [0], [0.1]]))
        return np.concatenate(columns, axis=1)

    def _columns(self, sentence: Sentence, lead: str, number: int, *, last: bool) -> np.ndarray:
        piece, rng = self._piece(sentence, lead), self._rng
        if rng.random() < self._plan.worn:
            piece = wear(piece, rng)
        ids, roles, weights = piece.ids, piece.roles, piece.weights
        if not last and rng.random() < self._plan.cut:
            stop = rng.randint(1, len(ids))
            ids = np.append(ids[:stop], piece.ids[-1])
            roles, weights = np.append(roles[:stop], roles[stop - 1]), np.append(weights[:stop], 0.0)
        flags = float(rng.random() < self._plan.masked), float(rng.random() < self._plan.isolated)
        rows = [np.full(len(ids), value) for value in (float(number), *flags)]
        return np.stack([ids, roles, *rows, weights]).astype(float)

    def _piece(self, sentence: Sentence, lead: str) -> Piece:
        key = (lead, sentence.text)
        if key not in self._pieces:
            self._pieces[key] = encode(self._tokenizer, sentence, lead)
        return self._pieces[key]

    def _pad(self, documents: list[np.ndarray]) -> Batch:
        width = max(document.shape[1] for document in documents)
        table = np.zeros((6, len(documents), width))
        table[0] = self._tokenizer.pad_token_id
        table[2] = -1
        for row, document in enumerate(documents):
            table[:, row, : document.shape[1]] = document
        ids, roles, sentences = (torch.from_numpy(table[i]).long() for i in range(3))
        masked, isolated = (torch.from_numpy(table[i]).bool() for i in (3, 4))
        return Batch(ids, roles, sentences, masked, isolated, torch.from_numpy(table[5]).float())
