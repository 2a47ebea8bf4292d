"""Known traps of existing implementations, one test (at least) for each.

Statistics have theirs in `test_statistics`, too; generation in `test_generation`, tokens in `test_tokens`.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ke_cli.config import compose_run
from ke_cli.data.types import Request
from ke_cli.engine.edits import Edit, LowRank, attached, merged
from ke_cli.engine.forward import Padded, run
from ke_cli.engine.generation import greedy
from ke_cli.engine.partial import prepare
from ke_cli.engine.queries import InstructionQuery, Score, TargetQuery, TopTokensQuery
from ke_cli.engine.reading import Site, Token, read
from ke_cli.engine.scoring import answer
from ke_cli.engine.statistics import StatisticsSpec
from ke_cli.engine.tokens import Prompt, continuation, encode
from ke_cli.engine.workbench import ContextSpec, Workbench
from ke_cli.errors import UserError
from ke_cli.evaluate import edit_units
from ke_cli.methods.base import Editor
from ke_cli.methods.rows import target_rows
from ke_cli.models.editable import EditableModel
from ke_cli.plan import make_plan
from methods.oracles import CONFIGURED, assert_agrees, editor_of, use_templates

from .benches import (
    LARGE,
    PROMPTS,
    REQUESTS,
    TEMPLATES,
    assert_untouched,
    bench_of,
    deltas_of,
    documents,
    load_tiny,
    reference_prompts,
    relative,
    state_hash,
    unit_of,
)

TinyModel = Callable[..., EditableModel]
METHODS = [name for name in CONFIGURED if name != "none"]
SETTINGS: dict[str, dict[str, Any]] = {
    "rome": {"layers": (2,)},
    "rets": {"layers": (3,), "reference_prompts": 30},
    "top": {"layers": (1,), "relation_offset": 2, "subject_steps": 3},
    "memit": {"layers": (1, 2), "lambda_": 15.0},
    "memit_merge": {"layers": (1, 2), "lambda_": 15.0},
    "rose": {"layers": (1, 2), "joint_steps": 3},
    "ft_l": {"layers": (3,)},
}


def build(name: str, bench: Workbench, templates: tuple[str, ...] = TEMPLATES, **settings: Any) -> Editor:
    editor = editor_of(name, **({"steps": 4, "threshold": 0.0} | SETTINGS[name] | settings))
    use_templates(editor, bench, templates)
    return editor


@pytest.fixture(scope="session")
def bench(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Workbench]:
    """``bench(kind, dtype)``: a workbench with statistics and reference prompts, the same one at each call."""
    made: dict[tuple[str, str], Workbench] = {}

    def workbench(kind: str, dtype: str = "float32") -> Workbench:
        if (kind, dtype) not in made:
            folder = tmp_path_factory.mktemp("traps")
            made[kind, dtype] = bench_of(tiny_model(kind, dtype), folder, prompts=reference_prompts(30))
            made[kind, dtype].covariances(range(5))
        return made[kind, dtype]

    return workbench


class TestPrompts:
    def test_subject_repeated_in_the_prompt(self, bench: Callable[..., Workbench]) -> None:
        """Only the place of the ``{}`` counts, before and behind it the same name may stand."""
        request = REQUESTS[3]
        assert request.prompt.count(request.subject) == 2
        for kind in ("gpt2", "llama", "llama3"):
            here = bench(kind, "float64")
            prompt = Prompt.of(request.prompt, request.subject)
            tokens = encode(here.model.tokenizer, prompt.text)
            head = here.model.tokenizer.decode(tokens.ids[: prompt.subject_last(tokens) + 1], skip_special_tokens=True)
            assert head.strip() == "It is said that Tom Hollis, the brother of Tom Hollis"
            assert_agrees(build("rome", here), "rome", here, [unit_of(request)], 1e-10)

    def test_subject_at_position_0(self, bench: Callable[..., Workbench]) -> None:
        """One token, the first of the row: there is no prefix to cache at all."""
        request = Request("{} think the music is", "I", "good", "bad")
        here = bench("gpt2", "float64")
        assert Prompt.of(request.prompt, "I").subject_last(encode(here.model.tokenizer, request.text)) == 0
        for name in ("rome", "memit"):
            editor = build(name, here, ("{}", "{}"))  # a template without a prefix: every row begins with the subject
            assert_agrees(editor, name, here, [unit_of(request)], 1e-10)

    @pytest.mark.parametrize("templates", [("{}",), ("{}", ". {}"), ("{}", " {}", "The. {}")])
    def test_empty_prefix(self, bench: Callable[..., Workbench], templates: tuple[str, ...]) -> None:
        """No prefix, an empty one, and one of a single space."""
        here = bench("llama", "float64")
        assert_agrees(build("rome", here, templates), "rome", here, [unit_of(REQUESTS[1])], 1e-10)
        if len(templates) > 1:
            assert_agrees(build("memit", here, templates), "memit", here, [unit_of(*REQUESTS[:2])], 1e-10)

    def test_memit_without_prefixes(self, bench: Callable[..., Workbench]) -> None:
        here = bench("llama", "float64")
        (edit,) = build("memit", here, ("{}",)).edit(here, [unit_of(*REQUESTS[:2])])
        assert edit.is_finite() and edit.norm > 0

    def test_targets_in_training_and_evaluation_have_the_same_tokens(self, model: EditableModel) -> None:
        """No BOS in a target, no spurious word start, whatever the tokenizer; the number of NLLs shows it."""
        for request in REQUESTS:
            (row,) = target_rows(model.tokenizer, request, ("{}",), "subject_last")
            assert row.targets == continuation(model.tokenizer, request.text, request.target_new).targets
            query = TargetQuery(request.text, request.target_new)
            score = answer(model, [[query]], [Edit({})], budget=LARGE)[0][query]
            assert isinstance(score, Score) and len(score.nlls) == len(row.targets)
            assert not set(row.targets) & set(model.tokenizer.all_special_ids)
            said = model.tokenizer.decode([*row.ids, row.targets[-1]], skip_special_tokens=True)
            assert said == f"{request.text} {request.target_new}"
            bare = "".join(model.tokenizer.convert_ids_to_tokens(list(row.targets)))
            assert bare[0] in "Ġ▁" and bare[1] not in "Ġ▁ "

    def test_bos_is_counted_once(self, model: EditableModel) -> None:
        """Positions come from the whole rendered text, not from parts tokenised apart."""
        bos = model.tokenizer.bos_token_id
        for request in REQUESTS:
            for template in TEMPLATES:
                for row in target_rows(model.tokenizer, request, (template,), "subject_last"):
                    assert row.ids.count(bos) == (0 if model.name == "gpt2" else 1)
                    head = model.tokenizer.decode(row.ids[: row.lookup + 1], skip_special_tokens=True)
                    assert head.rstrip().endswith(request.subject)

    def test_target_offset_of_a_target_longer_than_the_essence_row(self, bench: Callable[..., Workbench]) -> None:
        """TOP's published index leaves the row then: the unit must be edited, or fail with a reason that says so."""
        here = bench("gpt2")
        request = Request("{} speaks", "I", "the Portuguese of Toronto and the French of Montreal", "x")
        editor = build("top", here, essence_at="target_offset")
        (edit,) = edit_units(editor, here, [unit_of(request)])
        assert isinstance(edit, Edit) or "target" in edit


class TestModels:
    def test_left_padding_keeps_positions(self, tiny_model: TinyModel) -> None:
        """GPT-2's absolute positions: a row continues beside a longer one as it does alone."""
        model = tiny_model("gpt2")
        rows = [(encode(model.tokenizer, text).ids, 0) for text in PROMPTS]
        alone = [greedy(model, [row], [], 8, LARGE)[0] for row in rows]
        assert greedy(model, rows, [], 8, LARGE) == alone

    def test_generation_mask_covers_the_cache_from_the_second_token_on(self, tiny_model: TinyModel) -> None:
        """The mask is as long as cache and new token together, in every step."""
        model = tiny_model("gpt2")
        for kwargs in calls(model, lambda: greedy(model, [((5, 6, 7), 0), ((8,), 0)], [], 4, LARGE)):
            mask, cache = kwargs["attention_mask"], kwargs["past_key_values"]
            assert mask.shape[1] == kwargs["input_ids"].shape[1] + cache[1]
            assert mask[0].tolist() == [1] * mask.shape[1]
            assert mask[1].tolist() == [0, 0] + [1] * (mask.shape[1] - 2)
            assert kwargs["position_ids"][:, -1].tolist() == [mask.shape[1] - 1, mask.shape[1] - 3]

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_layers_that_return_tuples(self, kind: str, bench: Callable[..., Workbench], tmp_path: Path) -> None:
        """As in older releases of transformers: the same edits, scores, texts and statistics."""
        here = bench(kind, "float64")
        model = tupled(here.model)
        there = Workbench(model, here.statistics, LARGE, here.reference_prompts)
        assert isinstance(first_output(model), tuple) and isinstance(first_output(here.model), Tensor)
        units = [unit_of(*REQUESTS[:2]), unit_of(REQUESTS[3])]
        for name in METHODS:
            want = build(name, here).edit(here, units)
            for ours, theirs in zip(build(name, there).edit(there, units), want, strict=True):
                assert all(relative(deltas_of(ours)[n], delta) < 1e-10 for n, delta in deltas_of(theirs).items())
        asked = [TargetQuery(REQUESTS[0].text, "Oslo"), InstructionQuery("Where?", 5), TopTokensQuery("I", 5)]
        assert answer(model, [asked], [want[0]], budget=LARGE) == answer(here.model, [asked], [want[0]], budget=LARGE)
        site = Site(model.architecture.layer.format(2), "output")
        token = [Token((5, 6, 7), 1)]
        assert torch.equal(read(model, token, [site], budget=9)[site], read(here.model, token, [site], budget=9)[site])

    @pytest.mark.parametrize("where", ["mlp", "layer"])
    def test_forwards_that_somebody_else_replaced_stay(self, where: Any, tiny_gpt2_dir: Path) -> None:
        """accelerate puts a ``forward`` of its own on every module of a model spread over several devices."""
        model = load_tiny(tiny_gpt2_dir)
        calls_: list[int] = []
        own = {}
        for layer in range(5):
            module = model.layer(layer)

            def forward(*args: Any, original: Any = module.forward, layer: int = layer, **kwargs: Any) -> Any:
                calls_.append(layer)
                return original(*args, **kwargs)

            module.forward = own[layer] = forward  # type: ignore[method-assign]
        fixed = prepare(model, [(5, 6, 7)], [1], 2, where)
        with torch.no_grad():
            fixed.logits(torch.ones(1, 48), torch.tensor([0]), torch.tensor([2]))
        assert all(model.layer(layer).forward is own[layer] for layer in range(5))
        calls_.clear()
        run(model, Padded.of([(5, 6, 7)], model.device))
        assert calls_ == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("name", METHODS)
    def test_weights_are_bit_equal_and_requests_as_they_were(
        self, name: str, bench: Callable[..., Workbench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where the editor is broken off in the middle of its work."""
        here = bench("llama3")
        before, units = state_hash(here.model.hf), [unit_of(*REQUESTS[:2]), unit_of(REQUESTS[3])]
        requests, prompts = copy.deepcopy([unit.requests for unit in units]), here.reference_prompts
        editor = build(name, here)
        editor.edit(here, units)  # what is computed once per workbench is there now
        count = len(calls(here.model, lambda: editor.edit(here, units)))
        assert_untouched(here.model, before)
        assert [unit.requests for unit in units] == requests
        assert here.templates(editor.context()) == TEMPLATES if editor.context() else True
        assert here.reference_prompts is prompts
        for broken in {0, 1, count // 2, count - 1}:
            with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
                patch.setattr(here.model.hf, "forward", breaking(here.model.hf.forward, broken))
                editor.edit(here, units)
            assert_untouched(here.model, before)

    def test_merged_edits_come_out_bit_equal(self, bench: Callable[..., Workbench]) -> None:
        here = bench("gpt2")
        before = state_hash(here.model.hf)
        (edit,) = build("memit", here).edit(here, [unit_of(*REQUESTS)])
        with merged(here.model, edit):
            assert state_hash(here.model.hf) != before
        assert_untouched(here.model, before)

    @pytest.mark.parametrize("name", METHODS)
    def test_token_types_are_never_passed(self, name: str, bench: Callable[..., Workbench]) -> None:
        """GPT-2 adds them to its embeddings. This tokenizer hands them out, and positions go into every call."""
        here = bench("gpt2")
        tokenizer = copy.deepcopy(here.model.tokenizer)
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        assert "token_type_ids" in tokenizer("Oslo is")
        model = replace(here.model, tokenizer=tokenizer)
        there = Workbench(model, here.statistics, LARGE, here.reference_prompts)
        units = [unit_of(*REQUESTS[:2])]
        want = deltas_of(build(name, here).edit(here, units)[0])

        def work() -> None:
            (edit,) = build(name, there).edit(there, units)
            assert all(torch.equal(delta, want[n]) for n, delta in deltas_of(edit).items())
            answer(model, [[TargetQuery("Oslo is", "Lima"), InstructionQuery("Where?", 3)]], [edit], budget=LARGE)
            there.templates(ContextSpec((("The", 3, 1),), seed=7))

        for kwargs in calls(model, work):
            assert "token_type_ids" not in kwargs
            assert kwargs["position_ids"] is not None

    def test_no_name_is_looked_at(self, tiny_gpt2_dir: Path, tmp_path: Path) -> None:
        """A GPT-2 in a folder called like a Llama says the same, and is found to be the same model."""
        folder = tmp_path / "meta-llama" / "Llama-2-7b-hf"
        shutil.copytree(tiny_gpt2_dir, folder)
        found: list[Any] = []
        for place in (tiny_gpt2_dir, folder):
            model = load_tiny(place)
            here = bench_of(model, tmp_path / "bench", prompts=reference_prompts(30))
            edits = [build(name, here).edit(here, [unit_of(*REQUESTS[:2])])[0] for name in METHODS]
            asked = [TargetQuery(r.text, r.target_new) for r in REQUESTS] + [TopTokensQuery("Oslo is", 5)]
            answers = answer(model, [asked] * len(edits), edits, budget=LARGE)
            found.append((model.fingerprint, [edit.norm for edit in edits], answers))
        assert found[0] == found[1]


class TestSharing:
    def test_templates_are_not_shared_between_models(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        spec = ContextSpec((("The", 6, 1), ("", 6, 2)))
        benches = [bench_of(tiny_model(kind), tmp_path / kind) for kind in ("gpt2", "llama", "llama3")]
        benches[0].use_templates(spec, ("{}", "Only here. {}"))
        texts = [here.templates(spec) for here in benches]
        assert len(set(texts)) == 3 and "Only here. {}" not in (*texts[1], *texts[2])
        assert all(spec not in bench_of(here.model, tmp_path / "new").used_templates for here in benches)

    def test_statistics_are_not_shared_between_models(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        """One cache folder, two models of one shape; each workbench computes its own."""
        llamas = [tiny_model(kind) for kind in ("llama", "llama3")]
        matrices = [bench_of(model, tmp_path).covariances([1])[1].matrix for model in llamas]
        assert matrices[0].shape == matrices[1].shape and not torch.equal(*matrices)
        again = [bench_of(model, tmp_path).covariances([1])[1].matrix for model in llamas]
        assert all(torch.equal(a, b) for a, b in zip(matrices, again, strict=True))

    def test_statistics_of_another_model_are_recognised(
        self, tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file put into another model's place is not used."""
        mine, other = (bench_of(tiny_model(kind), tmp_path).statistics for kind in ("llama", "llama3"))
        want = mine.covariances(tiny_model("llama"), [1])[1].matrix
        places = [s._path(s._identity(tiny_model(k), 1)) for s, k in ((mine, "llama"), (other, "llama3"))]
        other.covariances(tiny_model("llama3"), [1])
        shutil.copy(places[1], places[0])
        assert torch.equal(mine.covariances(tiny_model("llama"), [1])[1].matrix, want)
        assert "does not hold what its name says" in caplog.text

    def test_statistics_are_known_by_all_that_changes_them(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        """Token count, maximum length, text, data type, layer: each its own file; the batch size is none of them."""
        store = bench_of(tiny_model("gpt2"), tmp_path).statistics
        text = replace(store.spec.text, source=str(tmp_path / "other.txt"))
        Path(text.source).write_text("\n".join(documents(50)) + "\n")
        specs: list[StatisticsSpec] = [
            store.spec,
            replace(store.spec, tokens=1919),
            replace(store.spec, max_length=25),
            replace(store.spec, text=text),
        ]
        models = [tiny_model("gpt2"), tiny_model("gpt2", "float64")]
        paths = [
            one._path(one._identity(model, layer))
            for one in (replace(store, spec=spec) for spec in specs)
            for model in models
            for layer in (1, 2)
        ]
        assert len(set(paths)) == len(paths) == 16
        assert {replace(store, budget=b)._path(store._identity(models[0], 1)) for b in (1, 99)} == {paths[0]}

    @pytest.mark.parametrize("name", METHODS)
    def test_a_sweep_over_lr_changes_the_value(self, name: str, bench: Callable[..., Workbench]) -> None:
        """On one workbench, as a sweep in one process has it: nothing stale, and the first value comes again."""
        here, unit = bench("gpt2"), [unit_of(*REQUESTS[:2])]
        edits = [deltas_of(build(name, here, lr=lr).edit(here, unit)[0]) for lr in (0.4, 0.1, 0.01, 0.4)]
        for weight, delta in edits[0].items():
            assert torch.equal(edits[3][weight], delta)
            values = [delta, edits[1][weight], edits[2][weight]]
            if name != "ft_l":  # the bound on every entry makes large rates equal
                assert all(relative(a, b) > 1e-3 for a, b in pairwise(values))


class TestNumbers:
    @pytest.mark.parametrize("name", METHODS)
    def test_not_a_number_fails_one_unit_with_a_reason(self, name: str, tiny_llama_dir: Path, tmp_path: Path) -> None:
        """One token's embedding is NaN; the units without it get what they get on the sound model."""
        sound, poisoned = load_tiny(tiny_llama_dir), load_tiny(tiny_llama_dir)
        units = [unit_of(REQUESTS[1]), unit_of(Request("{} studies", "東京", "music", "art")), unit_of(REQUESTS[2])]
        others = " ".join([*TEMPLATES, *(f"{r.text} {r.target_new}" for r in REQUESTS), *reference_prompts(30)])
        (token, *_) = set(encode(sound.tokenizer, "東京").ids) - set(encode(sound.tokenizer, others).ids)
        with torch.no_grad():
            poisoned.hf.get_input_embeddings().weight[token] = torch.nan  # type: ignore[operator, union-attr]
        here, there = (bench_of(model, tmp_path, prompts=reference_prompts(30)) for model in (sound, poisoned))
        want = build(name, here).edit(here, units)
        found = edit_units(build(name, there), there, units)
        assert isinstance(found[1], str) and len(found[1]) > 10
        for ours, theirs in ((found[0], want[0]), (found[2], want[2])):
            assert isinstance(ours, Edit)
            assert all(relative(deltas_of(ours)[n], delta) < 1e-3 for n, delta in deltas_of(theirs).items())

    @pytest.mark.parametrize("name", METHODS)
    def test_an_absurd_lr_fails_with_a_reason(self, name: str, bench: Callable[..., Workbench]) -> None:
        """The step overflows: what comes out is no edit, and must not be taken for one."""
        here = bench("gpt2")
        settings = {"norm_constraint": None} if name == "ft_l" else {}
        found = edit_units(build(name, here, lr=1e30, **settings), here, [unit_of(r) for r in REQUESTS[:2]])
        assert all(isinstance(edit, str) for edit in found), [getattr(edit, "norm", edit) for edit in found]

    def test_a_huge_update_fails_with_a_reason(self, bench: Callable[..., Workbench]) -> None:
        """Finite, and many times larger than the weight it is added to."""
        here = bench("gpt2")
        editor = build("rome", here, lr=1e6, clamp=1e9)
        edits = editor.edit(here, [unit_of(REQUESTS[0])])
        assert edits[0].norm > 1e4 * float(here.model.weight(here.model.projection_name(2)).norm())
        (found,) = edit_units(editor, here, [unit_of(REQUESTS[0])])
        assert isinstance(found, str)

    def test_own_prompt_in_a_small_constraint_blows_the_update_up(self, bench: Callable[..., Workbench]) -> None:
        """Why RETS leaves the edited prompt out: its key also stands in the denominator."""
        here = bench("gpt2", "float64")
        norms = {}
        for own in (False, True):
            editor = build("rets", here, own_prompts=own)
            (edit,) = editor.edit(here, [unit_of(REQUESTS[0])])
            norms[own] = edit.norm
        assert norms[True] > 10 * norms[False]

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_singular_constraint_is_an_error(self, kind: str, bench: Callable[..., Workbench]) -> None:
        """RETS with fewer reference prompts than the MLP is wide and no text: never a silent inverse."""
        here = bench(kind)
        editor = build("rets", here, origin_mom=False, own_prompts=True)
        for work in (editor.edit, lambda *args: edit_units(editor, *args)):
            with pytest.raises(UserError, match=r"second moment of .* at layer 3 is singular"):
                work(here, [unit_of(REQUESTS[0])])

    @pytest.mark.parametrize("count", [192, 150])
    def test_constraint_that_leaving_out_makes_singular_is_an_error(
        self, count: int, tiny_model: TinyModel, tmp_path: Path
    ) -> None:
        """As many reference prompts as the MLP is wide, the edited one among them."""
        own = REQUESTS[1].text
        prompts = (own, *(text for text in reference_prompts() if text != own))[:count]
        here = bench_of(tiny_model("gpt2", "float64"), tmp_path, prompts=prompts)
        with pytest.raises(UserError, match="singular"):
            build("rets", here, origin_mom=False, reference_prompts=None).edit(here, [unit_of(REQUESTS[1])])

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5), ("bfloat16", 1e-3)])
    @pytest.mark.parametrize("count", [30, 210])
    def test_a_prompt_that_is_left_out_was_never_there(
        self, count: int, dtype: str, tolerance: float, tiny_model: TinyModel, tmp_path: Path
    ) -> None:
        """What is taken out of ``C_sub`` must be the very key that went in, not the same computed in another batch."""
        own = REQUESTS[1].text
        others = tuple(text for text in reference_prompts() if text != own)[:count]
        edits = []
        for prompts in ((own, *others), others):
            here = bench_of(tiny_model("gpt2", dtype), tmp_path, prompts=prompts)
            edits += build("rets", here, reference_prompts=None).edit(here, [unit_of(REQUESTS[1])])
        with_, without = (deltas_of(edit)[here.model.projection_name(3)] for edit in edits)
        assert relative(with_, without) < tolerance

    def test_repeated_reference_prompts_count_each_time(self, bench: Callable[..., Workbench]) -> None:
        """The sum is over the benchmark's N prompts, of which some are equal (5 of 2965 in published data)."""
        here = bench("llama", "float64")
        prompts = (*here.reference_prompts, *here.reference_prompts[:20])
        there = Workbench(here.model, here.statistics, LARGE, prompts)
        editor = build("rets", there, reference_prompts=None)
        assert_agrees(editor, "rets", there, [unit_of(REQUESTS[1])], 1e-10)

    def test_rets_without_reference_prompts_is_an_error(self, bench: Callable[..., Workbench]) -> None:
        there = Workbench(bench("gpt2").model, bench("gpt2").statistics, LARGE)
        with pytest.raises(UserError, match="reference prompts"):
            build("rets", there).edit(there, [unit_of(REQUESTS[0])])

    def test_keys_and_statistics_of_bf16_models_are_exact(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        here = bench_of(tiny_model("llama", "bfloat16"), tmp_path, prompts=reference_prompts(30))
        site = Site(here.model.projection_name(1), "input")
        assert read(here.model, [Token((5, 6), 1)], [site], budget=9)[site].dtype == torch.float32
        matrix = here.covariances([1])[1].matrix
        assert matrix.dtype == torch.float32
        assert relative(matrix.bfloat16(), matrix) > 1e-4  # more digits than bfloat16 has
        exact = bench_of(tiny_model("llama"), tmp_path).covariances([1])[1].matrix
        assert 1e-4 < relative(matrix, exact) < 0.05
        for name in METHODS:
            (edit,) = build(name, here).edit(here, [unit_of(*REQUESTS[:2])])
            assert edit.is_finite() and edit.norm > 0
            assert all(delta.dtype in (torch.float32, torch.float64) for delta in deltas_of(edit).values())

    def test_what_bf16_loses_of_a_small_change(self, tiny_model: TinyModel) -> None:
        """Measured: how much of a change does not arrive, in the weights it is merged into and in the outputs.

        Attached, it is added to outputs that are rounded as well, so it is not exact either, but loses less.
        """
        model = tiny_model("llama", "bfloat16")
        for size, weights, attached_, merged_ in (
            (1e-4, 0.96, 0.97, 3.5),
            (1e-2, 0.15, 0.16, 0.27),
            (1, 2e-3, 3e-3, 4e-3),
        ):
            edit = change_of(model, size)
            lost = (lost_in_weights(model, edit), *lost_in_outputs(model, edit))
            print(f"{size}: weights {lost[0]:.1%}, outputs attached {lost[1]:.1%}, outputs merged {lost[2]:.1%}")
            assert lost == pytest.approx((weights, attached_, merged_), rel=0.3)
            assert lost[1] < lost[2]


def change_of(model: EditableModel, size: float) -> Edit:
    """A rank-one change whose norm is ``size`` times that of the weight."""
    name = model.projection_name(2)
    weight = model.weight(name).float()
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(48, 1, generator=generator), torch.randn(1, 112, generator=generator)
    scale = size * weight.norm() / (left @ right).norm()
    return Edit({name: LowRank(left * scale, right)})


def lost_in_weights(model: EditableModel, edit: Edit) -> float:
    """How much of a change does not arrive in the weights, relative to it."""
    name = model.projection_name(2)
    before = model.weight(name).float().clone()
    with merged(model, edit):
        arrived = model.weight(name).float() - before
    return relative(arrived, deltas_of(edit)[name])


@torch.no_grad()
def lost_in_outputs(model: EditableModel, edit: Edit) -> tuple[float, float]:
    """How far the change of the projection's output is from the exact one: attached, and merged."""
    keys = torch.randn(1, 500, 112, generator=torch.Generator().manual_seed(1)).bfloat16()
    projection = model.projection(2)
    exact = keys.float() @ deltas_of(edit)[model.projection_name(2)].T
    plain = projection(keys).float()
    with attached(model, [edit], [0]):
        one = projection(keys).float() - plain
    with merged(model, edit):
        other = projection(keys).float() - plain
    return relative(one, exact), relative(other, exact)


class TestWarnings:
    @pytest.mark.parametrize(("method", "warned"), [("memit", True), ("memit_merge", False), ("rose", False)])
    def test_several_facts_of_one_subject(self, method: str, warned: bool, tiny_gpt2_dir: Path) -> None:
        common = ["model=local", f"model.path={tiny_gpt2_dir}", f"method={method}", "dataset=atlas", "metrics=quick"]
        together = make_plan(compose_run([*common, "protocol=same_subject"]))
        assert any("several facts of one subject" in text for text in together.warnings) == warned
        single = make_plan(compose_run([*common, "protocol=single"]))
        assert not any("several facts of one subject" in text for text in single.warnings)


def calls(model: EditableModel, work: Callable[[], object]) -> list[dict[str, Any]]:
    """Keyword arguments of every call of the model while ``work`` runs, with the length the cache had."""
    seen: list[dict[str, Any]] = []
    forward = model.hf.forward

    def recording(*args: Any, **kwargs: Any) -> Any:
        assert not args
        cache = kwargs.get("past_key_values")
        seen.append(kwargs | {"past_key_values": (cache, cache.get_seq_length() if cache is not None else 0)})
        return forward(**kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.hf, "forward", recording)
        work()
    assert seen
    return seen


def breaking(forward: Callable[..., Any], at: int) -> Callable[..., Any]:
    """A forward pass that fails the ``at``-th time, in the middle of the layers."""
    countdown = iter(range(at + 1))

    def broken(*args: Any, **kwargs: Any) -> Any:
        if next(countdown, None) == at:
            raise ZeroDivisionError
        return forward(*args, **kwargs)

    return broken


@pytest.fixture(autouse=True)
def no_leftovers(tiny_model: TinyModel) -> Iterator[None]:
    """No test of this file leaves a patched forward on a shared model."""
    yield
    for kind in ("gpt2", "llama", "llama3"):
        assert "forward" not in tiny_model(kind).hf.__dict__


def tupled(model: EditableModel) -> EditableModel:
    """A copy whose decoder layers return tuples, and take what the layer before them returned."""
    hf = copy.deepcopy(model.hf)
    stack = hf.get_submodule(model.architecture.layer.rsplit(".", 1)[0])
    norm = next(module for name, module in hf.named_modules() if name in ("transformer.ln_f", "model.norm"))
    for module in (*stack.children(), norm):
        module.__class__ = tuple_class(type(module), returns_tuple=module is not norm)
    return replace(model, hf=hf)


def tuple_class(cls: type[Any], *, returns_tuple: bool) -> type[Any]:
    def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        hidden = hidden_states[0] if isinstance(hidden_states, tuple) else hidden_states
        found = cls.forward(self, hidden, *args, **kwargs)
        return (found,) if returns_tuple else found

    return type(f"Tuple{cls.__name__}", (cls,), {"forward": forward})


@torch.no_grad()
def first_output(model: EditableModel) -> Any:
    """What layer 0 returns."""
    seen: list[Any] = []
    handle = model.layer(0).register_forward_hook(lambda _m, _a, output: seen.append(output))
    run(model, Padded.of([(5, 6)], model.device))
    handle.remove()
    return seen[0]
