from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ke_cli.report.plots.drawing import draw
from ke_cli.report.plots.figures import Figure, Forest, HeatMap, slug, unique_names
from ke_cli.report.plots.gallery import MOST_ROWS, Gallery, gallery
from ke_cli.report.plots.panels import Picture
from ke_cli.report.tables import View
from ke_cli.results.reader import find_runs, read_run
from ke_cli.summarize import main
from results.runs import case, unit, write_run

pytest.importorskip("matplotlib")

COLUMNS = [
    {"name": name, "title": name, "direction": "up", "scale": 100.0}
    for name in ("efficacy", "r_specificity", "instruction_exact")
]
METRICS = {"metrics": {"success": {"version": 1, "columns": COLUMNS, "derived": []}}}
GEOMETRY = {
    "metrics": {
        **METRICS["metrics"],
        "geometry": {
            "version": 1,
            "derived": [],
            "columns": [{"name": "drift", "title": "Drift", "direction": "down", "scale": 1.0}],
        },
    }
}


def values(level: float) -> dict[str, float]:
    return {"efficacy": level, "r_specificity": 1 - level, "instruction_exact": level / 2, "drift": 1 + level}


def made(folder: Path, view: View | None = None) -> Gallery:
    return gallery([read_run(path) for path in find_runs([folder])], view or View())


def named(found: Gallery, start: str) -> Figure:
    (figure,) = [figure for figure in found.figures if figure.name.startswith(start)]
    return figure


def why(found: Gallery, start: str) -> str:
    (item,) = [item for item in found.left_out if item.title.startswith(start)]
    return item.why


def write(folder: Path, level: float, method: str = "rose", relations: int = 2, **changes: Any) -> None:
    lines = [case(f"c{i}", relation=f"P{i % relations}", metrics=values(level if i % 3 else 1.0)) for i in range(12)]
    write_run(folder, lines, method, **{**METRICS, **changes})


def test_a_setting_with_several_numbers_becomes_a_curve_of_every_column(tmp_path: Path) -> None:
    for steps in (5, 10, 20):
        for seed in (0, 1):
            write(tmp_path / f"{steps}-{seed}", steps / 20, seed=seed, **{"method.steps": steps})
    write(tmp_path / "rome", 0.5, "rome", **{"method.steps": 20})
    content = named(made(tmp_path), "sweep-steps").content
    assert isinstance(content, Picture)
    assert [panel.title for panel in content.panels] == [f"{column['name']} \u2191 [%]" for column in COLUMNS]
    (rose,) = [series for series in content.panels[0].series if series.row.method == "rose"]
    assert [x for (x, _, _), _ in rose.points] == [5, 10, 20]
    assert [y for _, (y, _, _) in rose.points] == pytest.approx([50, 66.667, 100], abs=0.01)
    assert draw(content, ".svg").startswith(b"<?xml")


def test_a_seed_is_no_setting_to_draw_a_curve_over(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write(tmp_path / str(seed), 0.5, seed=seed)
    found = made(tmp_path)
    assert not [figure for figure in found.figures if figure.name.startswith("sweep")]
    assert "two or more numbers" in why(found, "Curves over a setting")


def test_recall_is_drawn_over_the_facts_edited_together_within_and_across_runs(tmp_path: Path) -> None:
    for most in (2, 3):
        lines = [
            line
            for number in range(8)
            for line in unit(f"u{number}", most - number % 2, metrics=values(1 / (most - number % 2)))
        ]
        write_run(tmp_path / str(most), lines, **{**METRICS, "protocol.max_facts": most})
    found = made(tmp_path)
    content = named(found, "facts").content
    assert isinstance(content, Picture)
    (series,) = content.panels[0].series
    assert [x for (x, _, _), _ in series.points] == [1, 2, 3]
    assert [y for _, (y, _, _) in series.points] == pytest.approx([100, 50, 100 / 3])
    assert not [figure for figure in found.figures if figure.name.startswith("sweep")]


def test_curves_over_the_edits_in_the_model_are_drawn_where_cases_say_so(tmp_path: Path) -> None:
    lines = [case(f"c{i}", n_edits=10 * (1 + i // 4), metrics=values(1 - i // 4 / 4)) for i in range(12)]
    write_run(tmp_path / "rose", lines, **METRICS)
    write_run(tmp_path / "rome", [case(f"c{i}", metrics=values(0.5)) for i in range(12)], "rome", **METRICS)
    content = named(made(tmp_path), "lifelong").content
    assert isinstance(content, Picture)
    (series,) = content.panels[0].series
    assert [(x, y) for (x, _, _), (y, _, _) in series.points] == [(10, 100), (20, 75), (30, 50)]


def test_many_numbers_of_edits_are_gathered(tmp_path: Path) -> None:
    lines = [case(f"c{i}", checkpoint=i + 1, metrics=values(1.0)) for i in range(60)]
    write_run(tmp_path / "rose", lines, **METRICS)
    content = named(made(tmp_path), "lifelong").content
    assert isinstance(content, Picture)
    assert [x for (x, _, _), _ in content.panels[0].series[0].points] == list(range(5, 61, 5))


def test_curves_that_nobody_could_tell_apart_are_pooled(tmp_path: Path) -> None:
    for steps in range(17):
        lines = [case(f"c{i}", n_edits=1 + i % 2, metrics=values(i % 2)) for i in range(4)]
        write_run(tmp_path / str(steps), lines, **METRICS, **{"method.steps": steps})
    figure = named(made(tmp_path, View(metrics=("efficacy",))), "lifelong")
    assert isinstance(figure.content, Picture)
    assert [row.label for row in figure.content.rows] == ["rose"]
    assert figure.caption.endswith("Up to 17 runs are pooled in a point.")


def test_what_has_no_data_is_said(tmp_path: Path) -> None:
    write(tmp_path / "rose", 0.5, relations=1)
    found = made(tmp_path)
    assert "groups of one size" in why(found, "Recall over")
    assert "n_edits or checkpoint" in why(found, "Lifelong")
    assert "geometry" in why(found, "Geometry")
    assert "fewer than two relations" in why(found, "By relation")
    assert "not two rows" in why(found, "Effect sizes")


def test_relations_are_averaged_over_their_common_cases(tmp_path: Path) -> None:
    for method, level in (("rome", 0.0), ("rose", 1.0)):
        write(tmp_path / method, level, method, relations=3)
    content = named(made(tmp_path), "relations-efficacy").content
    assert isinstance(content, HeatMap)
    assert content.labels == ("rome", "rose")
    assert dict(zip(content.relations, content.values, strict=True)) == {
        "P0 (4)": (100.0, 100.0),
        "P1 (4)": (0.0, 100.0),
        "P2 (4)": (0.0, 100.0),
    }
    for suffix, start in ((".pdf", b"%PDF"), (".png", b"\x89PNG")):
        assert draw(content, suffix).startswith(start)


def test_effects_are_paired_differences_to_the_baseline(tmp_path: Path) -> None:
    for method, level in (("ft", 0.25), ("rome", 0.5), ("rose", 1.0), ("none", 0.0)):
        write(tmp_path / method, level, method)
    figure = named(made(tmp_path), "effects")
    content = figure.content
    assert isinstance(content, Forest)
    assert (content.against, content.labels) == ("rome", ("ft", "rose"))
    differences = [point[0] for point in content.points[0] if point]
    assert differences == pytest.approx([-100 / 6, 100 / 3])
    assert content.upwards == (True, True, True)
    assert draw(content, ".svg") == draw(content, ".svg")
    named_by_reader = named(made(tmp_path, View(against="ft")), "effects").content
    assert isinstance(named_by_reader, Forest) and named_by_reader.against == "ft"


def test_geometry_is_set_against_recall(tmp_path: Path) -> None:
    for method in ("rome", "rose", "none"):
        write(tmp_path / method, 0.5, method, **GEOMETRY)
    content = named(made(tmp_path), "geometry-drift").content
    assert isinstance(content, Picture)
    assert {row.method for row in content.rows} == {"rome", "rose"}


def test_names_of_files_are_safe_and_different() -> None:
    assert slug("../../etc/passwd \u00b7 A_b") == "etc-passwd-a-b"
    assert slug("\u4e2d") == "x"
    content = HeatMap("t", ("P (1)",), ("rose",), ((None,),), "ES", (0, 100))
    figures = unique_names([Figure("a", "", "", content)] * 3)
    assert [figure.name for figure in figures] == ["a", "a-2", "a-3"]
    assert np.isnan(np.array(content.values, dtype=float)).all() and draw(content, ".png")


def test_the_command_fills_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("rome", "rose"):
        write(tmp_path / "outputs" / method, 0.5, method)
    folder = tmp_path / "new" / "pictures"
    assert main([str(tmp_path / "outputs"), "--plots", str(folder)]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert {Path(name).suffix for name in names} == {".pdf", ".png"}
    assert sum(name.startswith("tradeoff") for name in names) == 2
    told = capsys.readouterr().err
    assert "not drawn: Lifelong curves" in told and "effects-gpt2" in told
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main([str(tmp_path / "outputs"), "--plots", str(tmp_path / "file")]) == 2


def test_more_rows_than_can_be_told_apart_are_pooled_unless_asked_for(tmp_path: Path) -> None:
    for number in range(MOST_ROWS + 1):
        name, settings = ("rome", {}) if number == 0 else ("rose", {"method.variant": f"v{number}"})
        write_run(tmp_path / str(number), [case("c", metrics=values(0.5))], name, **METRICS, **settings)
    found = made(tmp_path)
    content = named(found, "tradeoff").content
    assert isinstance(content, Picture) and [row.label for row in content.rows] == ["rome", "rose"]
    assert "--by parts them" in why(found, f"A mark for each of {MOST_ROWS + 1} rows")
    content = named(made(tmp_path, View(by=("method.name", "method.variant"))), "tradeoff").content
    assert isinstance(content, Picture) and len(content.rows) == MOST_ROWS + 1
