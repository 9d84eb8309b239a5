"""DALI's decoder on its CPU backend, and shared with the native one: held to Pillow, and to losing nothing."""

from __future__ import annotations

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_native import PHOTOGRAPHS, SAMPLINGS, by_pillow, jpeg, random_box
from test_reference import ODD

from loaders import CropPolicy, InputError, dali_graph, open_loader
from loaders.dali import DaliDecoder
from loaders.native.decoder import NativeDecoder
from loaders.reference import ReferenceDecoder
from loaders.sharing import Shares

if dali_graph.why_missing():
    pytest.skip(str(dali_graph.why_missing()), allow_module_level=True)

WHOLE = [
    jpeg(PHOTOGRAPHS[place % 4], SAMPLINGS[place % 6], 60 + place, progressive=place % 3 == 0) for place in range(24)
]
# Its header says what it is, and it has an end; but not the tables that its pixels need.
EMPTY = WHOLE[1][: WHOLE[1].index(b"\xff\xc4")] + b"\xff\xd9"
# Cut too, with a thumbnail in its header that has an end of its own.
THUMBED = WHOLE[0][:2] + b"\xff\xe1" + (len(WHOLE[1]) + 2).to_bytes(2, "big") + WHOLE[1] + WHOLE[0][2:-2]
assert len(WHOLE[1]) < 65_000


def boxes_of(data: list[bytes], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes, _ = ReferenceDecoder().sizes(data)
    return np.stack([random_box(rng, *size) for size in sizes]), rng.random(len(data)) < 0.5


def decode(decoder: DaliDecoder | NativeDecoder, data: list[bytes], size: int = 64, seed: int = 0) -> np.ndarray:
    out = np.zeros((len(data), size, size, 3), dtype=np.uint8)
    assert not decoder.decode(data, *boxes_of(data, seed), out)
    return out


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_what_is_not_resized_is_pillows_bit_for_bit(interpolation: str) -> None:
    """Its decode of a region, and its mirror: whatever the subsampling, from any row and column on."""
    decoder, rng = DaliDecoder(interpolation, 2), np.random.default_rng(1)
    for side in (1, 17, 150):
        sizes, _ = decoder.sizes(WHOLE)
        corners = rng.integers(0, sizes - side + 1)
        boxes = np.concatenate([corners, np.full_like(corners, side)], axis=1)
        flips = rng.random(len(WHOLE)) < 0.5
        out = np.zeros((len(WHOLE), side, side, 3), dtype=np.uint8)
        assert not decoder.decode(WHOLE, boxes, flips, out)
        for data, box, flip, pixels in zip(WHOLE, boxes, flips, out, strict=True):
            np.testing.assert_array_equal(pixels, by_pillow(data, box, flip, side, interpolation))
    decoder.close()


@pytest.mark.parametrize(("size", "mean", "most"), [(16, 0.45, 24), (96, 0.2, 16), (224, 0.16, 12)])
def test_its_resize_is_near_pillows(size: int, mean: float, most: int) -> None:
    """As near as the README says: nearer, the less an image is made smaller."""
    for interpolation in ("bilinear", "bicubic"):
        decoder = DaliDecoder(interpolation, 2)
        boxes, flips = boxes_of(WHOLE)
        differences = [
            np.abs(pixels.astype(int) - by_pillow(data, box, flip, size, interpolation))
            for data, box, flip, pixels in zip(WHOLE, boxes, flips, decode(decoder, WHOLE, size), strict=True)
        ]
        assert np.mean(differences) <= mean
        assert np.max(differences) <= most
        decoder.close()


def test_the_size_of_the_output_may_change_with_every_call() -> None:
    decoder = DaliDecoder("bilinear", 2)
    for size in (96, 32, 224, 96):
        assert np.abs(decode(decoder, WHOLE, size).astype(int) - decode(NativeDecoder(), WHOLE, size)).mean() < 0.3
    decoder.close()


def test_orientation_is_ignored_and_odd_images_are_the_references() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    file = io.BytesIO()
    Image.fromarray(PHOTOGRAPHS[1][:96, :128]).save(file, "JPEG", exif=exif)
    data = [file.getvalue(), *ODD.values()]
    decoder, reference = DaliDecoder("bilinear", 2), ReferenceDecoder("bilinear")
    sizes, failures = decoder.sizes(data)
    assert not failures
    np.testing.assert_array_equal(sizes, reference.sizes(data)[0])
    np.testing.assert_array_equal(sizes[0], (96, 128))
    boxes, outs = np.concatenate([0 * sizes, sizes], axis=1), np.zeros((2, len(data), 40, 40, 3), dtype=np.uint8)
    for each, out in zip((decoder, reference), outs, strict=True):
        assert not each.decode(data, boxes, np.zeros(len(data), dtype=bool), out)
    assert np.abs(outs[0].astype(int) - outs[1]).max() <= 24
    no_jpegs = [place for place, image in enumerate(data) if not image.startswith(b"\xff\xd8")]
    assert len(no_jpegs) >= 3
    np.testing.assert_array_equal(outs[0][no_jpegs], outs[1][no_jpegs])
    decoder.close()


def test_damage_fails_its_samples_as_in_the_reference_and_no_other() -> None:
    """Also a cut below the box, which DALI takes for whole, and what only DALI itself finds out."""
    data = [WHOLE[2], WHOLE[0][:-2], EMPTY, WHOLE[0][: len(WHOLE[0]) // 2], b"", WHOLE[3], bytes(80), WHOLE[4], THUMBED]
    decoder, reference = DaliDecoder("bilinear", 2), ReferenceDecoder("bilinear")
    boxes, flips = np.tile(np.array([[0, 0, 150, 200]]), (len(data), 1)), np.zeros(len(data), dtype=bool)
    outs = np.zeros((2, len(data), 32, 32, 3), dtype=np.uint8)
    failed = [each.decode(data, boxes, flips, out) for each, out in zip((decoder, reference), outs, strict=True)]
    assert failed[0] == failed[1]
    assert set(failed[0]) == {1, 2, 3, 4, 6, 8}
    assert not outs[0][list(failed[0])].any(), "nothing is written of what failed"
    assert np.abs(outs[0].astype(int) - outs[1]).max() <= 24
    decoder.close()


@pytest.mark.parametrize("places", [(0,), (11,), (23,), (3, 4, 20)])
def test_what_dali_alone_fails_at_is_delivered_too(places: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of its batch has the pixels that it would have had; and the batch is halved to find it."""
    decoder = DaliDecoder("bilinear", 2)
    right = decode(decoder, WHOLE)
    run, build = dali_graph.Graph._run, dali_graph.Graph.defined
    built: list[object] = []

    def some_fail(graph: dali_graph.Graph, jpegs: list[np.ndarray], *rest: Any) -> object:
        if any(np.array_equal(jpeg, np.frombuffer(WHOLE[place], np.uint8)) for jpeg in jpegs for place in places):
            raise RuntimeError("nvJPEG does not support this")
        return run(graph, jpegs, *rest)

    monkeypatch.setattr(dali_graph.Graph, "_run", some_fail)
    monkeypatch.setattr(dali_graph.Graph, "defined", lambda graph: built.append(graph) or build(graph))
    found = decode(decoder, WHOLE)
    boxes, flips = boxes_of(WHOLE)
    for place in range(len(WHOLE)):
        by_other = by_pillow(WHOLE[place], boxes[place], flips[place], 64, "bilinear")
        np.testing.assert_array_equal(found[place], by_other if place in places else right[place])
    assert len(built) <= 6 * len(places)
    decoder.close()


def test_dali_that_fails_at_everything_is_an_error_and_not_a_slow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Critical error when building pipeline:\nError in MIXED operator\n\nno memory is left\nat")

    decoder = DaliDecoder("bilinear", 2)
    monkeypatch.setattr(dali_graph.Graph, "_run", fails)
    with pytest.raises(InputError, match=r"DALI fails at any image \(no memory is left\): take decoder native"):
        decode(decoder, WHOLE)
    decoder.close()


def test_no_batch_is_given_what_another_one_left_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, flips, seen = DaliDecoder("bilinear", 2), np.zeros(8, dtype=bool), []
    boxes, out = np.tile(np.array([[0, 0, 150, 200]]), (8, 1)), np.zeros((8, 32, 32, 3), dtype=np.uint8)
    defined = dali_graph.Graph.defined

    def fails_once(graph: dali_graph.Graph) -> Any:
        pipeline = defined(graph)
        feed = pipeline.feed_input

        def feed_input(name: str, values: object) -> None:
            feed(name, values)
            if name == "starts" and not seen:
                seen.append(name)
                raise MemoryError

        pipeline.feed_input = feed_input
        return pipeline

    monkeypatch.setattr(dali_graph.Graph, "defined", fails_once)
    with pytest.raises(MemoryError):
        decoder.decode(WHOLE[:8], boxes, flips, out)
    assert not decoder.decode(WHOLE[8:16], boxes, flips, out)
    for data, pixels in zip(WHOLE[8:16], out, strict=True):
        assert np.abs(pixels.astype(int) - by_pillow(data, boxes[0], False, 32, "bilinear")).max() <= 24
    decoder.close()


def test_a_box_of_any_numbers_is_no_other_box() -> None:
    decoder, out = DaliDecoder("bilinear", 1), np.zeros((1, 8, 8, 3), dtype=np.uint8)
    assert set(decoder.decode([WHOLE[0]], np.array([[0, 0, (1 << 32) + 20, 20]]), np.zeros(1, dtype=bool), out)) == {0}
    decoder.close()


@pytest.mark.parametrize("shares", [False, True])
def test_several_boxes_of_an_image_are_as_each_by_itself(shares: bool) -> None:
    decoder, counts, rng = DaliDecoder("bilinear", 2, shares=shares), np.array([3, 1, 2]), np.random.default_rng(0)
    data = [WHOLE[0], ODD["png"], WHOLE[1]]
    owners = np.repeat(np.arange(3), counts)
    sizes, _ = decoder.sizes(data)
    boxes, flips = np.stack([random_box(rng, *sizes[owner]) for owner in owners]), rng.random(6) < 0.5
    out = np.zeros((6, 48, 48, 3), dtype=np.uint8)
    assert not decoder.decode(data, boxes, flips, out, counts)
    for owner, box, flip, pixels in zip(owners, boxes, flips, out, strict=True):
        right = by_pillow(data[owner], box, flip, 48, "bilinear")
        assert np.abs(pixels.astype(int) - right).mean() < 0.5
    decoder.close()


def test_many_threads_may_decode_at_once() -> None:
    decoder = DaliDecoder("bilinear", 2)
    right = [decode(decoder, WHOLE, 40, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: decode(decoder, WHOLE, 40, seed % 4), range(16)))
    for seed, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, right[seed % 4])
    decoder.close()
    with pytest.raises(ValueError, match="was closed"):
        decode(decoder, WHOLE)


def test_memory_does_not_grow_with_the_calls() -> None:
    decoder = DaliDecoder("bilinear", 2)

    def resident() -> int:
        for number in range(20):
            decode(decoder, WHOLE[: 12 + number % 12], 64, number)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    resident()
    before = resident()
    assert resident() - before < 16 * 2**20
    decoder.close()


def test_a_shared_batch_is_whole_and_each_image_one_of_the_twos() -> None:
    both, dali, native = (
        DaliDecoder("bilinear", 2, shares=True),
        DaliDecoder("bilinear", 2),
        NativeDecoder("bilinear", 2),
    )
    data = [*WHOLE, ODD["png"]]
    for seed in range(6):
        by_dali, by_native = decode(dali, data, 40, seed), decode(native, data, 40, seed)
        for place, pixels in enumerate(decode(both, data, 40, seed)):
            assert any(np.array_equal(pixels, other[place]) for other in (by_dali, by_native)), place
    shares = both.shares()
    assert set(shares) == {"dali", "native"}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0.04
    assert both.name == "dali+native"
    assert not dali.shares()
    for decoder in (both, dali, native):
        decoder.close()


def test_shares_follow_the_rates_and_never_reach_all_or_nothing() -> None:
    shares = Shares()
    assert shares.first(64) == 32
    for _ in range(60):
        mine = shares.first(64)
        shares.measured((mine, mine / 3000), (64 - mine, (64 - mine) / 1000))
    assert shares.first(64) == 48
    for _ in range(200):
        mine = shares.first(64)
        shares.measured((mine, mine / 1e9), (64 - mine, (64 - mine) / 10))
    assert shares.first(64) == 63
    assert [shares.first(count) for count in (0, 1, 2)] == [0, 1, 1]
    assert 0.8 < shares.taken < 1


def test_the_share_of_each_is_told(tree: Path) -> None:
    loader = open_loader(tree, "train", 17, train=True, size=32, decoder="dali+native", num_threads=1)
    assert ", decoder dali+native, " in loader.choice
    images = sum(int(batch.valid.sum()) for batch in loader.epoch(0))
    assert images == 51
    assert 0 < loader.shares()["dali"] < 1
    loader.close()


def test_what_cannot_work_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dali", "dali+native"):
        with pytest.raises(InputError, match=f"decoder {re.escape(name)} cannot resize by 'area'"):
            open_loader(tree, "train", 8, train=True, decoder=name, crops=CropPolicy(interpolation="area"))
    monkeypatch.setattr("loaders.dali.why_missing", lambda: "DALI cannot be used (no)")
    with pytest.raises(InputError, match=r"DALI cannot be used \(no\)\."):
        open_loader(tree, "train", 8, train=True, decoder="dali")


def test_the_cards_graph_has_arguments_that_dali_knows() -> None:
    """As far as that can be seen without a card: DALI checks names and types when operators are defined."""
    decoder = DaliDecoder("bicubic", 4, card=0, largest=(500, 400), hardware=0.9)
    with decoder._graphs.one() as graph:
        assert graph.defined() is not None
        graph._on_card = {"hardware_load": 0.9}
        with pytest.raises(KeyError, match="hardware_load"):
            graph.defined()
    assert decoder.on_device
    decoder.close()
