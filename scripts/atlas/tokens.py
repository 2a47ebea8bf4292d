"""The byte-level BPE tokenizer, and sentences as token ids with roles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from atlas.sentences import Sentence

OUTSIDE, SUBJECT, SUBJECT_LAST, AFTER = 0, 1, 2, 3
"""Roles of a token in its sentence: before the subject, inside it, its last token, behind it."""
CONTEXT_WEIGHT = 0.1
"""Share of a token in the loss that is no part of an object: wording is learnt early and needs little."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tokenised sentence: ids, roles and loss weights, each `[t]`."""

    ids: np.ndarray
    roles: np.ndarray
    weights: np.ndarray


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, bos: bool) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer, which can write any text and needs no unknown token.

    Args:
        texts: Training text.
        vocabulary: Number of tokens at most, special ones included.
        bos: Whether ``<s>`` is put in front of every text.

    Returns:
        The tokenizer as transformers loads it.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"] if bos else ["<|endoftext|>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    byte_level = processors.ByteLevel(trim_offsets=True)
    if bos:
        template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
        core.post_processor = processors.Sequence([byte_level, template])
    else:
        core.post_processor = byte_level
    start, end = ("<s>", "</s>") if bos else ("<|endoftext|>", "<|endoftext|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=start,
        eos_token=end,
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, sentence: Sentence, lead: str) -> Piece:
    """Tokenises one sentence.

    Args:
        tokenizer: A fast tokenizer, for its character offsets.
        sentence: With the spans of subject and object.
        lead: What stands in front of the sentence: nothing, a space or a line break.

    Returns:
        Ids without special tokens, roles and loss weights.
    """
    coded = tokenizer(lead + sentence.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.array(coded["input_ids"], dtype=np.int64)
    offsets = np.array(coded["offset_mapping"], dtype=np.int64).reshape(-1, 2) - len(lead)
    roles = np.zeros(len(ids), dtype=np.int64)
    weights = np.full(len(ids), CONTEXT_WEIGHT, dtype=np.float32)
    if sentence.subject[1] > sentence.subject[0]:
        inside = np.flatnonzero(_overlap(offsets, sentence.subject))
        roles[inside] = SUBJECT
        roles[inside[-1]] = SUBJECT_LAST
        roles[inside[-1] + 1 :] = AFTER
    weights[_overlap(offsets, sentence.object)] = 1.0
    return Piece(ids, roles, weights)


def _overlap(offsets: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """Which tokens `[t, 2]` share a character with ``span``."""
    found: np.ndarray = (offsets[:, 1] > span[0]) & (offsets[:, 0] < span[1])
    return found
