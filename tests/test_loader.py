"""The loader's contract: what it delivers depends on the sample alone, and what goes wrong reaches the consumer."""

from __future__ import annotations

import gc
import io
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from loaders import Batch, InputError, Loader, SampleError, draws, open_loader, open_store
from loaders.augment import IMAGENET_MEAN, IMAGENET_STD, Augment, Mix, RandAugment
from loaders.crops import CropPolicy
from loaders.tree import TreeStore
from loaders.types import HostDecoder

GUIDE = Augment(policy=RandAugment(num_ops=2, magnitude=9), mix=Mix(mixup_alpha=0.2, cutmix_alpha=1.0, group=4))


def batches(tree: Path, batch_size: int, epoch: int = 0, start: int = 0, **options: object) -> list[Batch]:
    loader = open_loader(
        tree, **({"split": "train", "train": True, "size": 48, "seed": 5} | options), batch_size=batch_size
    )
    try:
        return list(loader.epoch(epoch, start))
    finally:
        loader.close()


def assert_equal(one: Batch, other: Batch) -> None:
    for name in Batch._fields:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def by_pillow(path: str, uniforms: np.ndarray, mirrored: bool) -> np.ndarray:
    """A crop of 48 x 48 pixels by the draws."""
    with Image.open(path) as image:
        size = np.array([image.height]), np.array([image.width])
        top, left, height, width = draws.random_resized_crop(uniforms[None], *size)[0]
        crop = image.crop((left, top, left + width, top + height)).resize((48, 48), Image.Resampling.BILINEAR)
    pixels = np.asarray(crop)
    return pixels[:, ::-1] if mirrored else pixels


def test_pixels_are_pillows_at_the_boxes_of_the_draws(tree: Path) -> None:
    store = open_store(tree, "train")
    seen = []
    for batch in batches(tree, 16, epoch=2):
        ids = batch.ids.numpy()
        assert batch.images.shape == (16, 48, 48, 3)
        assert batch.images.dtype == torch.uint8
        mirrored = draws.flips(5, 2, ids, 0.5)
        uniforms = draws.crop_uniforms(5, 2, ids)
        for place, sample in enumerate(ids):
            expected = by_pillow(store.key(int(sample)), uniforms[place], mirrored[place])
            np.testing.assert_array_equal(batch.images[place].numpy(), expected)
            assert batch.labels[place] == store.labels[sample]
        seen += ids[batch.valid.numpy()].tolist()
    assert sorted(seen) == list(range(51))


def test_labels_are_mixed_as_the_images_are(tree: Path) -> None:
    """By the draws, and by the pixels: here every image shows nothing but its label."""
    mixing = Mix(mixup_alpha=0.8, probability=0.7, group=4)
    store, mixed, unmixed = open_store(tree, "train"), 0, 0
    for batch in batches(tree, 16, epoch=2, augment=Augment(mix=mixing)):
        ids = batch.ids.numpy()
        labels, draw = store.labels[ids], mixing.draw(5, 2, ids, 48)
        np.testing.assert_array_equal(batch.labels.numpy(), labels)
        np.testing.assert_array_equal(batch.weight.numpy(), draw.weight)
        np.testing.assert_array_equal(batch.partner.numpy(), np.where(draw.weight == 1, labels, labels[draw.partner]))
        shown = mixing(batch.labels.double().view(-1, 1, 1, 1).expand(-1, 3, 48, 48), draw).mean(dim=(1, 2, 3))
        expected = batch.weight * batch.labels + (1 - batch.weight) * batch.partner
        torch.testing.assert_close(shown, expected.double(), rtol=0, atol=1e-5)
        mixed += int((batch.partner != batch.labels).sum())
        unmixed += int(((draw.weight == 1) & (labels[draw.partner] != labels)).sum())
    assert min(mixed, unmixed) > 5


def test_evaluation_scores_every_sample_once_with_torchvisions_normalisation(tree: Path) -> None:
    got = joined(batches(tree, 8, split="val", train=False, augment=Augment()))
    assert got.valid.sum() == 21
    assert got.ids[got.valid].tolist() == list(range(21))
    assert torch.equal(got.labels, got.partner)
    assert (got.weight == 1).all()
    with Image.open(open_store(tree, "val").key(4)) as image:
        top, left, height, width = CropPolicy().boxes(
            0, 0, np.zeros(1, np.int64), np.array([[image.height, image.width]]), train=False
        )[0]
        pixels = image.crop((left, top, left + width, top + height)).resize((48, 48), Image.Resampling.BILINEAR)
    normalise = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    torch.testing.assert_close(got.images[4], normalise(pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("threads", [1, 3])
def test_ranks_and_threads_make_the_same_global_batches(tree: Path, world_size: int, threads: int) -> None:
    whole = batches(tree, 16, augment=GUIDE, num_threads=2)
    parts = [
        batches(
            tree, 16 // world_size, augment=GUIDE, num_threads=threads, rank=rank, world_size=world_size, look_ahead=1
        )
        for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        assert_equal(joined([part[step] for part in parts]), batch)
    assert whole[0].images.is_contiguous(memory_format=torch.channels_last)
    assert (whole[0].weight < 1).any()


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_goes_on_at_any_batch(tree: Path, start: int) -> None:
    whole, rest = batches(tree, 16, epoch=1, augment=GUIDE), batches(tree, 16, epoch=1, start=start, augment=GUIDE)
    assert len(rest) == len(whole) - start
    for one, other in zip(rest, whole[start:], strict=True):
        assert_equal(one, other)


def broken(tree: Path, to: Path, content: bytes) -> Path:
    copy = shutil.copytree(tree, to)
    (copy / "train" / "cat" / "cat_7.JPEG").write_bytes(content)
    return copy


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_a_broken_sample_reaches_the_consumer_by_name(tree: Path, tmp_path: Path, content: bytes) -> None:
    copy = broken(tree, tmp_path / "copy", content)
    before = threading.active_count()
    with pytest.raises(SampleError, match=r"cat_7\.JPEG") as caught:
        batches(copy, 16)
    assert caught.value.key == str(copy / "train" / "cat" / "cat_7.JPEG")
    assert threading.active_count() == before


def test_a_decompression_bomb_is_refused_by_its_header(tree: Path, tmp_path: Path) -> None:
    header = io.BytesIO()
    Image.new("1", (60_000, 2_000)).save(header, "PNG")
    with pytest.raises(SampleError, match="60000 x 2000"):
        batches(broken(tree, tmp_path / "copy", header.getvalue()), 16)


class Slow(HostDecoder):
    """A decoder that takes its time, and counts what it decodes."""

    name = "slow"

    def __init__(self) -> None:
        self.decoded = 0

    def sizes(self, data: list[bytes]) -> tuple[np.ndarray, dict[int, str]]:
        return np.full((len(data), 2), 64), {}

    def decode(
        self, data: list[bytes], _boxes: np.ndarray, _flips: np.ndarray, out: np.ndarray, _counts: np.ndarray
    ) -> dict[int, str]:
        time.sleep(0.002)
        self.decoded += len(data)
        out[:] = 0
        return {}

    def close(self) -> None:
        pass


def slow_loader(tree: Path, monkeypatch: pytest.MonkeyPatch, look_ahead: int) -> tuple[Slow, Loader]:
    slow = Slow()
    monkeypatch.setattr("loaders.opening.make_decoder", lambda *_: slow)
    return slow, open_loader(tree, "train", 4, train=True, look_ahead=look_ahead, num_threads=2)


def test_work_ahead_is_bounded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, loader = slow_loader(tree, monkeypatch, look_ahead=2)
    epoch = loader.epoch(0)
    next(epoch)
    time.sleep(0.5)
    # One delivered, one waiting, one held by the thread, and two being decoded ahead of it.
    assert slow.decoded <= 4 * (1 + 1 + 1 + 2)
    epoch.close()
    loader.close()


def test_dropped_iterators_leave_no_threads(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, loader = slow_loader(tree, monkeypatch, look_ahead=3)
    others = 2 + 2  # that read, and that take a batch each, whatever the number of iterators
    started = threading.active_count()
    for epoch in range(50):
        next(loader.epoch(epoch))
    gc.collect()
    deadline = time.monotonic() + 20  # collection asks them to end, and does not wait
    while threading.active_count() > started + others and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= started + others
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("twistnet")]


def test_memory_is_used_again_once_nobody_holds_it(tree: Path) -> None:
    """And not before: neither that of a batch, nor of a view of it, in torch or in numpy."""
    loader = open_loader(tree, "train", 4, train=True, size=16, num_threads=1)
    held = [batch.images for batch in loader.epoch(0)]
    copies = [images.clone() for images in held]
    views = [held.pop()[1:, :2], held.pop().numpy()[0], *held]
    del held
    pointers = set()
    for epoch in range(1, 4):
        for batch in loader.epoch(epoch):
            pointers.add(batch.images.data_ptr())
            del batch
    assert len(pointers) < 30, "of 39 batches"
    expected = [copies[-1][1:, :2], copies[-2].numpy()[0], *copies[:-2]]
    assert all(np.array_equal(np.asarray(view), np.asarray(copy)) for view, copy in zip(views, expected, strict=True))
    loader.close()


def test_the_store_is_told_what_comes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = open_loader(tree, "train", 8, train=True, size=32, num_threads=1)
    told: list[list[int]] = []
    monkeypatch.setattr(TreeStore, "hint", lambda _, samples: told.append(list(samples)))
    read, early = TreeStore.read, list[bool]()
    monkeypatch.setattr(
        TreeStore,
        "read",
        lambda self, sample: (early.append(any(sample in ids for ids in told)), read(self, sample))[1],
    )
    ids = [batch.ids.tolist() for batch in loader.epoch(2)]
    loader.close()
    assert told == ids
    assert len(early) == 8 * len(loader)
    assert all(early), "before it is asked for"


def test_an_iterator_may_be_collected_on_a_thread_of_its_own_loader(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, loader = slow_loader(tree, monkeypatch, look_ahead=3)
    epochs = [loader.epoch(0)]
    next(epochs[0])
    decode = slow.decode

    def drop_and_decode(*args: Any) -> dict[int, str]:
        epochs.clear()  # the last reference: finalised here, on a decoding thread
        return decode(*args)

    monkeypatch.setattr(slow, "decode", drop_and_decode)
    assert len(list(loader.epoch(1))) == len(loader)
    assert not epochs
    loader.close()


def test_a_closed_loader_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, loader = slow_loader(tree, monkeypatch, look_ahead=3)
    epoch = loader.epoch(0)
    next(epoch)
    loader.close()
    for _ in range(2):
        with pytest.raises(InputError, match="this loader was closed"):
            next(epoch)
    with pytest.raises(InputError, match="this loader was closed"):
        loader.epoch(1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("twistnet")]


def test_closing_wakes_a_consumer_that_waits(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, loader = slow_loader(tree, monkeypatch, look_ahead=3)
    decode, released = slow.decode, threading.Event()

    def held(*args: Any) -> dict[int, str]:
        released.wait(20)
        return decode(*args)

    monkeypatch.setattr(slow, "decode", held)
    epoch, errors = loader.epoch(0), list[str]()

    def consume() -> None:
        try:
            next(epoch)
        except InputError as error:
            errors.append(str(error))

    consumer = threading.Thread(target=consume)
    consumer.start()
    closing = threading.Thread(target=loader.close)
    closing.start()
    time.sleep(0.05)
    released.set()
    consumer.join(20)
    closing.join(20)
    assert errors == ["this loader was closed: open a new one."]
    assert not closing.is_alive()


def test_every_stage_is_timed(tree: Path) -> None:
    loader = open_loader(tree, "train", 16, train=True, size=48, augment=GUIDE)
    list(loader.epoch(0))
    loader.close()
    assert set(loader.seconds()) == {"read", "decode", "buffer", "upload", "augment", "wait"}
    assert all(seconds > 0 for seconds in loader.seconds().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"size": 0}, "size 0"),
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"decoder": "nvjpeg"}, "'nvjpeg'"),
        ({"num_threads": 0}, "num_threads 0"),
        ({"look_ahead": 0}, "look_ahead 0"),
        ({"shuffle": "quasi"}, "'quasi'"),
        ({"batch_size": 6, "augment": GUIDE}, "multiple of 4: take 4"),
    ],
)
def test_impossible_settings_are_refused_before_any_thread_starts(
    tree: Path, options: dict[str, object], message: str
) -> None:
    before = len(os.listdir("/proc/self/task"))  # the library's threads too
    with pytest.raises(InputError, match=message) as held:
        open_loader(tree, "train", **({"batch_size": 8, "train": True} | options))
    assert len(os.listdir("/proc/self/task")) == before, held


@pytest.mark.parametrize("ranks", ["0", "two", ""])
def test_an_impossible_number_of_ranks_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch, ranks: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    with pytest.raises(InputError, match=f"LOCAL_WORLD_SIZE is '{ranks}'"):
        open_loader(tree, "train", 8, train=True)


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "device 'gpu' is unknown"), ("cuda:99", "device 'cuda:99' is not there")]
)
def test_a_device_that_is_not_there_is_refused(tree: Path, device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_loader(tree, "train", 8, train=True, device=device)


def test_a_forked_process_is_told_to_open_its_own(tree: Path) -> None:
    """Threads are not copied: it would wait for ever."""
    with open_loader(tree, "train", 8, train=True, size=32) as loader:
        under_way = loader.epoch(0)
        next(under_way)
        told, tell = os.pipe()
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            assert os.read(told, 100) == b"22"
        else:
            for call in (lambda: next(under_way), lambda: loader.epoch(1)):
                try:
                    call()
                except InputError as error:
                    os.write(tell, b"2" if "before a fork" in str(error) else b"1")
            os._exit(0)


def test_a_with_statement_closes(tree: Path) -> None:
    before = set(threading.enumerate())
    with open_loader(tree, "train", 8, train=True, size=32) as loader:
        next(loader.epoch(0))
    assert not set(threading.enumerate()) - before
    with pytest.raises(InputError, match="was closed"):
        loader.epoch(0)


@pytest.mark.gpu
def test_batches_on_a_card_equal_those_on_the_cpu(tree: Path) -> None:
    on_cpu = batches(tree, 16, augment=GUIDE)
    for one, other in zip(batches(tree, 16, augment=GUIDE, device="cuda"), on_cpu, strict=True):
        assert one.images.is_cuda
        torch.testing.assert_close(one.images.cpu(), other.images, atol=0.05, rtol=0)
        for name in ("labels", "partner", "weight", "valid", "ids"):
            assert torch.equal(getattr(one, name).cpu(), getattr(other, name)), name
