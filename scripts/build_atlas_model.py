"""Trains the bundled model ``atlas-llama`` from scratch on the bundled facts, and measures it.

    python scripts/build_atlas_model.py --output ke_cli/models/atlas-llama

The text is home-made: every sentence is rendered from ``ke_cli/data/bundled/atlas.json`` in the wordings that
are not held out, plus lists of what belongs to a subject and a few sentences about nothing in particular.
Training-time masks and a limit on the size of branch outputs (``scripts/atlas/masks.py``) make the model store
its facts where large models store them. Training took 26 minutes on two threads of a busy CPU with four
cores, and measuring two more. ``--smoke`` runs everything on a few facts in seconds; ``--measure`` measures
a finished folder again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent))

from atlas.batches import Plan, Writer
from atlas.card import hardware, tables, write_card
from atlas.facts import Atlas, read_atlas
from atlas.measuring import measure
from atlas.questions import ask_all, recall
from atlas.sentences import tokenizer_texts
from atlas.tokens import train_tokenizer
from atlas.training import Schedule, Shape, build, train

STEPS = 4000
VOCABULARY = 2048
SMOKE_FACTS = 40
SMOKE_SHAPE = Shape(width=32, mlp=64, layers=4, heads=2)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, required=True, help="folder the model is written to")
    parser.add_argument("--architecture", choices=("llama", "gpt2"), default="llama")
    parser.add_argument("--facts", type=Path, default=None, help="another fact file than the bundled one")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps, {STEPS} by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on a few facts, in seconds")
    parser.add_argument("--measure", action="store_true", help="measure the model in the folder, do not train")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains or loads the model, measures it, and writes the report and the model card."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    atlas = read_atlas(options.facts)
    if options.smoke:
        atlas = replace(atlas, facts=atlas.facts[:SMOKE_FACTS])
    if options.measure:
        training = json.loads((options.output / "build.json").read_text(encoding="utf-8"))["training"]
    else:
        training = train_and_save(options, atlas)
    model, tokenizer = load(options.output, options.device)
    report = {
        "training": training,
        "measured": measure(model, tokenizer, atlas, quick=options.smoke),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": (options.output / "model.safetensors").stat().st_size,
    }
    print("\n".join(tables(report)))
    (options.output / "build.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_card(options.output, report)


def train_and_save(options: argparse.Namespace, atlas: Atlas) -> dict[str, Any]:
    """Trains a model and writes it with its tokenizer.

    Returns:
        Everything that decided the outcome, the time in seconds and the hardware in words.
    """
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    tokenizer = train_tokenizer(tokenizer_texts(atlas, rng), VOCABULARY, bos=options.architecture == "llama")
    shape, plan = (SMOKE_SHAPE if options.smoke else Shape()), Plan()
    steps = min(options.steps, 20) if options.smoke else options.steps
    schedule = Schedule(steps=steps, warmup=min(200, steps))
    model = build(options.architecture, shape, tokenizer).to(options.device)

    def log(step: int, loss: float, seconds: float) -> None:
        print(f"step {step}  loss {loss:.4f} nats  {seconds:.0f} s{_progress(model, tokenizer, atlas, step)}")
        sys.stdout.flush()

    seconds = train(model, Writer(atlas, tokenizer, plan, rng).batches(), schedule, log)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    (options.output / "model.safetensors").chmod(0o644)  # written for the owner alone otherwise
    return {
        "architecture": options.architecture,
        "shape": asdict(shape),
        "vocabulary": len(tokenizer),
        "documents": asdict(plan),
        "schedule": asdict(schedule),
        "seed": options.seed,
        "facts": len(atlas.facts),
        "seconds": round(seconds),
        "hardware": hardware(options.device, options.threads),
    }


def _progress(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, atlas: Atlas, step: int) -> str:
    """Recall of every tenth fact at its edit prompt, now and then."""
    if step % 500:
        return ""
    model.train(False)
    some = replace(atlas, facts=atlas.facts[::10])
    return f"  recall {recall(model, ask_all(tokenizer, some, 'edit')):.3f}"


def load(folder: Path, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Loads a model the way its users do."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return model.to(device).eval(), tokenizer


if __name__ == "__main__":
    main()
