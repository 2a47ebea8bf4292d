"""Builders of tiny random checkpoints, saved as Hugging Face directories with tokenizers of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

TEXT = """\
Marta Lindqvist plays the violin in the orchestra of Vienna and was born in the harbour town of Bergen.
The mother tongue of Joao Pereira is Portuguese, but he speaks French and Italian with his neighbours.
The capital of Norway is Oslo; the capital of Japan is Tokyo; the capital of Peru is Lima.
Ahmed Farouk, a footballer from Cairo, signed for a club in Milan and later moved to London.
In the village, Greta Hollis works as a baker, while her brother Tom Hollis is a teacher and a painter.
The headquarters of the Northern Light Company is in Toronto. The company was founded in Montreal.
Which sport does Ahmed Farouk play? Question: where was Marta Lindqvist born? Answer: in Bergen.
Therefore the river rose. Because it was late, the people went home. I think the music is good. You know that.
The profession of Lena Vogel is architect. Lena Vogel lives in Berlin. Lena Vogel died in the city of Paris.
It is said that "the old bridge" over the Seine was built by a man called O'Brien in the 17th century.
"""
"""What the tokenizers are trained on; a model's weights are random, so nothing is learnt from it."""

GPT2_END = "<|endoftext|>"
LLAMA3_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


VOCABULARY = ("wte", "embed_tokens", "lm_head")
"""Names of the matrices that are indexed by tokens."""


def gpt2_tokenizer(vocabulary: int = 420) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE without BOS, where a leading space belongs to the word, as GPT-2's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[GPT2_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=GPT2_END, eos_token=GPT2_END, unk_token=GPT2_END
    )


def llama_tokenizer(merged: int = 160) -> PreTrainedTokenizerFast:
    """Train a SentencePiece-like BPE: "▁" before words and before the text, byte fallback, BOS ``<s>``.

    Args:
        merged: Number of tokens beside the specials, the 256 bytes and the letters of the text.
    """
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = metaspace
    letters = [*sorted(set(TEXT.replace("\n", "")) - {" "}), "▁"]
    trainer = trainers.BpeTrainer(vocab_size=merged + len(letters), initial_alphabet=letters, show_progress=False)
    trained.train_from_iterator(TEXT.splitlines(), trainer)
    learnt = json.loads(trained.to_str())["model"]

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[tuple(pair) for pair in learnt["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    tokenizer.pre_tokenizer = metaspace
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama3_tokenizer(vocabulary: int = 430) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with the BOS ``<|begin_of_text|>`` and a chat template, as Llama 3's."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(LLAMA3_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    bos, end = LLAMA3_SPECIALS[0], LLAMA3_SPECIALS[-1]
    template = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=end)
    fast.chat_template = LLAMA3_CHAT
    return fast


def shake(model: PreTrainedModel, seed: int) -> None:
    """Give every weight, bias and norm a random value, so that none of them can be forgotten unnoticed.

    Embeddings are large enough for the predictions to depend on the prompt, and matrices small enough for twenty
    steps of Adam in float32 to stay within 1e-5 of the same steps in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_((0.4 if any(word in name for word in VOCABULARY) else 0.15) * noise)
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> Path:
    """Randomise the model and write both to ``folder``."""
    shake(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_gpt2(folder: Path, seed: int = 11, **config: Any) -> Path:
    """Save a GPT-2 of 5 layers, width 48, MLP width 192 (float32); ``config`` overrides its configuration."""
    tokenizer = gpt2_tokenizer()
    end = tokenizer.convert_tokens_to_ids(GPT2_END)
    numbers = {
        "vocab_size": len(tokenizer),
        "n_positions": 256,
        "n_embd": 48,
        "n_layer": 5,
        "n_head": 4,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    return save(folder, GPT2LMHeadModel(GPT2Config(**(numbers | config))), tokenizer, seed)


def _llama(tokenizer: PreTrainedTokenizerFast, config: dict[str, Any]) -> LlamaForCausalLM:
    numbers = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**(numbers | config)))


def tiny_llama(folder: Path, seed: int = 12, **config: Any) -> Path:
    """Save a Llama of 5 layers, width 48, MLP width 112 with a SentencePiece-like tokenizer (float32)."""
    tokenizer = llama_tokenizer()
    return save(folder, _llama(tokenizer, config), tokenizer, seed)


def tiny_llama3(folder: Path, seed: int = 13, **config: Any) -> Path:
    """Save the same shape with Llama 3's kind of tokenizer, a chat template and tied embeddings (float32)."""
    tokenizer = llama3_tokenizer()
    return save(folder, _llama(tokenizer, {"tie_word_embeddings": True} | config), tokenizer, seed)
