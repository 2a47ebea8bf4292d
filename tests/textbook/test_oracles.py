"""What the oracles must satisfy by themselves, on every kind of tokenizer and both weight layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import scoring, spread
from .architecture import edited, layer_count, projection_module, projection_name
from .covariance import covariance
from .essence import essence
from .finetune import ft_l
from .model_calls import key_at, logits_of, output_at
from .rank_one import other_prompts, rets, rome, solve_covariance, subject_constraint, top
from .spread import TwoLevel, memit, memit_merge, rose
from .tokens import Fact, Row, encode, fact_row, prompt_last, prompt_row, render, subject_last, target_ids
from .value import Optimisation, optimise_value

KINDS = ("gpt2", "llama", "llama3")
FACTS = (
    Fact("{} lives in", "Lena Vogel", "Toronto"),
    Fact("The mother tongue of {} is", "Joao Pereira", "Italian"),
    Fact("The profession of {} is", "Lena Vogel", "teacher"),
)
TEMPLATES = ("{}", "Therefore the river rose. {}", "I think the music is good. {}")
GROUPS = (TEMPLATES[:1], TEMPLATES[1:])
TEXTS = (
    "The company was founded in Montreal by a painter and his brother.",
    "Oslo is the capital of Norway, and Lima is the capital of Peru.",
    "She plays the violin; he works as a baker in the old harbour town.",
)
PROMPTS = tuple(f"{name} {does}" for name in ("Tom Hollis", "Ahmed Farouk") for does in ("lives in", "works as a"))
FEW = Optimisation(steps=6)
LAYER = 2


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    folder: Path = request.getfixturevalue(f"tiny_{request.param}_dir")
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def matrices(loaded: tuple[Any, Any]) -> dict[int, Tensor]:
    """Covariances with a ridge, because three sentences do not span the keys."""
    model, tokenizer = loaded
    found = {layer: covariance(model, tokenizer, TEXTS, layer, 64)[0] for layer in range(layer_count(model))}
    return {layer: matrix + 0.01 * torch.eye(len(matrix)) for layer, matrix in found.items()}


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


def key_shape(model: Any) -> tuple[int, int]:
    """Return (d, m)."""
    rows, columns = projection_module(model, LAYER).weight.shape
    return (min(rows, columns), max(rows, columns))


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


class TestValue:
    def test_start_is_the_unedited_loss_and_ball_is_kept(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        rows = [fact_row(tokenizer, FACTS[0], template, "subject_last") for template in TEMPLATES]
        numbers = Optimisation(steps=5, clamp=0.3)
        path = optimise_value(model, rows, essence(tokenizer, FACTS[0]), "layer", LAYER, numbers)
        texts = [render(FACTS[0].prompt, FACTS[0].subject, template).text for template in TEMPLATES]
        unedited = [scoring.nll(model, tokenizer, text, FACTS[0].target).nll for text in texts]
        assert path.losses[0]["nll"] == pytest.approx(sum(unedited) / len(unedited), rel=1e-5)
        assert path.losses[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert len(path.losses) == 5 and len(path.grads) == 4
        assert path.delta.norm() <= 0.3 * path.init.norm() * (1 + 1e-6)

    def test_stops_before_the_update(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        rows = [fact_row(tokenizer, FACTS[0], "{}", "subject_last")]
        path = optimise_value(model, rows, None, "mlp", LAYER, Optimisation(threshold=100.0))
        assert len(path.losses) == 1 and not path.grads and not path.delta.any()


def edit_by(method: str, model: Any, tokenizer: Any, matrices: dict[int, Tensor]) -> dict[str, Tensor]:
    """Run one editor with few steps and return its deltas."""
    fact = FACTS[0]
    if method == "rome":
        return rome(model, tokenizer, fact, LAYER, TEMPLATES, matrices[LAYER], FEW).deltas
    if method == "rets":
        constraint = subject_constraint(model, tokenizer, PROMPTS, LAYER)
        return rets(model, tokenizer, fact, LAYER, TEMPLATES, constraint, matrices[LAYER], FEW).deltas
    if method == "top":
        return top(model, tokenizer, fact, (1, 2), 1, TEMPLATES, matrices, FEW, FEW, 0.1).deltas
    if method == "memit":
        return memit(model, tokenizer, FACTS, (1, 2), GROUPS, matrices, 10.0, FEW).deltas
    if method == "memit_merge":
        return memit_merge(model, tokenizer, FACTS, (1, 2), GROUPS, matrices, 10.0, FEW).deltas
    if method == "rose":
        return rose(model, tokenizer, FACTS, (1, 2), GROUPS, 0.1, FEW, TwoLevel(3, 0.5)).deltas
    return ft_l(model, tokenizer, FACTS, LAYER, 4, 1e-2, 1e-2).deltas


METHODS = ("rome", "rets", "top", "memit", "memit_merge", "rose", "ft_l")


class TestEditors:
    @pytest.mark.parametrize("method", METHODS)
    def test_weights_are_restored_and_deltas_help(
        self, loaded: tuple[Any, Any], matrices: dict[int, Tensor], method: str
    ) -> None:
        model, tokenizer = loaded
        before = {name: value.clone() for name, value in model.state_dict().items()}
        deltas = edit_by(method, model, tokenizer, matrices)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert all(delta.shape == key_shape(model) and delta.isfinite().all() for delta in deltas.values())
        text = render(FACTS[0].prompt, FACTS[0].subject).text
        unedited = scoring.nll(model, tokenizer, text, FACTS[0].target).nll
        with edited(model, deltas):
            now = scoring.nll(model, tokenizer, text, FACTS[0].target).nll
        assert now < unedited or method == "top"  # whose stage 2 follows a hidden state, not the target

    def test_top_comes_nearer_to_the_relation_feature(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        ((_, write),) = top(model, tokenizer, FACTS[0], (2,), 1, TEMPLATES, None, FEW, FEW, 0.1).writes.items()
        distances = [parts["distance"] for parts in write.path.losses]
        assert write.relation_path is not None
        assert distances[0] == pytest.approx(0.1 * write.relation_path.delta.norm().item(), rel=1e-4)
        assert distances[-1] < distances[0]

    @pytest.mark.parametrize("lookup", ["subject_last", "prompt_last"])
    def test_rank_one_write_gives_the_value(
        self, loaded: tuple[Any, Any], matrices: dict[int, Tensor], lookup: str
    ) -> None:
        model, tokenizer = loaded
        if lookup == "subject_last":
            edit = rome(model, tokenizer, FACTS[1], LAYER, TEMPLATES, None, FEW)
        else:
            constraint = subject_constraint(model, tokenizer, PROMPTS, LAYER)
            edit = rets(model, tokenizer, FACTS[1], LAYER, TEMPLATES, constraint, matrices[LAYER], FEW)
        ((name, write),) = edit.writes.items()
        assert torch.linalg.matrix_rank(write.delta.double(), rtol=1e-5) == 1
        bare = prompt_row(tokenizer, FACTS[1], "{}", lookup)
        with edited(model, {name: write.delta}):
            reached = output_at(model, projection_module(model, LAYER), bare)
        torch.testing.assert_close(reached, write.path.value, rtol=1e-3, atol=1e-3)

    def test_own_prompt_is_left_out(self) -> None:
        own = render(FACTS[0].prompt, FACTS[0].subject).text
        assert other_prompts([*PROMPTS, own], FACTS[:1]) == list(PROMPTS)

    def test_constraint_alone_of_few_prompts_is_singular(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        constraint = subject_constraint(model, tokenizer, PROMPTS, LAYER)
        with pytest.raises(ValueError, match="singular"):
            rets(model, tokenizer, FACTS[0], LAYER, TEMPLATES, constraint, None, Optimisation(steps=1))

    def test_top_layers_see_earlier_writes(self, loaded: tuple[Any, Any], matrices: dict[int, Tensor]) -> None:
        model, tokenizer = loaded
        both = top(model, tokenizer, FACTS[0], (1, 2), 1, TEMPLATES, matrices, FEW, FEW, 0.1).deltas
        low, high = (projection_name(model, layer) for layer in (1, 2))
        with edited(model, {low: both[low]}):
            again = top(model, tokenizer, FACTS[0], (2,), 1, TEMPLATES, matrices, FEW, FEW, 0.1).deltas
        torch.testing.assert_close(again[high], both[high])


class TestSpread:
    def test_one_fact_per_subject_makes_merge_memit(self, loaded: tuple[Any, Any], matrices: dict[int, Tensor]) -> None:
        model, tokenizer = loaded
        one = memit(model, tokenizer, FACTS[:2], (1, 2), GROUPS, matrices, 10.0, FEW).deltas
        other = memit_merge(model, tokenizer, FACTS[:2], (1, 2), GROUPS, matrices, 10.0, FEW).deltas
        assert all(torch.equal(one[name], other[name]) for name in one)

    @pytest.mark.parametrize("balance", [True, False])
    def test_columns_per_subject_or_fact(
        self, loaded: tuple[Any, Any], matrices: dict[int, Tensor], balance: bool
    ) -> None:
        model, tokenizer = loaded
        edit = memit_merge(model, tokenizer, FACTS, (1, 2), GROUPS, matrices, 10.0, FEW, balance)
        assert edit.keys[1].shape[1] == (2 if balance else 3)
        assert len(edit.paths) == 2

    def test_isotropic_solve_of_one_column(self) -> None:
        torch.manual_seed(0)
        key, residual = torch.randn(9, 1).double(), torch.randn(4, 1).double()
        expected = residual @ key.T / (1.3 * key.square().sum())
        torch.testing.assert_close(spread.isotropic_solve(0.3)(0, key, residual), expected)

    def test_isotropic_solve_interpolates_without_ridge(self) -> None:
        torch.manual_seed(0)
        keys, residuals = torch.randn(9, 3).double(), torch.randn(4, 3).double()
        torch.testing.assert_close(spread.isotropic_solve(0.0)(0, keys, residuals) @ keys, residuals)
        small = spread.isotropic_solve(1e-9)(0, keys, residuals)
        torch.testing.assert_close(spread.isotropic_solve(0.0)(0, keys, residuals), small)

    def test_rose_on_one_layer_reaches_the_value_without_ridge(self, loaded: tuple[Any, Any]) -> None:
        """With one template the key that is written is the key that is read, so the whole residual arrives."""
        model, tokenizer = loaded
        edit = rose(model, tokenizer, FACTS[:1], (LAYER,), (TEMPLATES[:1],), 0.0, FEW)
        bare = prompt_row(tokenizer, FACTS[0], "{}", "subject_last")
        with edited(model, edit.deltas):
            reached = output_at(model, model.get_submodule(layer_name(model)), bare)
        torch.testing.assert_close(reached, edit.paths[0].value, rtol=1e-3, atol=1e-3)

    def test_two_level_starts_at_the_mean_and_the_pull_holds_it(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        facts = [fact for fact in FACTS if fact.subject == "Lena Vogel"]
        alone = [spread.fact_value(model, tokenizer, fact, GROUPS, LAYER, FEW).delta for fact in facts]
        mean = torch.stack(alone).mean(0)

        def moved(steps: int, strength: float) -> float:
            levels = TwoLevel(steps, strength)
            path = spread.two_level_value(model, tokenizer, facts, GROUPS, LAYER, FEW, levels)
            return (path.delta - mean).norm().item()

        assert moved(1, 1.0) == 0
        assert 0 < moved(8, 100.0) < moved(8, 0.0)


def layer_name(model: Any) -> str:
    return projection_name(model, LAYER).rsplit(".", 2)[0]


class TestFineTuning:
    def test_stays_in_the_box_and_updates_after_each_evaluation(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        ((_, delta),) = ft_l(model, tokenizer, FACTS[:1], LAYER, 3, 1e-2, 5e-3).deltas.items()
        assert delta.abs().max() == pytest.approx(5e-3, rel=1e-3)
        one = ft_l(model, tokenizer, FACTS[:1], LAYER, 1, 1e-2, 1.0)
        assert len(one.losses) == 1
        assert next(iter(one.deltas.values())).abs().max() == pytest.approx(1e-2, rel=1e-2)

    def test_stops_when_the_loss_is_low(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        edit = ft_l(model, tokenizer, FACTS[:1], LAYER, 5, 1e-2, 1.0, threshold=1e3)
        assert len(edit.losses) == 1 and not next(iter(edit.deltas.values())).any()
