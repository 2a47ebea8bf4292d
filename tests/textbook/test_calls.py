"""Tokens, model calls, scores and covariances of the oracles, on every kind of tokenizer and both weight layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import scoring
from .architecture import edited, projection_module, projection_name
from .covariance import covariance
from .examples import FACTS, LAYER, TEMPLATES, TEXTS, key_shape
from .model_calls import key_at, logits_of, output_at
from .rank_one import solve_covariance
from .tokens import Fact, Row, encode, fact_row, prompt_last, prompt_row, render, subject_last, target_ids


class TestTokens:
    def test_text_comes_back(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        for text in (*TEXTS, "São Tomé: 東京, naïve"):
            ids, offsets = encode(tokenizer, text)
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert max(stop for _, stop in offsets) == len(text)

    def test_bos_comes_once_and_never_in_a_target(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        ids, _ = encode(tokenizer, "Oslo is in")
        target = target_ids(tokenizer, "Oslo is in", "Norway")
        bos = tokenizer.bos_token_id
        assert ids.count(bos) == (0 if "endoftext" in tokenizer.bos_token else 1)
        assert bos not in target
        assert tokenizer.decode(ids + target, skip_special_tokens=True) == "Oslo is in Norway"

    def test_target_has_no_stray_word_start(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        first, *_ = tokenizer.convert_ids_to_tokens(target_ids(tokenizer, "He is in", "Paris"))
        assert first[0] in "Ġ▁" and len(first) > 1

    @pytest.mark.parametrize("template", TEMPLATES)
    @pytest.mark.parametrize(
        ("prompt", "subject", "last"),
        [
            ("{} is", "Peru", "u"),
            ("Peru and {} and Peru", "Peru", "u"),
            ("The sport of {}, a player, is", "O'Brien {x}", "}"),
            ("the city of {} is", "São Tomé", "é"),
            ("In {}", "Tokyo", "o"),
        ],
    )
    def test_subject_last_holds_its_last_character(
        self, loaded: tuple[Any, Any], template: str, prompt: str, subject: str, last: str
    ) -> None:
        _, tokenizer = loaded
        rendered = render(prompt, subject, template)
        assert rendered.text[rendered.start : rendered.stop] == subject
        ids, offsets = encode(tokenizer, rendered.text)
        position = subject_last(tokenizer, rendered)
        start, stop = offsets[position]
        assert start < rendered.stop <= stop
        assert last in rendered.text[start:stop]
        assert all(begin >= rendered.stop for begin, _ in offsets[position + 1 :])
        row = fact_row(tokenizer, Fact(prompt, subject, "Lima"), template, "subject_last")
        assert row.lookup == position and list(row.ids[: len(ids)]) == ids

    def test_prompt_last_predicts_the_first_target_token(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        row = fact_row(tokenizer, FACTS[1], TEMPLATES[1], "prompt_last")
        text = render(FACTS[1].prompt, FACTS[1].subject, TEMPLATES[1]).text
        assert row.first == row.lookup == prompt_last(tokenizer, text)
        assert len(row.ids) == row.first + len(row.target)

    def test_a_prompt_without_its_one_place_is_refused(self) -> None:
        for prompt in ("no place", "{} and {}"):
            with pytest.raises(ValueError, match="exactly one"):
                render(prompt, "Peru")


class TestModelCalls:
    def test_rows_padded_together_are_rows_alone(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        rows = [fact_row(tokenizer, fact, template, "prompt_last") for fact in FACTS for template in TEMPLATES]
        together = logits_of(model, rows)
        for index, row in enumerate(rows):
            torch.testing.assert_close(together[index, : len(row.ids)], logits_of(model, [row])[0])

    def test_projection_of_the_key_is_its_output(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        row = prompt_row(tokenizer, FACTS[0], "{}", "subject_last")
        module = projection_module(model, LAYER)
        torch.testing.assert_close(module(key_at(model, row, LAYER)), output_at(model, module, row))

    def test_weights_come_back_bit_for_bit(self, loaded: tuple[Any, Any]) -> None:
        model, _ = loaded
        name = projection_name(model, LAYER)
        before = model.get_submodule(name).weight.clone()
        shape = key_shape(model)
        with edited(model, {name: torch.randn(shape)}):
            assert not torch.equal(model.get_submodule(name).weight, before)
        assert torch.equal(model.get_submodule(name).weight, before)


class TestScoring:
    def test_token_by_token_is_one_forward(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        row = fact_row(tokenizer, FACTS[2], "{}", "prompt_last")
        score = scoring.nll(model, tokenizer, "The profession of Lena Vogel is", "teacher")
        log_probs = logits_of(model, [row])[0].log_softmax(-1)
        expected = [-log_probs[row.first + j, token].item() for j, token in enumerate(row.target)]
        assert score.nlls == pytest.approx(expected, rel=1e-5)
        assert score.nll == pytest.approx(sum(expected) / len(expected), rel=1e-5)

    def test_top_tokens_are_ordered_and_agree_with_token_nll(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        best = scoring.top_tokens(model, tokenizer, "Oslo is", 5)
        assert [c.nll for c in best] == sorted(c.nll for c in best)
        assert scoring.token_nll(model, tokenizer, "Oslo is", best[3].id) == pytest.approx(best[3].nll)

    def test_greedy_agrees_with_the_library(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        ids = scoring.instruction_ids(tokenizer, "Where was Marta born?")
        inputs = torch.tensor([ids])
        theirs = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        assert scoring.greedy(model, ids, 12, {tokenizer.eos_token_id}) == theirs[0, len(ids) :].tolist()

    def test_chat_template_has_one_bos(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        ids = scoring.instruction_ids(tokenizer, "Where?")
        assert ids.count(tokenizer.bos_token_id) == (0 if "endoftext" in tokenizer.bos_token else 1)

    def test_relation_token_skips_blanks_and_stop_words(self) -> None:
        found = [scoring.Candidate(i, text, float(i)) for i, text in enumerate([" ", " the", " Oslo"])]
        assert scoring.relation_token(found, {"the"}).id == 2
        assert scoring.relation_token(found, {"the", "Oslo"}).id == 0


class TestCovariance:
    def test_is_the_mean_over_all_tokens(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        matrix, count = covariance(model, tokenizer, TEXTS, LAYER, 9)
        rows = [Row(tuple(encode(tokenizer, t)[0][: stop + 1]), stop, (), stop) for t in TEXTS for stop in range(9)]
        keys = torch.stack([key_at(model, row, LAYER) for row in rows]).double()
        assert count == len(rows) == 27
        torch.testing.assert_close(matrix, keys.T @ keys / 27, rtol=1e-4, atol=1e-6)

    def test_singular_is_an_error(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        matrix, _ = covariance(model, tokenizer, TEXTS[:1], LAYER, 8)
        with pytest.raises(ValueError, match="singular"):
            solve_covariance(matrix, torch.ones(len(matrix)))
