"""Drawing effect sizes and heat maps."""

from __future__ import annotations

import math
from typing import Any

from ke_cli.report.plots.figures import Forest, HeatMap
from ke_cli.report.plots.styles import COLOURS
from ke_cli.report.statistics import LEVEL

LINE = 0.22
"""Height of a row, in inches."""

LETTER = 0.066
BETTER, WORSE, GREY = (COLOURS[0], "D"), (COLOURS[1], "X"), "#606060"
NOTE = {"fontsize": 7, "color": "#606060", "x": 0.99, "ha": "right"}


def draw_forest(make: Any, forest: Forest) -> Any:
    """Return a figure with a panel for each column: a diamond is better than the row compared with, a cross worse."""
    across = min(len(forest.headings), 4)
    down = math.ceil(len(forest.headings) / across)
    rows = len(forest.labels)
    width = across * 1.9 + max(map(len, forest.labels)) * LETTER + 0.4
    figure = make(figsize=(width, down * (rows * LINE + 0.85) + 0.5), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for place, (axes, heading) in enumerate(zip(grid, forest.headings, strict=False)):
        _draw_differences(axes, forest, place)
        axes.set_title(heading)
    for axes in grid[len(forest.headings) :]:
        axes.remove()
    grid[0].set_ylim(rows - 0.5, -0.5)
    figure.suptitle(forest.title, fontsize=9, fontweight="bold", x=0.01, ha="left")
    marks = "diamond: better, cross: worse, hollow: the interval holds 0"
    figure.supxlabel(f"differences to {forest.against}, with {LEVEL:.0%} intervals; {marks}", **NOTE)
    return figure


def _draw_differences(axes: Any, forest: Forest, panel: int) -> None:
    axes.axvline(0, color="#606060", linewidth=0.9, zorder=1)
    for place, point in enumerate(forest.points[panel]):
        if point is None:
            continue
        value, low, high = point
        is_open, is_better = low <= 0 <= high, (value > 0) == forest.upwards[panel]
        colour, marker = (GREY, "o") if is_open else (BETTER if is_better else WORSE)
        face = "white" if is_open else colour
        axes.plot([low, high], [place, place], color=colour, linewidth=1.2, zorder=2)
        axes.plot([value], [place], marker=marker, markersize=5, color=colour, markerfacecolor=face, zorder=3)
    axes.set_yticks(range(len(forest.labels)), forest.labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def draw_heat_map(make: Any, content: HeatMap) -> Any:
    """Return a figure with a number in each cell; the colours get lighter with it in grey as well."""
    import numpy as np

    values = np.array(content.values, dtype=float)
    names = max(map(len, content.relations)) * LETTER
    width = len(content.labels) * 0.42 + names + 1.1
    height = len(content.relations) * LINE + max(map(len, content.labels)) * LETTER * 0.8 + 0.8
    figure = make(figsize=(max(width, 3.4), height), layout="constrained")
    axes = figure.subplots()
    low, high = content.limits
    mesh = axes.pcolormesh(values, cmap="cividis", vmin=low, vmax=high, edgecolors="white", linewidth=0.8)
    for line, column in np.argwhere(~np.isnan(values)).tolist():
        _write(axes, mesh, column + 0.5, line + 0.5, float(values[line, column]))
    axes.set_xticks(
        np.arange(len(content.labels)) + 0.5, content.labels, rotation=55, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(np.arange(len(content.relations)) + 0.5, content.relations)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("#F2F2F2")
    axes.set_title(f"{content.title}\n{content.heading}", fontweight="bold")
    return figure


def _write(axes: Any, mesh: Any, x: float, y: float, value: float) -> None:
    """Write a number in black or white, whichever stands out."""
    red, green, blue, _ = mesh.cmap(mesh.norm(value))
    light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    colour = "black" if light > 0.18 else "white"
    # Left out of the layout, which would measure each of what may be a thousand numbers.
    axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=colour).set_in_layout(False)
