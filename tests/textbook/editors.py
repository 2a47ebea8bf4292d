"""All editors of the package in one place."""

from .finetune import FineTuneEdit, ft_l
from .rank_one import RankOneEdit, other_prompts, rets, rome, subject_constraint, top
from .spread import SpreadEdit, TwoLevel, memit, memit_merge, rose

__all__ = [
    "FineTuneEdit",
    "RankOneEdit",
    "SpreadEdit",
    "TwoLevel",
    "ft_l",
    "memit",
    "memit_merge",
    "other_prompts",
    "rets",
    "rome",
    "rose",
    "subject_constraint",
    "top",
]
