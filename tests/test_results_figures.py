"""What the figures draw is what the runs hold, read back from matplotlib's artists."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix
from sweeps import rising, write_log, write_predictions, write_run, write_sweep

from twistnet.reports import confusion, figures, histories, tables
from twistnet.reports.collect import Row, Table, collect
from twistnet.reports.style import BASELINE, COLOURS, draw, look, looks, with_legend, wrapped
from twistnet.reports.tables import Line

PAIRS = [(fold, seed) for fold in (1, 2, 3) for seed in (0, 1)]
TOP1 = {
    "resnet18": dict(zip(PAIRS, [0.60, 0.62, 0.58, 0.61, 0.63, 0.59], strict=True)),
    "twistnet18": dict(zip(PAIRS, [0.61, 0.65, 0.60, 0.63, 0.64, 0.62], strict=True)),
}
CLASSES = ["banded", "dotted", "lined"]


def only(folder: Path) -> Table:
    (table,) = collect(folder).tables
    return table


def lines_of(folder: Path) -> list[Line]:
    table = only(folder)
    return tables.lines_of(table, tables.choose_baseline(table, None), lambda run: len(run.model) * 10**9)


@pytest.fixture
def lines(tmp_path: Path) -> list[Line]:
    return lines_of(write_sweep(tmp_path, TOP1))


@pytest.fixture
def single(tmp_path: Path) -> list[Line]:
    return lines_of(write_run(tmp_path / "a", top1=0.625).parent)


def dots(figure: Figure) -> dict[str, list[float]]:
    """What is drawn as dots, by label."""
    (axes,) = figure.axes
    return {line.get_label(): list(line.get_xdata()) for line in axes.lines if not line.get_label().startswith("_")}


def test_bars_end_at_the_means_and_begin_at_zero(lines: list[Line]) -> None:
    figure = Figure()
    figures.bars(figure, lines)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([60.5, 62.5])
    assert [bar.get_x() for bar in axes.patches] == [0, 0]
    assert axes.get_xlim()[0] == 0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["resnet18", "twistnet18"]
    assert [text.get_text() for text in axes.texts] == ["60.50 ± 1.87", "62.50 ± 1.87"]


@pytest.mark.parametrize("paint", [figures.bars, figures.spread])
def test_every_run_is_a_dot_and_the_spread_a_line(paint: object, lines: list[Line]) -> None:
    figure = Figure()
    paint(figure, lines)  # type: ignore[operator]
    for name, by_pair in TOP1.items():
        assert dots(figure)[name] == pytest.approx([100 * value for value in by_pair.values()])
    ends = [container.lines[2][0].get_segments()[0][:, 0] for container in figure.axes[0].containers if
            hasattr(container, "has_xerr")]  # fmt: skip
    std = 100 * np.std(list(TOP1["resnet18"].values()), ddof=1)
    assert ends[0] == pytest.approx([60.5 - std, 60.5 + std])
    assert len(ends) == 2


@pytest.mark.parametrize("paint", [figures.bars, figures.spread])
def test_a_single_run_has_a_dot_and_no_spread(paint: object, single: list[Line]) -> None:
    figure = Figure()
    paint(figure, single)  # type: ignore[operator]
    assert dots(figure) == {"resnet18": [62.5]}
    assert not [container for container in figure.axes[0].containers if hasattr(container, "has_xerr")]


def test_accuracy_stands_against_its_cost(lines: list[Line]) -> None:
    figure = Figure()
    figures.against(figure, lines, figures.looks_of(lines), lambda line: (line.flops or 0) / 1e9, "FLOPs (billions)")
    (axes,) = figure.axes
    assert axes.get_ylabel() == "test top-1 (%), mean ± std"
    points = {
        line.get_label(): (*line.get_xdata(), *line.get_ydata())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }
    assert points == {"resnet18": (8, pytest.approx(60.5)), "twistnet18": (10, pytest.approx(62.5))}
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlim()[1] > 10
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["resnet18", "twistnet18"]


def test_models_look_different() -> None:
    seen = [tuple(look(place).values()) for place in range(56)]
    assert len(set(seen)) == 56
    assert BASELINE not in COLOURS
    assert len(set(map(str, looks("abcdefgh", "c").values()))) == 8


def test_a_model_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {name: {(1, 0): 0.5, (2, 0): 0.6} for name in ("resnet18", "resnet34", "twistnet18")})
    for run in sweep.glob("*/*"):
        write_log(run, [0.1, 0.3 + 0.1 * ("fold01" in run.name)])
    lines = lines_of(sweep)
    styles = figures.looks_of(lines)
    right = {"resnet18": BASELINE, "resnet34": COLOURS[0], "twistnet18": COLOURS[1]}
    counted = [line for line in lines if line.row.label != "resnet34"]  # a model that cannot be counted
    courses = histories.labelled([line.row for line in lines])
    for paint, drawn in (
        (figures.bars, right),
        (figures.spread, right),
        (lambda figure, _: histories.curves(figure, courses, styles), right),
        (
            lambda figure, _: figures.against(figure, counted, styles, tables.Line.parameters.fget, "parameters"),
            {name: right[name] for name in ("resnet18", "twistnet18")},
        ),
    ):
        figure = Figure()
        paint(figure, lines)
        shown = {line.get_label(): line.get_color() for line in figure.axes[0].lines if line.get_label() in right}
        assert shown == drawn
    figure = Figure()
    figures.bars(figure, lines)
    assert [to_hex(bar.get_facecolor()).upper() for bar in figure.axes[0].patches] == list(right.values())


def test_long_labels_are_broken_where_they_may_be() -> None:
    assert wrapped("resnet18", 22) == "resnet18"
    assert wrapped("twistnet18 (recipe dtd, lr=0.01)", 22) == "twistnet18 (recipe\ndtd, lr=0.01)"
    parts = ["vit_base_", "patch16_224.", "augreg_in21k (1", "epoch)"]
    assert wrapped("vit_base_patch16_224.augreg_in21k (1 epoch)", 16).splitlines() == parts
    assert wrapped("x" * 30, 22) == "x" * 30


def test_bars_have_most_of_the_width_beside_long_labels(tmp_path: Path) -> None:
    for place, tune in enumerate(("all", "classifier", "probe")):
        write_run(tmp_path / tune, model="vit_base_patch16_224.augreg_in21k", tune=tune, top1=0.9 + place / 100)
    lines = lines_of(tmp_path)
    kept: list[Figure] = []

    def paint(figure: Figure) -> None:
        figures.bars(figure, lines)
        kept.append(figure)

    draw(tmp_path / "bars", figures.bars_size(lines), paint)
    (axes,) = kept[0].axes
    assert axes.get_position().width > 0.45
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(lower.y1 <= upper.y0 for upper, lower in itertools.pairwise(boxes))


@pytest.mark.parametrize("paint", [figures.bars, figures.spread])
def test_whiskers_are_explained_where_there_are_any(
    paint: Callable[[Figure, list[Line]], None], lines: list[Line], tmp_path: Path
) -> None:
    alone = lines_of(write_run(tmp_path / "alone" / "a").parent)
    said = []
    for some in (lines, alone):
        figure = Figure()
        paint(figure, some)
        said.append(figure.axes[0].get_xlabel())
    assert said == ["test top-1 (%), mean ± std", "test top-1 (%)"]


def with_logs(folder: Path) -> Row:
    for seed, gain in enumerate((0.0, 0.1)):
        run = write_run(folder / f"seed{seed}", seed=seed, model="twistnet18", epochs=4)
        gates = {"layer3.0": [0.12, 0.13, 0.14, 0.15], "layer4.1": [0.12 + gain, 0.2, 0.3, 0.4 + gain]}
        write_log(run, [0.1 + gain, 0.2 + gain, 0.3, 0.4 + gain], gates)
    (row,) = only(folder).rows
    return row


def test_curves_are_means_with_a_band_of_one_deviation(tmp_path: Path) -> None:
    courses = histories.labelled([with_logs(tmp_path)])
    figure = Figure()
    histories.curves(figure, courses, {"twistnet18": look(3)})
    (axes,) = figure.axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert list(line.get_ydata()) == pytest.approx([15, 25, 30, 45])
    assert line.get_color() == COLOURS[3]
    assert axes.get_ylabel() == "validation top-1 (%), mean ± std"
    (band,) = axes.collections
    std = 100 * np.std([0.1, 0.2], ddof=1)
    heights = band.get_paths()[0].vertices
    assert set(np.round(heights[heights[:, 0] == 1][:, 1], 6)) == set(np.round([15 - std, 15 + std], 6))
    assert {*np.round(heights[heights[:, 0] == 3][:, 1], 6)} == {30.0}


def test_of_epochs_taken_again_the_last_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    write_log(run, [0.1, 0.2])
    with (run / "log.jsonl").open("a") as file:
        file.write(
            '{"kind": "steps", "step": 31}\n{"kind": "epoch", "epoch": 2, "step": 60, "val_top1": 0.5}\n{"kind": "ep'
        )
    (course,) = histories.labelled(only(tmp_path).rows).values()
    assert course == histories.Course(epochs=(1, 2), means=(0.1, 0.5), stds=(0.0, 0.0))


def test_a_single_epoch_and_its_spread_can_be_seen(tmp_path: Path) -> None:
    for seed, top1 in enumerate((0.3, 0.5)):
        write_log(write_run(tmp_path / str(seed), seed=seed), [top1])
    figure = Figure()
    histories.curves(figure, histories.labelled(only(tmp_path).rows), {"resnet18": look(0)})
    (axes,) = figure.axes
    (line,) = (line for line in axes.lines if line.get_label() == "resnet18")
    assert (line.get_marker(), *line.get_ydata()) == ("o", 40.0)
    low, high = axes.get_xlim()
    assert low < 1 < high
    (spread,) = axes.containers
    std = 100 * np.std([0.3, 0.5], ddof=1)
    assert spread.lines[2][0].get_segments()[0][:, 1] == pytest.approx([40 - std, 40 + std])


def test_a_single_epoch_beside_longer_runs_is_not_cut(tmp_path: Path) -> None:
    for tune, top1 in (("probe", [0.5]), ("all", rising(0.6, 10))):
        write_log(write_run(tmp_path / tune, tune=tune), top1)
    rows = only(tmp_path).rows
    figure = Figure(layout="constrained")
    histories.curves(figure, histories.labelled(rows), looks([row.label for row in rows], None))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (single,) = (line for line in axes.lines if len(line.get_xdata()) == 1)
    radius = single.get_markersize() / 2 * figure.dpi / 72
    assert axes.transData.transform((1, 50))[0] - radius >= axes.bbox.x0


def test_long_labels_fit_below_the_axes(tmp_path: Path) -> None:
    for tune in ("all", "classifier", "probe"):
        write_run(tmp_path / tune, model="vit_base_patch16_224.augreg_in21k_ft_in1k", tune=tune)
    lines = lines_of(tmp_path)
    kept: list[Figure] = []

    def paint(figure: Figure) -> None:
        figures.against(figure, lines, figures.looks_of(lines), lambda line: line.parameters, "parameters")
        kept.append(figure)

    draw(tmp_path / "legend", with_legend([line.row.label for line in lines]), paint)
    box = kept[0].legends[0].get_window_extent()
    assert 0 <= box.x0
    assert box.x1 <= kept[0].bbox.width


def test_gates_have_a_panel_a_model_and_a_line_a_block(tmp_path: Path) -> None:
    row = with_logs(tmp_path)
    figure = Figure()
    histories.draw_gates(figure, {"twistnet18": histories.gates(row), "other": histories.gates(row)})
    assert [axes.get_title() for axes in figure.axes] == ["twistnet18", "other"]
    assert figure.axes[0].get_ylabel() == "gate, mean ± std"
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[1].lines}
    assert drawn == {"layer3.0": [0.12, 0.13, 0.14, 0.15], "layer4.1": pytest.approx([0.17, 0.2, 0.3, 0.45])}


def test_models_without_gates_have_no_panel(tmp_path: Path) -> None:
    write_log(write_run(tmp_path / "a"), rising(0.6, 3))
    (row,) = only(tmp_path).rows
    assert histories.gates(row) == {}


def with_predictions(folder: Path) -> tuple[Row, np.ndarray]:
    rng = np.random.default_rng(1)
    everything: list[tuple[list[int], list[int]]] = []
    for fold in (1, 2):
        run = write_run(folder / f"fold{fold}", fold=fold, num_classes=3)
        labels = [0] * 8 + [1] * 2 + [2] * 5
        predicted = [int(taken) for taken in rng.integers(0, 3, len(labels))]
        write_predictions(run, labels, predicted, CLASSES)
        everything.append((labels, predicted))
    (row,) = only(folder).rows
    labels, predicted = (list(itertools.chain(*parts)) for parts in zip(*everything, strict=True))
    return row, confusion_matrix(labels, predicted, normalize="true")


def test_the_confusion_matrix_is_scikit_learns_over_all_runs(tmp_path: Path) -> None:
    row, expected = with_predictions(tmp_path)
    found, warnings = confusion.confusion(row)
    assert found is not None
    assert warnings == []
    assert found.shares == pytest.approx(expected)
    figure = Figure()
    confusion.matrix(figure, found, "twistnet18")
    axes = figure.axes[0]
    assert axes.get_title() == "twistnet18"
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(100 * expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES
    assert [label.get_text() for label in axes.get_xticklabels()] == CLASSES
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers[(2, 0)] == f"{100 * expected[0, 2]:.0f}", "taken for the third, in the row of the first"


def test_the_most_frequent_mistakes_are_named() -> None:
    counts = np.array([[6, 2, 0], [0, 9, 1], [0, 0, 0]])
    found = confusion.Confusion(classes=tuple(CLASSES), counts=counts)
    assert confusion.most_said(found) == ["banded taken for dotted: 25.0% (2)", "dotted taken for lined: 10.0% (1)"]
    assert not np.isnan(found.shares).any(), "a class without test images"


@pytest.mark.parametrize("classes", [47, 102])
def test_names_of_many_classes_do_not_overlap(classes: int) -> None:
    found = confusion.Confusion(classes=tuple(f"class{n}" for n in range(classes)), counts=np.eye(classes, dtype=int))
    figure = Figure(figsize=confusion.matrix_size(found), layout="constrained")
    confusion.matrix(figure, found, "twistnet18")
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(lower.y1 <= upper.y0 for upper, lower in itertools.pairwise(boxes))


def test_predictions_that_cannot_be_read_are_named_and_left_out(tmp_path: Path) -> None:
    row, _ = with_predictions(tmp_path)
    (tmp_path / "fold1" / "predictions.npz").write_bytes(b"torn")
    found, (told,) = confusion.confusion(row)
    assert found is not None
    assert found.counts.sum() == 15
    assert f"without 1 run: {tmp_path}/fold1/predictions.npz cannot be read" in told
    (tmp_path / "fold2" / "predictions.npz").unlink()
    found, (told,) = confusion.confusion(row)
    assert found is None
    assert "without 2 runs: " in told
    assert "No such file" in told


def test_predictions_outside_the_classes_are_refused(tmp_path: Path) -> None:
    row, _ = with_predictions(tmp_path)
    np.savez(tmp_path / "fold1" / "predictions.npz", labels=[0, 3], predicted=[0, 1], classes=np.array(CLASSES))
    np.savez(tmp_path / "fold2" / "predictions.npz", labels=[0, -1], predicted=[0, 1], classes=np.array(CLASSES))
    found, (told,) = confusion.confusion(row)
    assert found is None
    assert "index 3 is out of bounds" in told
    assert "a class below 0" in told
