"""Fine-tuning's loader measured beside the usual loop: rows of both, over the same list of a data set."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benches import bench
from PIL import Image
from torchvision import transforms
from training import FOLDS

from bench import finetuning, loader_process
from bench.peers.finetuning_loader import Listed, batches
from loaders.kept import KeptPixels

pytest_plugins = ("benches", "training")
pytestmark = pytest.mark.usefixtures("results")


def test_both_loops_are_measured_over_the_same_list(
    dtd: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = finetuning.SYSTEMS["RandAugment"]
    monkeypatch.setattr(finetuning, "SYSTEMS", {"RandAugment": systems})
    flags = ("--batch_size=8", "--size=32", "--rounds=1", "--seconds=0.01", "--workers=1")
    assert bench("finetuning", f"--data_dir={dtd}", *flags) == 0
    with (results / "finetuning.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["what"] for row in found] == list(systems)
    assert found[-1]["ratio"] == "1.0"
    assert all(float(row["images_per_s"]) > 0 and "set=RandAugment" in row["options"] for row in found)
    assert f"RandAugment of {dtd.name}: kept, later epochs:" in capsys.readouterr().out


def test_a_folder_of_another_layout_is_refused(tree: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("finetuning", f"--data_dir={tree}") == 1
    assert "is no DTD folder" in capsys.readouterr().err
    assert not results.exists()


def test_made_photographs_are_laid_out_as_dtds() -> None:
    with finetuning._dtd_of(None, 28) as (folder, name):
        listed = (folder / "labels" / "train1.txt").read_text().split()
        assert len(listed) == len(set(listed)) == 28
        for line in listed:
            with Image.open(folder / "images" / line) as image:
                assert 300 <= min(image.size) <= max(image.size) <= 640, "as DTD's"
        assert name == "photographs_of_packages"


def test_the_peer_reads_every_image_of_the_list(dtd: Path) -> None:
    listed = Listed(dtd, "train1", transforms.PILToTensor())
    assert len(listed) == 3 * len(FOLDS["train1"])
    pixels, label = listed[8]
    with Image.open(dtd / "images" / "cat" / "cat_0.JPEG") as image:
        assert (pixels == transforms.PILToTensor()(image.convert("RGB"))).all()
    assert label == 1
    epoch = next(batches(dtd, batch_size=8, size=16, workers=1, augmented=True))
    assert sum(epoch) == 24


@pytest.mark.parametrize(("keeps", "decoded"), [("none", 0), ("first", 3), ("later", 1)])
def test_what_is_kept_is_as_the_row_says(dtd: Path, monkeypatch: pytest.MonkeyPatch, keeps: str, decoded: int) -> None:
    seen, put = list[str](), KeptPixels.put
    monkeypatch.setattr(KeptPixels, "put", lambda self, *args: (seen.append(args[0][0]), put(self, *args))[1])
    lines = (dtd / "labels" / "train1.txt").read_text().split()
    epochs = loader_process.finetuning(dtd, batch_size=10, size=16, workers=1, policy="none", keeps=keeps)
    assert [sum(next(epochs)) for _ in range(3)] == [24, 24, 24]
    epochs.close()  # type: ignore[attr-defined]
    assert sorted(seen) == sorted([str(dtd / "images" / line) for line in lines] * decoded)
