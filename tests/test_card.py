"""The decoders that work on a CUDA card, where there is one: their pixels, and whose memory they write to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_decoders import needed
from test_native import ONE_ORDER

from loaders import Batch, CropPolicy, Loader, open_loader
from loaders.augment import Augment

pytest_plugins = ("converted_sets",)
pytestmark = pytest.mark.gpu

TOLERANCES = {"device": (0.0, int(ONE_ORDER)), "dali": (0.6, 24), "dali+native": (0.6, 24)}


def opened(path: Path, decoder: str, **options: object) -> Loader:
    needed(decoder)
    given = {"batch_size": 8, "size": 40, "seed": 3, "num_threads": 2, "device": "cuda", "train": True} | options
    return open_loader(path, "train", decoder=decoder, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("store", ["tree", "shards_set", "beton_set", "raw_beton"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("decoder", TOLERANCES)
def test_batches_on_the_card_are_the_references(
    decoder: str, interpolation: str, store: str, request: pytest.FixtureRequest
) -> None:
    path, crops = request.getfixturevalue(store), CropPolicy(interpolation=interpolation)
    mean, most = TOLERANCES[decoder]
    differences = []
    with (
        opened(path, decoder, crops=crops) as on_card,
        opened(path, "reference", crops=crops, device="cpu") as on_cpu,
    ):
        for one, other in zip(on_card.epoch(1), on_cpu.epoch(1), strict=True):
            assert one.images.is_cuda
            differences.append((one.images.cpu().int() - other.images.int()).abs())
            for name in ("labels", "valid", "ids"):
                assert torch.equal(getattr(one, name).cpu(), getattr(other, name)), name
    found = torch.cat(differences)
    assert found.double().mean() <= mean
    assert found.max() <= most


# Each over what it decodes on the card itself.
OWN = [("device", "raw_beton"), ("dali", "beton_set"), ("dali+native", "beton_set")]


@pytest.mark.parametrize(("decoder", "store"), OWN[:2])  # what the third one makes depends on its shares
@pytest.mark.parametrize("augment", [None, Augment()])
def test_a_batch_that_is_read_late_is_not_written_over(
    decoder: str, store: str, augment: Augment | None, request: pytest.FixtureRequest
) -> None:
    """The consumer's stream falls behind while the loader goes on; what it then reads is what it was given."""
    with opened(request.getfixturevalue(store), decoder, augment=augment) as loader:
        right = [batch.images.clone() for batch in loader.epoch(0)]
        torch.cuda.synchronize()
        late = []
        for batch in loader.epoch(0):
            torch.cuda._sleep(100_000_000)
            late.append(batch.images.clone())
            del batch
        torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(late, right, strict=True))


@pytest.mark.parametrize("decoder", TOLERANCES)
def test_a_damaged_file_is_replaced_within_the_budget_only(tree: Path, tmp_path: Path, decoder: str) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    file = copy / "train" / "cat" / "cat_5.JPEG"
    file.write_bytes(file.read_bytes()[:400])
    with opened(copy, decoder, max_bad=0.05) as loader:
        batches: list[Batch] = list(loader.epoch(0))
        assert [Path(key).name for key in loader.bad] == ["cat_5.JPEG"]
    assert sum(int(batch.valid.sum()) for batch in batches) == 50


@pytest.mark.parametrize(("decoder", "store"), OWN)
def test_memory_of_the_card_is_flat_over_epochs(decoder: str, store: str, request: pytest.FixtureRequest) -> None:
    with opened(request.getfixturevalue(store), decoder) as loader:
        used = []
        for epoch in range(6):
            for batch in loader.epoch(epoch):
                del batch
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            used.append(total - free)
    assert used[5] - used[2] < 64 * 2**20, np.diff(used)


@pytest.mark.parametrize(("decoder", "store"), OWN)
def test_a_rank_touches_its_own_card_only(decoder: str, store: str, request: pytest.FixtureRequest) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    before = torch.cuda.mem_get_info(0)[0]
    with opened(request.getfixturevalue(store), decoder, device="cuda:1") as loader:
        assert all(batch.images.device.index == 1 for batch in loader.epoch(0))
        assert before - torch.cuda.mem_get_info(0)[0] < 16 * 2**20
