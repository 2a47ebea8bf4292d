"""Second moments of keys against the plain implementation, and solves that refuse singular matrices."""

from __future__ import annotations

import random

import pytest
import torch

from ke_cli.engine.covariance import Covariance, collect
from ke_cli.engine.tokens import encode
from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel
from textbook.covariance import covariance
from textbook.rank_one import solve_covariance

from .benches import LARGE, SMALL, assert_untouched, documents, plain, relative, state_hash

TEXTS = documents(300, seed=3)
ALL = 10**9


@pytest.mark.parametrize("max_length", [7, 1000])
def test_all_layers_in_one_pass(exact_model: EditableModel, max_length: int) -> None:
    """Every token counts alike, the BOS of every text included, as in published statistics."""
    before = state_hash(exact_model.hf)
    layers = [3, 0, 4]
    found, seen = collect(exact_model, layers, TEXTS, tokens=ALL, max_length=max_length, budget=LARGE)
    assert set(found) == set(layers)
    for layer in layers:
        want, count = covariance(*plain(exact_model), TEXTS, layer, max_length)
        assert seen == count
        assert relative(found[layer], want) < 1e-10
        assert torch.equal(found[layer], found[layer].T)
    assert_untouched(exact_model, before)


def test_float32_models(model: EditableModel) -> None:
    found, _ = collect(model, [2], TEXTS, tokens=ALL, max_length=20, budget=LARGE)
    want, _ = covariance(*plain(model), TEXTS, 2, 20)
    assert found[2].dtype == torch.float64
    assert relative(found[2], want) < 1e-5


@pytest.mark.parametrize("budget", [1, SMALL, 500])
def test_batching_does_not_matter(exact_model: EditableModel, budget: int) -> None:
    want, seen = collect(exact_model, [1, 3], TEXTS, tokens=ALL, max_length=20, budget=LARGE)
    found, again = collect(exact_model, [1, 3], TEXTS, tokens=ALL, max_length=20, budget=budget)
    assert again == seen
    assert all(relative(found[layer], want[layer]) < 1e-12 for layer in (1, 3))


def test_order_of_texts_does_not_matter(exact_model: EditableModel) -> None:
    shuffled = TEXTS.copy()
    random.Random(0).shuffle(shuffled)
    want, _ = collect(exact_model, [2], TEXTS, tokens=ALL, max_length=20, budget=SMALL)
    found, _ = collect(exact_model, [2], shuffled, tokens=ALL, max_length=20, budget=SMALL)
    assert relative(found[2], want[2]) < 1e-12


@pytest.mark.parametrize("tokens", [1, 13, 100])
def test_stops_at_the_number_of_tokens(exact_model: EditableModel, tokens: int) -> None:
    """Exactly so many tokens, the last text cut, and no text read that is not needed."""
    read: list[str] = []

    def reading() -> object:
        for text in TEXTS:
            read.append(text)
            yield text

    found, seen = collect(exact_model, [1], reading(), tokens=tokens, max_length=9, budget=SMALL)  # type: ignore[arg-type]
    assert seen == tokens
    left, cut = tokens, []
    for text in TEXTS:
        ids = encode(exact_model.tokenizer, text).ids[:9]
        cut.append((text, min(left, len(ids))))
        left -= min(left, len(ids))
        if not left:
            break
    assert read == [text for text, _ in cut]
    total = sum(covariance(*plain(exact_model), [text], 1, length)[0] * length for text, length in cut)
    assert relative(found[1], torch.as_tensor(total) / tokens) < 1e-10


def test_nothing_to_read(model: EditableModel) -> None:
    with pytest.raises(UserError, match="empty"):
        collect(model, [1], [], tokens=10, max_length=9, budget=LARGE)


class TestSolve:
    @staticmethod
    def matrix(size: int = 12) -> torch.Tensor:
        torch.manual_seed(1)
        factor = torch.randn(size, 3 * size, dtype=torch.float64)
        return factor @ factor.T

    def test_inverse(self) -> None:
        matrix, keys = self.matrix(), torch.randn(12, 3, dtype=torch.float64)
        found = Covariance(matrix, "covariance").solve(keys)
        torch.testing.assert_close(found, torch.linalg.inv(matrix) @ keys)
        torch.testing.assert_close(found[:, 0], solve_covariance(matrix, keys[:, 0]))

    def test_float32_is_solved_in_float64(self) -> None:
        matrix = self.matrix().float()
        found = Covariance(matrix, "covariance").solve(torch.ones(12, 1))
        assert found.dtype == torch.float64
        torch.testing.assert_close(matrix.double() @ found, torch.ones(12, 1, dtype=torch.float64))

    def test_sum(self) -> None:
        first, second = self.matrix(), self.matrix().roll(1, 0).roll(1, 1)
        both = Covariance(first.float(), "text").plus(second, "both")
        assert both.matrix.dtype == torch.float64 and both.name == "both"
        torch.testing.assert_close(both.matrix, first.float().double() + second)

    @pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
    @pytest.mark.parametrize("rank", [0, 1, 11])
    def test_singular_is_an_error(self, rank: int, scale: float) -> None:
        torch.manual_seed(2)
        keys = scale * torch.randn(12, rank, dtype=torch.float64)
        with pytest.raises(UserError, match=r"(?s)covariance of layer 5 is singular.*12 x 12"):
            Covariance(keys @ keys.T, "covariance of layer 5").solve(torch.ones(12, 1))

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_not_finite_is_an_error(self, bad: float) -> None:
        matrix = self.matrix()
        matrix[3, 4] = matrix[4, 3] = bad
        with pytest.raises(UserError, match="singular"):
            Covariance(matrix, "covariance").solve(torch.ones(12, 1))

    def test_indefinite_is_an_error(self) -> None:
        with pytest.raises(UserError, match="singular"):
            Covariance(self.matrix() - 1e3 * torch.eye(12, dtype=torch.float64), "covariance").factor  # noqa: B018

    def test_well_conditioned_is_none_at_any_scale(self) -> None:
        for scale in (1e-12, 1e12):
            solved = Covariance(scale * self.matrix(), "covariance").solve(torch.ones(12, 1))
            assert torch.isfinite(solved).all()
