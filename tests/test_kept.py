"""Images that are decoded once: the same batches, less work, and never more memory than was allowed."""

from __future__ import annotations

import io
import os
import shutil
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from converted_sets import copy_of
from PIL import Image
from test_decoders import needed
from test_native import PHOTOGRAPHS, SAMPLINGS, jpeg
from test_reference import ODD

from loaders import Batch, InputError, Loader, SampleError, open_loader, open_store
from loaders.augment import Augment, Mix, RandAugment
from loaders.crops import CropPolicy
from loaders.kept import KeptPixels, kept_pixels
from loaders.tree import TreeStore

pytest_plugins = ("converted_sets",)

AMPLE = 2**30
EXACT = ("native", "reference", "device")
GUIDE = Augment(policy=RandAugment(num_ops=2, magnitude=9), mix=Mix(mixup_alpha=0.2, cutmix_alpha=1.0, group=4))


def opened(path: Path, kept: KeptPixels | None, split: str = "train", **options: object) -> Loader:
    given = {"batch_size": 16, "train": True, "size": 32, "seed": 5, "num_threads": 3, "kept": kept} | options
    return open_loader(path, split, **given)


def epochs_of(loader: Loader, *epochs: int) -> list[Batch]:
    with loader:
        return [batch for epoch in epochs for batch in loader.epoch(epoch)]


def assert_equal(some: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        for name in Batch._fields:
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def pixel_bytes(path: Path, split: str = "train") -> list[int]:
    """What each image of a split takes, by Pillow."""
    store, sizes = open_store(path, split), []
    for sample in range(len(store)):
        with Image.open(io.BytesIO(bytes(store.read(sample)))) as image:
            sizes.append(3 * image.width * image.height)
    return sizes


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which samples trees read from here on."""
    seen, read = list[int](), TreeStore.read
    monkeypatch.setattr(TreeStore, "read", lambda self, sample: (seen.append(sample), read(self, sample))[1])
    return seen


@pytest.mark.parametrize("decoder", EXACT)
@pytest.mark.parametrize("store", ["tree", "shards_set", "beton_set", "raw_beton"])
def test_batches_are_the_same_bit_for_bit(store: str, decoder: str, request: pytest.FixtureRequest) -> None:
    needed(decoder)
    path: Path = request.getfixturevalue(store)
    for options in ({"augment": GUIDE, "look_ahead": 1}, {"repeats": 3}, {"train": False, "num_threads": 1}):
        given, kept = {"decoder": decoder} | options, KeptPixels(AMPLE)
        assert_equal(epochs_of(opened(path, kept, **given), 0, 1), epochs_of(opened(path, None, **given), 0, 1))
        if "repeats" not in options:
            assert kept.num_bytes == (0 if store == "raw_beton" else sum(pixel_bytes(path)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("decoder", EXACT)
def test_odd_images_are_the_same_too(decoder: str, interpolation: str, tmp_path: Path) -> None:
    """Gray, CMYK, palette, 16 bits, PNG, lines of one pixel, turned by EXIF, and photographs of more than 1,024 px,
    which the native decoder makes at half of their size."""
    needed(decoder)
    turned = Image.fromarray(PHOTOGRAPHS[0][:90, :140])
    exif = turned.getexif()
    exif[0x0112] = 6
    line, large, rotated = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(PHOTOGRAPHS[1][:1, :77]).save(line, "JPEG")
    Image.fromarray(PHOTOGRAPHS[1]).resize((1300, 1100)).save(large, "JPEG")
    turned.save(rotated, "JPEG", exif=exif)
    images = {"line": line.getvalue(), "large": large.getvalue(), "rotated": rotated.getvalue(), **ODD}
    images |= {f"sampled{name}": jpeg(PHOTOGRAPHS[2][:151, :133], name, 85) for name in SAMPLINGS}
    for name, data in images.items():
        (tmp_path / "train" / "some").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "some" / f"{name}.jpg").write_bytes(data)
    by_reference = KeptPixels(AMPLE)
    epochs_of(opened(tmp_path, by_reference, decoder="reference", batch_size=5), 0)
    assert by_reference.num_images == len(images)
    for train in (True, False):
        given = {"decoder": decoder, "train": train, "size": 24, "batch_size": 5}
        given["crops"] = CropPolicy(interpolation=interpolation, scale=(0.8, 1.0))
        kept, expected = KeptPixels(AMPLE), epochs_of(opened(tmp_path, None, **given), 0, 1)
        assert_equal(epochs_of(opened(tmp_path, kept, **given), 0, 1), expected)
        assert kept.num_images == len(images) - (decoder != "reference"), "all but the large one"
        assert_equal(epochs_of(opened(tmp_path, by_reference, **given), 0, 1), expected)


def test_later_epochs_neither_read_nor_decode(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, kept = reads(monkeypatch), KeptPixels(AMPLE)
    with opened(tree, kept) as loader:
        list(loader.epoch(0))
        assert sorted(set(seen)) == list(range(51))
        seen.clear()
        monkeypatch.setattr("loaders.kept.open_image", None)
        assert len(list(loader.epoch(1))) == len(loader)
        assert not seen
        assert "decoded images are kept, in at most 1 GiB of memory" in loader.choice
        assert set(loader.seconds()) == {"read", "decode", "buffer", "upload", "wait"}


def test_splits_and_folds_share_their_images(
    shards_set: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the file that an image lies in, whatever the split, the fold or the spelling of the folder."""
    kept = KeptPixels(AMPLE)
    epochs_of(opened(shards_set, kept), 0)
    assert (kept.num_images, kept.num_bytes) == (51, sum(pixel_bytes(shards_set)))
    expected = epochs_of(opened(shards_set, None, "fold1", batch_size=4), 0)
    monkeypatch.setattr("loaders.kept.open_image", None)
    assert_equal(epochs_of(opened(shards_set, kept, "fold1", batch_size=4), 0), expected)
    assert kept.num_images == 51
    monkeypatch.undo()
    epochs_of(opened(shards_set, kept, "val", train=False), 0)
    assert kept.num_images == 51 + 21

    shutil.copytree(tree / "train", tmp_path / "dtd" / "images")
    (tmp_path / "dtd" / "labels").mkdir()
    names = [f"{name}/{name}_{index}.JPEG" for name in ("astronaut", "cat", "coffee") for index in range(17)]
    for fold in range(1, 4):
        parts = {"train": names[fold::3], "val": names[fold - 1 :: 3], "test": names[(fold + 1) % 3 :: 3]}
        for split, some in parts.items():
            (tmp_path / "dtd" / "labels" / f"{split}{fold}.txt").write_text("\n".join(some))
    monkeypatch.chdir(tmp_path)
    folds, seen = KeptPixels(AMPLE), reads(monkeypatch)
    for fold in range(1, 4):
        for split in ("train", "val", "test"):
            path = tmp_path / "dtd" if fold % 2 else Path("dtd")
            epochs_of(opened(path, folds, f"{split}{fold}", train=split == "train", batch_size=4), 0)
    assert folds.num_images == len(seen) == len(names)


@pytest.mark.parametrize("decoder", ["native", "reference"])
@pytest.mark.parametrize("store", ["tree", "shards_set"])
def test_what_does_not_fit_is_decoded_each_time(store: str, decoder: str, request: pytest.FixtureRequest) -> None:
    needed(decoder)
    path: Path = request.getfixturevalue(store)
    sizes = pixel_bytes(path)
    expected = epochs_of(opened(path, None, decoder=decoder), 0, 1)
    for limit in (1, min(sizes), sum(sizes) // 2, sum(sizes) - 1):
        kept = KeptPixels(limit)
        assert_equal(epochs_of(opened(path, kept, decoder=decoder), 0, 1), expected)
        assert kept.num_bytes == sum(each.nbytes for each in kept._pixels.values()) <= limit
        if limit >= min(sizes):
            assert limit - kept.num_bytes < max(sizes), "full but for what the largest would need"
            assert 0 < kept.num_images < 51


@pytest.mark.parametrize("decoder", ["native", "reference"])
def test_broken_images_are_replaced_and_named_as_without(tree: Path, tmp_path: Path, decoder: str) -> None:
    needed(decoder)
    copy = shutil.copytree(tree, tmp_path / "copy")
    cut, empty, spoilt = (copy / "train" / "cat" / f"cat_{place}.JPEG" for place in (3, 7, 11))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    empty.write_bytes(b"")
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)  # libjpeg goes on behind it
    spoilt.write_bytes(data)
    kept = KeptPixels(AMPLE)
    with (
        opened(copy, kept, decoder=decoder, max_bad=0.1) as with_,
        opened(copy, None, decoder=decoder, max_bad=0.1) as without,
    ):
        for epoch in (0, 1):
            assert_equal(list(with_.epoch(epoch)), list(without.epoch(epoch)))
        assert with_.bad == without.bad
        assert {cut.name, empty.name} <= {Path(key).name for key in with_.bad}
    assert kept.num_bytes == sum(each.nbytes for each in kept._pixels.values()), "nothing is left of what failed"
    with pytest.raises(SampleError, match=r"cat_(3|7)\.JPEG"):
        epochs_of(opened(copy, KeptPixels(AMPLE), decoder=decoder), 0)


def test_a_checksum_is_held_before_an_image_is_kept(shards_set: Path, tmp_path: Path) -> None:
    """And an image that nobody held to it is not handed to who asks for that."""
    copy = copy_of(shards_set, tmp_path / "copy")
    store = open_store(copy, "train")
    place = store.offset(20) + len(store.read(20)) // 2  # type: ignore[attr-defined]
    with (copy / store.key(20).partition(":")[0]).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 0x10]))
    kept = KeptPixels(AMPLE)
    epochs_of(opened(copy, kept), 0)
    assert kept.num_images == 51
    lenient = opened(copy, kept, verify=True, max_bad=0.05)
    epochs_of(lenient, 0, 1)
    assert list(lenient.bad) == [store.key(20)]
    with pytest.raises(SampleError, match="its CRC-32"):
        epochs_of(opened(copy, kept, verify=True), 0)


def test_a_shard_that_is_cut_is_named_unless_its_images_are_kept(
    shards_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.mapped._LOOK_S", 0.0)
    copy = copy_of(shards_set, tmp_path / "copy")
    kept = KeptPixels(AMPLE)
    whole = opened(copy, kept)
    before = list(whole.epoch(1))
    fresh = opened(copy, KeptPixels(AMPLE))
    os.truncate(copy / "train-000001.tar", 20_000)
    assert_equal(list(whole.epoch(1)), before)
    whole.close()
    with pytest.raises(SampleError, match=r"train-000001\.tar.*was cut meanwhile"):
        epochs_of(fresh, 1)


def test_loaders_in_many_threads_keep_each_image_once(tree: Path) -> None:
    """Of one set at once, switching as often as Python allows."""
    expected = {seed: epochs_of(opened(tree, None, seed=seed), 0, 1) for seed in range(3)}
    before, switching = threading.active_count(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for limit in (AMPLE, sum(pixel_bytes(tree)) // 2):
            kept = KeptPixels(limit)
            loaders = [opened(tree, kept, seed=place % 3) for place in range(6)]
            with ThreadPoolExecutor(6) as pool:
                found = list(pool.map(lambda loader: epochs_of(loader, 0, 1), loaders))
            for place, batches in enumerate(found):
                assert_equal(batches, expected[place % 3])
            assert kept.num_bytes == sum(each.nbytes for each in kept._pixels.values()) <= limit
            assert not kept._reserved
    finally:
        sys.setswitchinterval(switching)
    assert threading.active_count() == before


def test_room_is_counted_before_an_image_is_decoded() -> None:
    kept, one, other = KeptPixels(100), ("a", 0, False), ("b", 0, False)
    assert kept.reserve(one, 60)
    assert kept.reserve(one, 60) is None, "another thread is at it"
    assert kept.reserve(other, 41) is False
    assert kept.num_bytes == 60
    kept.give_up(one)
    assert kept.num_bytes == 0
    assert kept.reserve(other, 36)
    with pytest.raises(ValueError, match="48 bytes where 36 were reserved"):
        kept.put(other, np.zeros((4, 4, 3), dtype=np.uint8))
    pixels = np.zeros((3, 4, 3), dtype=np.uint8)
    kept.put(other, pixels)
    assert kept.get(other) is pixels
    assert kept.reserve(other, 36) is None
    assert (kept.num_images, kept.num_bytes) == (1, 36)


def test_kept_images_outlive_the_loader_that_decoded_them_and_no_one_else(tree: Path) -> None:
    kept = KeptPixels(AMPLE)
    first = opened(tree, kept)
    list(first.epoch(0))
    first.close()
    with pytest.raises(InputError, match="this loader was closed"):
        first.epoch(1)
    assert_equal(epochs_of(opened(tree, kept), 1), epochs_of(opened(tree, None), 1))
    gone = weakref.ref(kept)
    del kept, first
    assert gone() is None


def test_decoders_with_pixels_of_their_own_keep_none(tree: Path) -> None:
    needed("ffcv")
    kept = KeptPixels(AMPLE)
    given = {"decoder": "ffcv", "crops": CropPolicy(interpolation="area")}
    loader = opened(tree, kept, **given)
    assert "decoded images are not kept, as ffcv makes pixels of its own" in loader.choice
    assert_equal(epochs_of(loader, 0), epochs_of(opened(tree, None, **given), 0))
    assert not kept.num_images


def test_the_default_is_a_third_of_the_memory_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.kept.usable_memory", lambda: 24 * 2**30)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    automatic = kept_pixels(None)
    assert automatic is not None
    assert automatic.limit_bytes == 2 * 2**30
    given = kept_pixels(1.5)
    assert given is not None
    assert given.limit_bytes == 1_500_000_000
    assert kept_pixels(0) is None
    for wrong in (-1.0, float("nan")):
        with pytest.raises(InputError, match="keep_gb"):
            kept_pixels(wrong)
    with pytest.raises(InputError, match="0 bytes"):
        KeptPixels(0)
