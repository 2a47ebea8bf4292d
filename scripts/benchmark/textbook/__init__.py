"""The loop that published implementations of knowledge editing run: the slow side of the benchmark.

One fact at a time, the whole model at every step, over all rows of a fact padded to the longest, with logits and
log-softmax at all positions and over the whole vocabulary. Each part says whose behaviour it mirrors:

    values      ``compute_v`` (github kmeng01/rome), ``compute_z`` (kmeng01/memit), ``compute_vr`` (sunshower-liu/RETS),
                ``compute_v_s1`` and ``compute_v_s2`` (sunshower-liu/TOP)
    passes      ``get_reprs_at_idxs`` in ``repr_tools.py`` of all four
    rank_one    ``execute_rome`` and ``compute_u`` (ROME), ``compute_ur`` (RETS), the same of TOP
    spread      ``execute_memit`` and ``compute_ks`` (MEMIT); MEMIT-Merge and RoSE in its frame
    scoring     ``test_batch_prediction`` (``eval_utils_counterfact.py`` of all), ``rs_probability_topk`` and
                ``rs_metric_diff`` (RETS, TOP)
    writing     ``generate_fast`` (ROME's ``util/generate.py``), for one text
    statistics  ``layer_stats`` (ROME and MEMIT)

What they keep is kept: context templates, inverses and reference keys are made once per model (`Textbook.prepare`).
Where these programs differ, and where they do what nobody needs, the cheaper way is taken: the head is applied once per
step (MEMIT applies it twice), no key-value cache is filled that nobody reads, nothing is printed, and evaluation takes
the log-softmax at the scored positions only, without a loop over single numbers. One thing is kept as published that
could be cheaper: the second stage of TOP runs all context templates, although its loss reads the first row alone.
Statistics stop behind the layer they are about, because the published ones do.

Numbers agree with the engine's: inverses and solves are in float64 throughout, which some of these programs do in
float32.
"""

from .loop import Textbook
from .statistics import covariance
from .writing import generate

__all__ = ["Textbook", "covariance", "generate"]
