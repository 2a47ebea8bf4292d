"""dev main"""
from __future__ import annotations
import argparse, json, random, sys, time
from pathlib import Path
import torch
sys.path.insert(0, str(Path(__file__).resolve().parent))
from atlas.batches import Plan, Writer
from atlas.facts import read_atlas, KINDS
from atlas.questions import ask_all, recall, sample_prefixes
from atlas.sentences import enumerate_objects, filler, objects_of, trained_statements, describe
from atlas.swaps import swap_pairs, swap_table
from atlas.tokens import train_tokenizer
from atlas.training import Schedule, Shape, build, train
p = argparse.ArgumentParser()
p.add_argument("--facts", type=Path); p.add_argument("--steps", type=int, default=1000); p.add_argument("--threads", type=int, default=2)
p.add_argument("--output", type=Path); p.add_argument("--architecture", default="llama")
p.add_argument("--vocab", type=int, default=2000); p.add_argument("--width", type=int, default=160); p.add_argument("--mlp", type=int, default=640)
p.add_argument("--heads", type=int, default=5)
p.add_argument("--peak", type=float, default=2e-3); p.add_argument("--hidden", type=int, default=2); p.add_argument("--masked", type=float, default=0.85); p.add_argument("--isolated", type=float, default=0.6)
p.add_argument("--tokens", type=int, default=2048); p.add_argument("--decay", type=float, default=0.05)
p.add_argument("--every", type=int, default=500)
a = p.parse_args()
torch.set_num_threads(a.threads); torch.manual_seed(0); rng = random.Random(0)
atlas = read_atlas(a.facts)
texts = [s.text for _, s in trained_statements(atlas)] + [enumerate_objects(n, o).text for n, o in objects_of(atlas).items()] + [filler(rng).text for _ in range(300)]
texts += [" " + t for t in texts]
tok = train_tokenizer(texts, a.vocab, bos=a.architecture == "llama")
model = build(a.architecture, Shape(width=a.width, mlp=a.mlp, heads=a.heads), tok)
print(len(tok), sum(q.numel() for q in model.parameters()), len(atlas.facts), flush=True)
names = list(objects_of(atlas))
print("mean subject tokens", sum(len(tok(" "+n, add_special_tokens=False)["input_ids"]) for n in names)/len(names), "obj", sum(len(tok(" "+f.object, add_special_tokens=False)["input_ids"]) for f in atlas.facts)/len(atlas.facts))
w = Writer(atlas, tok, Plan(masked=a.masked, isolated=a.isolated, tokens=a.tokens), rng)
pairs = swap_pairs(atlas, tok, 512)
def full():
    model.eval()
    pre = sample_prefixes(model, tok, 24)
    out = {k: round(recall(model, ask_all(tok, atlas, k)), 4) for k in KINDS}
    out["prefixed edit"] = round(recall(model, ask_all(tok, atlas, "edit", pre)), 4)
    print(out, pre[:6])
    for k, v in swap_table(model, pairs).items(): print(k, [round(x, 3) for x in v], flush=True)
def rep(step, loss, s):
    print(step, round(loss, 4), round(s), flush=True)
    if step % a.every == 0 or step == a.steps:
        full()
        model.save_pretrained(a.output); tok.save_pretrained(a.output)
train(model, w.batches(), Schedule(a.steps, peak=a.peak, hidden_layers=a.hidden, decay=a.decay), rep)
