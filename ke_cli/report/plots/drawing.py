"""Pictures as files, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from ke_cli.errors import UserError
from ke_cli.report.plots.figures import Forest, HeatMap
from ke_cli.report.plots.labels import Named, place_labels
from ke_cli.report.plots.maps import draw_forest, draw_heat_map
from ke_cli.report.plots.panels import Panel, Picture, Series
from ke_cli.report.plots.styles import Style, styles
from ke_cli.report.statistics import LEVEL

SUFFIXES: Mapping[str, dict[str, None]] = MappingProxyType(
    {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}
)
"""The formats of pictures, and what keeps the time of drawing out of their files."""

RC: Mapping[str, object] = MappingProxyType(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.6,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "pdf.fonttype": 42,  # letters that can be searched and edited
        "svg.hashsalt": "ke-run",  # the same picture, the same file
    }
)

PANEL = (3.2, 2.6)
"""Width and height of a panel, in inches."""

ONLY_PANEL = (4.4, 3.2)
MARGINS = (0.7, 0.7)
LETTER, LINE = 0.066, 0.19
"""Width of a letter and height of a line of the legend, in inches."""

LONGEST = 120
"""Letters of a name that are drawn."""

MANY = 6
"""With more rows than so many the bands of curves are fainter."""


def draw(picture: Picture | Forest | HeatMap, suffix: str) -> bytes:
    """Return a picture as the content of a file.

    Args:
        picture: What to draw.
        suffix: One of `SUFFIXES`.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib, which is not installed", hint="pip install 'ke-run[plots]'") from error
    stream, rc = io.BytesIO(), cast(Any, dict(RC))
    with matplotlib.rc_context(rc):
        figure = _made(Figure, picture)
        figure.savefig(stream, format=suffix.removeprefix("."), dpi=200, metadata=SUFFIXES[suffix])
    return stream.getvalue()


def _made(make: Any, picture: Picture | Forest | HeatMap) -> Any:
    if isinstance(picture, Forest):
        return draw_forest(make, picture)
    return draw_heat_map(make, picture) if isinstance(picture, HeatMap) else _figure(make, picture)


def _figure(make: Any, picture: Picture) -> Any:
    across = _across(len(picture.panels))
    down = math.ceil(len(picture.panels) / across)
    width, height = ONLY_PANEL if len(picture.panels) == 1 else PANEL
    figure = make(figsize=(across * width + MARGINS[0], down * height + MARGINS[1]), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=not picture.own_heights, squeeze=False).ravel()
    known = styles(picture.rows)
    for axes, panel in zip(grid, picture.panels, strict=False):
        _draw_panel(axes, picture, panel, known)
    for axes in grid[len(picture.panels) :]:
        axes.remove()
    _name_axes(figure, picture, grid, across)
    if len(picture.rows) > 1 and (picture.is_curve or not _named_in_place(figure, picture, known)):
        _add_legend(figure, picture, known)
    return figure


def _across(panels: int) -> int:
    return panels if panels <= 3 else 2 if panels == 4 else 3


def _draw_panel(axes: Any, picture: Picture, panel: Panel, known: Mapping[str, Style]) -> None:
    for series in panel.series:
        style = known[series.row.label]
        if picture.is_curve:
            _draw_curve(axes, series, style, faint=len(panel.series) > MANY)
        else:
            _draw_point(axes, series, style)
    if not picture.is_curve:
        axes.margins(0.1)  # room for names
    for place in picture.logarithmic:
        _make_logarithmic(axes, "xy"[place])
    if picture.linear_up_to is not None:
        axes.set_xscale("symlog", linthresh=picture.linear_up_to)
    if picture.ticks:
        axes.set_xticks([place for place, _ in picture.ticks], [_plain(text) for _, text in picture.ticks])
        axes.minorticks_off()
    if picture.against:
        axes.axhline(0, color="#808080", linewidth=0.8, zorder=1)
        if not picture.is_curve:
            axes.axvline(0, color="#808080", linewidth=0.8, zorder=1)
    one_title = len({other.group.names for other in picture.panels}) == 1
    axes.set_title(_plain(panel.title or (panel.group.part if one_title else panel.group.title)))


def _plain(text: str) -> str:
    """Return a text that matplotlib draws as it is, because a dollar sign begins no formula in it."""
    return (text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ...").replace("$", r"\$")


def _make_logarithmic(axes: Any, which: str) -> None:
    """Give an axis a logarithmic scale that is labelled with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _draw_point(axes: Any, series: Series, style: Style) -> None:
    ((x, x_low, x_high), (y, y_low, y_high)) = series.points[0]
    axes.plot([x_low, x_high], [y, y], color=style.colour, linewidth=0.8, alpha=0.55)
    axes.plot([x, x], [y_low, y_high], color=style.colour, linewidth=0.8, alpha=0.55)
    axes.plot([x], [y], linestyle="", zorder=3, **_marks(style))


def _draw_curve(axes: Any, series: Series, style: Style, faint: bool) -> None:
    x = [point[0][0] for point in series.points]
    y, low, high = ([point[1][end] for point in series.points] for end in range(3))
    axes.fill_between(x, low, high, color=style.colour, alpha=0.05 if faint else 0.12, linewidth=0)
    axes.plot(x, y, color=style.colour, linestyle=style.line, linewidth=1.4, zorder=3, **_marks(style, size=4))


def _marks(style: Style, size: float = 5.5) -> dict[str, Any]:
    return {
        "marker": style.marker,
        "markersize": size,
        "markerfacecolor": style.colour,
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def _name_axes(figure: Any, picture: Picture, grid: Sequence[Any], across: int) -> None:
    """Write what the axes are at the outer ones, and once for the figure what all panels have in common."""
    names = {panel.group.names for panel in picture.panels}
    if picture.title or len(names) == 1:
        figure.suptitle(_plain(picture.title or min(names)), fontsize=9, fontweight="bold", x=0.01, ha="left")
    for place in range(len(picture.panels)):
        if place + across >= len(picture.panels):
            grid[place].set_xlabel(_plain(picture.x_label))
            grid[place].tick_params(labelbottom=True)
        if place % across == 0:
            grid[place].set_ylabel(_plain(picture.y_label))
    what = "bands" if picture.is_curve else "bars"
    against = f"; differences to {_plain(picture.against)}" if picture.against else ""
    figure.supxlabel(f"{what}: {LEVEL:.0%} intervals{against}", fontsize=7, color="#606060", x=0.99, ha="right")


def _named_in_place(figure: Any, picture: Picture, known: Mapping[str, Style]) -> bool:
    """Name the points themselves, if there is room for it in every panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()  # so that the panels have their final places
    for axes, panel in zip(figure.axes, picture.panels, strict=True):
        points = [
            Named(_plain(series.row.label), *series.points[0], known[series.row.label].colour)
            for series in panel.series
        ]
        if not place_labels(axes, points, renderer):
            for written in [text for other in figure.axes for text in other.texts]:
                written.remove()
            return False
    return True


def _add_legend(figure: Any, picture: Picture, known: Mapping[str, Style]) -> None:
    """Name the rows on the right, in a strip that the figure is made wider by."""
    from matplotlib.lines import Line2D

    handles = []
    for row in picture.rows:
        style = known[row.label]
        line: dict[str, Any] = {"linestyle": style.line if picture.is_curve else "", "color": style.colour}
        name = _plain(row.label)
        name = f" {name}" if name.startswith("_") else name  # which matplotlib would leave out
        handles.append(Line2D([], [], label=name, **line, **_marks(style)))
    width, height = figure.get_size_inches()
    letters = max(len(str(handle.get_label())) for handle in handles)
    figure.set_size_inches(width + letters * LETTER + 0.6, max(height, len(handles) * LINE + 2 * MARGINS[1]))
    figure.legend(handles=handles, loc="outside right center", handlelength=2.6 if picture.is_curve else 1)
