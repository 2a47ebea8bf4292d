"""Greedy text and sampled prefixes with a key-value cache, against decoding without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ke_cli.engine.edits import NO_EDIT, merged
from ke_cli.engine.generation import continued, end_ids, greedy, sample_prefixes, start_ids
from ke_cli.engine.tokens import encode
from ke_cli.engine.workbench import ContextSpec, Workbench, as_template
from ke_cli.models.editable import EditableModel
from textbook import scoring as textbook

from .benches import LARGE, PROMPTS, SMALL, assert_untouched, bench_of, state_hash
from .test_edits import edits_of
from .zoo import zoo_model

NEW = 9
"""Enough for the second new token, which the attention mask decides, and far beyond it."""


def rows_of(model: EditableModel) -> list[tuple[int, ...]]:
    return [encode(model.tokenizer, text).ids for text in PROMPTS]


def by_textbook(model: EditableModel, ids: tuple[int, ...], new_tokens: int = NEW) -> list[int]:
    return textbook.greedy(model.hf, ids, new_tokens, end_ids(model))


@pytest.mark.parametrize("budget", [SMALL, LARGE])
def test_left_padded_rows_of_all_lengths(exact_model: EditableModel, budget: int) -> None:
    """Positions and mask of padded rows are those of the rows alone, at every new token."""
    before = state_hash(exact_model.hf)
    rows = rows_of(exact_model)
    found = greedy(exact_model, [(ids, 0) for ids in rows], [], NEW, budget)
    assert found == [by_textbook(exact_model, ids) for ids in rows]
    assert max(len(tokens) for tokens in found) > 2
    assert_untouched(exact_model, before)


@pytest.mark.parametrize("kind", ["narrow", "gemma3_text", "mistral", "gpt_neo", "gpt_neox", "qwen2"])
def test_sliding_windows(kind: str) -> None:
    """The cache drops what the window has left behind, and left padding with it."""
    model = zoo_model(kind)
    rows = rows_of(model)
    found = greedy(model, [(ids, 0) for ids in rows], [], NEW, LARGE)
    assert found == [by_textbook(model, ids) for ids in rows]


def test_every_row_with_its_own_edit(exact_model: EditableModel) -> None:
    edits = edits_of(exact_model)
    rows = [(ids, number % len(edits)) for number, ids in enumerate(rows_of(exact_model))]
    found = greedy(exact_model, rows, edits, NEW, LARGE)
    for (ids, edit), tokens in zip(rows, found, strict=True):
        with merged(exact_model, edits[edit]):
            assert tokens == by_textbook(exact_model, ids)
    assert found != greedy(exact_model, [(ids, 0) for ids, _ in rows], [NO_EDIT], NEW, LARGE)


def test_a_row_ends_at_an_end_token_and_the_others_go_on(exact_model: EditableModel) -> None:
    rows = rows_of(exact_model)[:3]
    (end,) = end_ids(exact_model)
    steps = 0

    def choose(logits: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        picked = torch.full((3,), 50 + steps)
        picked[1] = end if steps == 2 else picked[1]
        picked[2] = end if steps == 3 else picked[2]
        return picked

    assert continued(exact_model, rows, 4, choose) == [[51, 52, 53, 54], [51], [51, 52]]


def test_all_rows_ended(exact_model: EditableModel) -> None:
    (end,) = end_ids(exact_model)
    calls: list[int] = []

    def choose(logits: torch.Tensor) -> torch.Tensor:
        calls.append(len(logits))
        return torch.full((2,), end)

    assert continued(exact_model, rows_of(exact_model)[:2], 9, choose) == [[], []]
    assert calls == [2]


def test_nothing_new(exact_model: EditableModel) -> None:
    assert greedy(exact_model, [(rows_of(exact_model)[0], 0)], [], 0, LARGE) == [[]]


def test_end_tokens_of_configuration_and_tokenizer(tiny_model: Callable[..., EditableModel]) -> None:
    model = tiny_model("llama3")
    kept = model.hf.generation_config.eos_token_id
    try:
        model.hf.generation_config.eos_token_id = [3, 4]
        assert end_ids(model) == {3, 4, model.tokenizer.eos_token_id}
        model.hf.generation_config.eos_token_id = None
        assert end_ids(model) == {model.tokenizer.eos_token_id}
    finally:
        model.hf.generation_config.eos_token_id = kept


class TestPrefixes:
    def test_length_start_and_number(self, model: EditableModel) -> None:
        texts = sample_prefixes(model, "Therefore", 6, 3)
        assert len(texts) == 3 and len(set(texts)) > 1
        assert all(text.startswith("Therefore") for text in texts)

    def test_an_empty_start_is_the_start_of_text(self, model: EditableModel) -> None:
        assert start_ids(model, "") == (model.tokenizer.bos_token_id,)
        texts = sample_prefixes(model, "", 5, 4)
        specials = set(model.tokenizer.all_special_tokens)
        assert not any(special in text for special in specials for text in texts)

    def test_same_seed_same_texts(self, model: EditableModel) -> None:
        first = sample_prefixes(model, "I", 8, 3, seed=4)
        torch.manual_seed(123)  # a generator of its own: nobody else's draws matter, and none are taken away
        state = torch.get_rng_state()
        assert sample_prefixes(model, "I", 8, 3, seed=4) == first
        assert torch.equal(torch.get_rng_state(), state)
        assert sample_prefixes(model, "I", 8, 3, seed=5) != first

    def test_only_the_k_most_likely_tokens_are_drawn(self, model: EditableModel) -> None:
        assert len(set(sample_prefixes(model, "Oslo is", 6, 4, top_k=1))) == 1
        ids = start_ids(model, "Oslo is")
        best = textbook.next_log_probs(model.hf, ids).topk(3).indices.tolist()
        drawn = {
            tokens[0]
            for seed in range(12)
            for tokens in sampled_tokens(model, ids, seed)
            if tokens  # empty where the end token was drawn
        }
        assert drawn <= set(best) and len(drawn) > 1


def sampled_tokens(model: EditableModel, ids: tuple[int, ...], seed: int) -> list[list[int]]:
    """The first new token of three samples, through the function that `sample_prefixes` calls."""
    import ke_cli.engine.generation as module

    found: list[list[int]] = []
    original = module.continued

    def recording(*args: Any) -> list[list[int]]:
        tokens = original(*args)
        found.extend(tokens)
        return tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "continued", recording)
        sample_prefixes(model, "Oslo is", 1, 3, top_k=3, seed=seed)
    return found


class TestTemplates:
    SPEC = ContextSpec((("The", 4, 1), ("", 3, 2)))

    def test_bare_first_then_every_group(self, model: EditableModel, tmp_path: Any) -> None:
        bench = bench_of(model, tmp_path)
        bare, first, *rest = templates = bench.templates(self.SPEC)
        assert bare == "{}" and first.startswith("The") and len(rest) == 2
        assert all(t.count("{}") == 1 and t.endswith(". {}") for t in templates[1:])
        assert bench.templates(self.SPEC) is bench.templates(ContextSpec((("The", 4, 1), ("", 3, 2))))

    def test_sampled_anew_they_are_the_same(self, model: EditableModel, tmp_path: Any) -> None:
        first = bench_of(model, tmp_path).templates(self.SPEC)
        assert bench_of(model, tmp_path).templates(self.SPEC) == first
        other = ContextSpec(self.SPEC.groups, seed=1)
        assert bench_of(model, tmp_path).templates(other) != first

    def test_given_ones_are_taken(self, model: EditableModel, tmp_path: Any) -> None:
        bench: Workbench = bench_of(model, tmp_path)
        bench.use_templates(self.SPEC, ["{}", "So. {}"])
        assert bench.templates(self.SPEC) == ("{}", "So. {}")

    @pytest.mark.parametrize(
        ("prefix", "template"),
        [("The sun", "The sun. {}"), (" The\n {} sun}\t", "The sun. {}"), ("", ". {}"), ("a  {b} ", "a b. {}")],
    )
    def test_braces_and_breaks_do_not_get_in_the_way(self, prefix: str, template: str) -> None:
        assert as_template(prefix) == template
