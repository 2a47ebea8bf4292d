"""Models by their published shape, with random weights.

What an edit costs depends on the sizes of a model and not on its weights, so that nothing has to be downloaded. One
thing differs: random weights hardly ever come to say what they should, so that no value ends early and all steps run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel
from ke_cli.models.fingerprint import fingerprint

SEED = 0
"""Of the weights."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a published model.

    Args:
        entry: Its name in ``conf/model``, whose hyper-parameters apply.
        kind: Model type of transformers.
        parameters: Number of parameters, as published.
        sizes: Its configuration where it differs from the defaults of transformers.
        layers: Edited layers by method, where ``conf/model`` has none and a fraction of the depth is no good choice.
    """

    entry: str
    kind: str
    parameters: int
    sizes: Mapping[str, Any]
    layers: Mapping[str, str]

    def config(self) -> PretrainedConfig:
        """The configuration."""
        return AutoConfig.for_model(self.kind, **self.sizes)

    def build(self, dtype: torch.dtype, device: torch.device, seed: int = SEED) -> Any:
        """The model with random weights, drawn on the device in the data type that is asked for."""
        own = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=own), device:
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(self.config(), dtype=dtype)  # type: ignore[no-untyped-call]


SHAPES: Mapping[str, Shape] = {
    "gpt2-small": Shape(
        entry="gpt2",
        kind="gpt2",
        parameters=124_439_808,
        sizes={"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
        layers={"rome": "[5]", "r_rome": "[5]"},
    ),
    "gpt2-xl": Shape(
        entry="gpt2-xl",
        kind="gpt2",
        parameters=1_557_611_200,
        sizes={"vocab_size": 50257, "n_positions": 1024, "n_embd": 1600, "n_layer": 48, "n_head": 25},
        layers={},
    ),
    "llama3-8b": Shape(
        entry="llama3-8b",
        kind="llama",
        parameters=8_030_261_248,
        sizes={
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "tie_word_embeddings": False,
        },
        layers={},
    ),
    "qwen2.5-7b": Shape(
        entry="qwen2.5-7b",
        kind="qwen2",
        parameters=7_615_616_512,
        sizes={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "bos_token_id": 151643,
            "eos_token_id": 151643,
            "tie_word_embeddings": False,
        },
        layers={},
    ),
}
"""By the name that ``--model`` takes."""


def random_model(name: str, tokenizer: Any, dtype: torch.dtype, device: torch.device) -> EditableModel:
    """The shape ``name`` with random weights and somebody else's tokenizer.

    Raises:
        UserError: If the tokenizer has more ids than the vocabulary, or memory is too small.
    """
    shape = SHAPES[name]
    vocabulary = int(shape.sizes["vocab_size"])
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} ids and the model {name} only {vocabulary}",
            where="--tokenizer",
            allowed=f"a tokenizer of at most {vocabulary} ids",
            hint="leave --tokenizer out for the bundled one",
        )
    try:
        hf = shape.build(dtype, device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{name} does not fit into the memory of {device}", hint="--dtype bfloat16") from error
    return EditableModel.of(name, hf, tokenizer, fingerprint(hf, None))


def local_tokenizer(folder: Path) -> Any:
    """A fast tokenizer from a local folder.

    Raises:
        UserError: If there is none, or it gives no character offsets.
    """
    allowed = "a folder with a tokenizer.json"
    if not folder.is_dir():
        raise UserError(f"there is no folder {str(folder)!r}", where="--tokenizer", allowed=allowed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the tokenizer cannot be loaded: {reason}", where="--tokenizer", allowed=allowed) from error
    if not tokenizer.is_fast:
        raise UserError("the tokenizer is a slow one without character offsets", where="--tokenizer", allowed=allowed)
    return tokenizer
