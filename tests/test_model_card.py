"""The card says what the run's files say, in a format that the hub reads, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image

from twistnet.__main__ import main
from twistnet.arguments import parse
from twistnet.commands.predict import predict

pytest_plugins = ("training", "exports")


def card_of(run: Path, out: Path, *flags: str) -> str:
    assert main(["export", f"--run_dir={run}", f"--out={out}", *flags]) == 0
    return (out / "README.md").read_text()


def rows(card: str) -> dict[str, list[str]]:
    """Of all tables: a row's cells by its first one."""
    lines = re.findall(r"^\| (.*) \|$", card, re.MULTILINE)
    return {cells[0]: cells[1:] for line in lines for cells in [[cell.strip() for cell in line.split(" | ")]]}


def changed(run: Path, to: Path, **result: Any) -> Path:
    """A copy of the run whose result.json says more."""
    shutil.copytree(run, to)
    path = to / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **result}))
    return to


def test_every_figure_is_the_runs(tuned: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    result, env = (json.loads((tuned / name).read_text()) for name in ("result.json", "env.json"))
    found = rows(card)
    best = result["best_epoch"]
    logged = [json.loads(line) for line in (tuned / "log.jsonl").read_text().splitlines()]
    (epoch,) = [row for row in logged if row["kind"] == "epoch" and row["epoch"] == best]
    assert found["val1, which chose the epoch"][:2] == ["12", f"{100 * epoch['val_top1']:.2f} %"]
    assert found["test1, tested once"][:2] == ["15", f"{100 * result['test_top1']:.2f} %"]
    assert f"after epoch {best} of 4, the best by validation accuracy" in card
    state = torch.load(tuned / "best.pt", weights_only=True)
    assert found["training images"] == ["24"]
    assert found["fingerprint of the training split"] == [f"`{state['data']['fingerprint']}`"]
    assert found["decoder"] == [state["decoder"]]
    assert found["resize"] == ["antialiased bilinear"]
    assert found["hardware"] == [f"CPU, {env['cores']} cores"]
    for package in ("torch", "timm", "pillow"):
        assert f"{package} {env['packages'][package]}" in found["versions"][0]
    for name, value in json.loads((tuned / "recipe.json").read_text()).items():
        if name != "name":
            assert found[f"`{name}`"] == [f"`{json.dumps(value)}`"]
    assert "trained on fold 1 of dtd from random weights" in card
    assert "seed 42" in card
    assert str(tuned.parent) not in card  # whose machine it was is nobody's business


def test_the_hub_reads_its_header(tuned: Path, tmp_path: Path) -> None:
    own = changed(tuned, tmp_path / "own", dataset="folder")
    plain = huggingface_hub.ModelCard(card_of(own, tmp_path / "plain", "--license=mit")).data
    assert (plain.library_name, plain.pipeline_tag, plain.license) == ("timm", "image-classification", "mit")
    assert plain.metrics == ["accuracy"]
    assert plain.datasets is None  # one's own have no name
    run = changed(tuned, tmp_path / "run", dataset="dtd", test_top5=0.75, test_balanced=0.5)
    text = card_of(run, tmp_path / "out")
    full = huggingface_hub.ModelCard(text).data
    assert full.license is None
    assert "No licence is stated" in text
    assert full.datasets == ["dtd"]
    test_top1 = json.loads((run / "result.json").read_text())["test_top1"]
    assert [(each.dataset_name, each.dataset_split, each.metric_value) for each in full.eval_results] == [
        ("dtd", "test1", round(test_top1, 4)),
        ("dtd", "test1", 0.75),
        ("dtd", "test1", 0.5),
    ]
    assert rows(text)["test1, tested once"][2:] == ["75.00 %", "50.00 %"]
    assert "# test_resnet, dtd" in text


def test_its_examples_run(
    exported: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, "exported")
    Image.open(next((tree / "val" / "cat").iterdir())).save("image.jpg")
    shutil.copytree(tree / "val" / "cat", "folder")
    card = Path("exported/README.md").read_text()
    (python,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(python, "card", "exec"), {})
    shown = [line.rsplit(" ", 1)[-1] for line in capsys.readouterr().out.splitlines()]
    assert sorted(shown) == ["astronaut", "cat", "coffee"]
    (command,) = re.findall(r"```bash\ntwistnet predict (.*?)\n```", card)
    assert parse(predict, command.split())["images"] == (Path("image.jpg"), Path("folder"))
    assert main(["predict", *command.split(), "--device=cpu"]) == 0
    assert "image.jpg\n  " in capsys.readouterr().out


def test_what_the_files_do_not_say_is_left_out(tuned: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(tuned, tmp_path / "bare")
    for name in ("result.json", "env.json", "log.jsonl"):
        (bare / name).unlink()
    card = card_of(bare, tmp_path / "out")
    found = rows(card)
    assert "## Results" not in card
    assert not {"hardware", "versions", "commit of twistnet", "started", "data set"} & set(found)
    assert "None" not in card
    assert "were not tested on images that had no part in choosing them" in card


def test_results_of_other_weights_are_not_these(tuned: Path, tmp_path: Path) -> None:
    """The test was of best.pt: latest.pt, of another epoch, was never tested."""
    best = json.loads((tuned / "result.json").read_text())["best_epoch"]
    run = changed(tuned, tmp_path / "run", best_epoch=best % 4 + 1)
    card = card_of(run, tmp_path / "out")
    assert "tested once" not in card
    assert "were not tested" in card
    state = torch.load(tuned / "latest.pt", weights_only=True)
    run = shutil.copytree(tuned, tmp_path / "stopped")
    (run / "latest.pt").unlink()
    torch.save({**state, "epoch": 2, "step_in_epoch": 1}, run / "latest.pt")
    card = card_of(run, tmp_path / "latest", "--checkpoint=latest")
    assert "## Results" not in card
    assert "The run had come to epoch 2 of 4." in card


def test_names_of_somebody_elses_break_nothing(tuned: Path, tmp_path: Path) -> None:
    state = torch.load(tuned / "best.pt", weights_only=True)
    classes = ["a|b", "`c`\n## Results", "\udce9t\u00e9"]
    weights = {"path": "/home/me/of|mine.pt", "parameters": 1234, "total_parameters": 2000}
    run = changed(tuned, tmp_path / "run", dataset="x: [y\n---\n| z")
    (run / "best.pt").unlink()
    data = {**state["data"], "classes": classes}
    torch.save({**state, "data": data, "weights_from": weights}, run / "best.pt")
    card = card_of(run, tmp_path / "out", "--license=mit\nmetrics: []")
    header = huggingface_hub.ModelCard(card).data
    assert header.metrics == ["accuracy"]
    assert header.license == "mit\nmetrics: []"
    assert [line for line in card.splitlines() if line.startswith("## ")] == [
        "## Results",
        "## Use",
        "## Training",
        "## Data",
        "## Made with",
        "## Limits",
    ]
    assert "of\\|mine.pt`, which set 1,234 of its parameters" in card
    assert "/home/me" not in card


def test_a_probes_card_says_that_it_is_one(probed: Path, tmp_path: Path) -> None:
    card = card_of(probed, tmp_path / "out", "--license=mit")
    result = json.loads((probed / "result.json").read_text())
    found = rows(card)
    assert "linear probe" in card.partition("\n# ")[2].partition("\n")[0]
    assert "It is a linear probe: a logistic regression on the features of the frozen backbone" in card
    assert found["val1, which chose the regularisation"][1] == f"{100 * result['val_top1']:.2f} %"
    assert found["test1, tested once"][:2] == ["15", f"{100 * result['test_top1']:.2f} %"]
    assert "A logistic regression was fitted to features of central crops" in card
    assert "learning rate of" not in card
    assert "after epoch" not in card
    assert "come to epoch" not in card
    assert "None" not in card
    assert "fingerprint" not in card.lower()
