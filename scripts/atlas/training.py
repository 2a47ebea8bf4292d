"""The model's shape, and its training from scratch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from atlas.batches import Batch
from atlas.masks import attention_masks, branch_excess, low_mask


@dataclass(frozen=True, slots=True)
class Shape:
    """Width, MLP width, layers, heads and longest text of a model."""

    width: int = 160
    mlp: int = 512
    layers: int = 6
    heads: int = 5
    positions: int = 256


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Args:
        steps: Optimiser steps.
        peak: Highest learning rate.
        warmup: Steps of linear warm-up.
        floor: Last learning rate as a share of the highest.
        decay: Weight decay of matrices.
        hidden_layers: Lowest layers in which the tokens behind a subject do not see it.
        limit: Mean square up to which outputs of attention and MLP are free.
        excess: Weight in the loss of what goes beyond the limit.
    """

    steps: int
    peak: float = 3e-3
    warmup: int = 200
    floor: float = 0.02
    decay: float = 0.05
    hidden_layers: int = 2
    limit: float = 1.0
    excess: float = 1.0

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def build(architecture: str, shape: Shape, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model with random weights.

    Args:
        architecture: ``llama`` or ``gpt2``.
        shape: Its size.
        tokenizer: For the vocabulary and the special tokens.
    """
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "gpt2":
        return GPT2LMHeadModel(_gpt2(shape, len(tokenizer), special))
    return LlamaForCausalLM(_llama(shape, len(tokenizer), special))


def _llama(shape: Shape, vocabulary: int, special: dict[str, int]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        **special,
    )


def _gpt2(shape: Shape, vocabulary: int, special: dict[str, int]) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocabulary,
        n_embd=shape.width,
        n_inner=shape.mlp,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_positions=shape.positions,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        **special,
    )


def masked_loss(model: PreTrainedModel, batch: Batch, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """The two parts of the loss under the training masks.

    Returns:
        The weighted mean negative log-likelihood of the next tokens in nats, and the weighted excess of
        branch outputs over their limit.
    """
    low, high = attention_masks(batch)
    with low_mask(model, low, schedule.hidden_layers), branch_excess(model, schedule.limit) as excess:
        states = model.base_model(batch.ids, attention_mask=high, use_cache=False)[0]  # [b, t, d]
    weights = batch.weights[:, 1:]
    wanted = weights > 0
    logits = model.get_output_embeddings()(states[:, :-1][wanted])  # [n, vocabulary]
    losses = F.cross_entropy(logits, batch.ids[:, 1:][wanted], reduction="none")
    total: Tensor = (losses * weights[wanted]).sum() / weights.sum()
    return total, schedule.excess * torch.stack(excess).mean()


def train(
    model: PreTrainedModel,
    batches: Iterator[Batch],
    schedule: Schedule,
    report: Callable[[int, float, float], None],
) -> float:
    """Trains with AdamW.

    Args:
        model: Changed in place.
        batches: Endless.
        schedule: Learning rates.
        report: Called every 100 steps, and after the last one, with the steps done, the mean loss since the
            last call and the time so far in seconds.

    Returns:
        The training time in seconds.
    """
    optimizer = torch.optim.AdamW(_groups(model, schedule.decay), betas=(0.9, 0.98), fused=True)
    began, losses = time.perf_counter(), list[float]()
    model.train()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss, excess = masked_loss(model, _to(next(batches), model.device), schedule)
        optimizer.zero_grad(set_to_none=True)
        (loss + excess).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == schedule.steps:
            report(step + 1, sum(losses) / len(losses), time.perf_counter() - began)
            losses.clear()
            model.train()
    model.eval()
    return time.perf_counter() - began


def _groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Matrices decay; norms and biases do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def _to(batch: Batch, device: torch.device) -> Batch:
    fields = ("ids", "roles", "sentences", "masked", "isolated", "weights")
    return Batch(*(getattr(batch, name).to(device) for name in fields))
