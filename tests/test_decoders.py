"""What every decoder promises over every store, and how far its pixels are from the reference's."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_native import PHOTOGRAPHS, SAMPLINGS, jpeg, random_box
from test_reference import ODD

from loaders import Batch, InputError, dali_graph, draws, ffcv, open_loader, open_store
from loaders.choosing import make_decoder
from loaders.crops import CropPolicy
from loaders.native.library import why_missing
from loaders.reference import ReferenceDecoder

pytest_plugins = ("converted_sets",)

# Mean and largest difference from the reference decoder with the same resize, in levels of 255, as the README states.
LIMITS = {
    **{("native", "bilinear"): (0.0, 0), ("native", "bicubic"): (0.0, 0), ("ffcv", "area"): (1.0, 18)},
    **{("device", "bilinear"): (0.0, 0), ("device", "bicubic"): (0.0, 0)},
    **{("dali", "bilinear"): (0.3, 22), ("dali", "bicubic"): (0.3, 22)},
}
CASES = [*LIMITS, ("reference", "bilinear"), ("reference", "bicubic"), ("reference", "area")]
STORES = ("tree", "shards_set", "beton_set", "raw_beton")


def needed(decoder: str) -> None:
    name = decoder.partition("+")[0]
    missing = {"reference": str, "ffcv": ffcv.why_missing, "dali": dali_graph.why_missing}.get(name, why_missing)()
    if missing:
        pytest.skip(missing)


def epoch_of(path: Path, decoder: str, interpolation: str, *, start: int = 0, **options: object) -> list[Batch]:
    given = {"batch_size": 8, "size": 40, "seed": 3, "num_threads": 2} | options
    crops = CropPolicy(interpolation=interpolation)
    loader = open_loader(path, "train", train=True, decoder=decoder, crops=crops, **given)
    try:
        return list(loader.epoch(1, start))
    finally:
        loader.close()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(("decoder", "interpolation"), CASES)
def test_batches_are_the_references_whatever_decodes_what(
    store: str, decoder: str, interpolation: str, request: pytest.FixtureRequest
) -> None:
    """Samples, labels and their places; one sample once; pixels within the decoder's limits; from a later batch on
    and on 1, 2 and 4 ranks alike."""
    needed(decoder)
    path = request.getfixturevalue(store)
    whole = epoch_of(path, decoder, interpolation)
    reference = epoch_of(path, "reference", interpolation)
    mean, most = LIMITS.get((decoder, interpolation), (0.0, 0))
    differences = []
    for one, other in zip(whole, reference, strict=True):
        for name in ("labels", "partner", "weight", "valid", "ids"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        differences.append(np.abs(one.images.numpy().astype(int) - other.images.numpy()))
    assert np.mean(differences) <= mean
    assert np.max(differences) <= most
    ids = np.concatenate([batch.ids[batch.valid] for batch in whole])
    np.testing.assert_array_equal(np.sort(ids), np.arange(51))
    tail = epoch_of(path, decoder, interpolation, start=3)
    assert len(tail) == len(whole) - 3
    for one, other in zip(tail, whole[3:], strict=True):
        for name in Batch._fields:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for world_size, threads in ((2, 8), (4, 1)):
        share = 8 // world_size
        for rank in range(world_size):
            options = {"batch_size": share, "rank": rank, "world_size": world_size, "num_threads": threads}
            for mine, batch in zip(epoch_of(path, decoder, interpolation, **options), whole, strict=True):
                for name in Batch._fields:
                    part = getattr(batch, name)[rank * share : (rank + 1) * share]
                    np.testing.assert_array_equal(getattr(mine, name), part)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_ffcv_pixels_are_those_of_ffcvs_own_functions(sampling: str) -> None:
    """At the same boxes: its `imdecode`, its `resize_crop` and its flip, which is numpy's."""
    needed("ffcv")
    from ffcv.libffcv import imdecode, resize_crop

    rng = np.random.default_rng(SAMPLINGS.index(sampling))
    decoder = make_decoder("ffcv", "area", 2)
    images = [jpeg(PHOTOGRAPHS[place % 4][: 200 + 7 * place], sampling, 85) for place in range(12)]
    sizes, failures = decoder.sizes(images)
    assert not failures
    boxes, flips = np.stack([random_box(rng, *size) for size in sizes]), rng.random(len(images)) < 0.5
    for size in (16, 224):
        out = np.zeros((len(images), size, size, 3), dtype=np.uint8)
        assert not decoder.decode(images, boxes, flips, out)
        for data, (height, width), box, flip, pixels in zip(images, sizes, boxes, flips, out, strict=True):
            whole, expected = np.zeros((height, width, 3), np.uint8), np.zeros((size, size, 3), np.uint8)
            imdecode(np.frombuffer(data, np.uint8), whole, height, width, height, width)
            top, left, box_h, box_w = box
            resize_crop(whole, top, top + box_h, left, left + box_w, expected)
            np.testing.assert_array_equal(pixels, expected[:, ::-1] if flip else expected)
    decoder.close()


def test_what_ffcv_fails_at_is_never_another_images_pixels() -> None:
    """FFCV looks at no return code: the memory of the image before would be delivered under this one's label."""
    needed("ffcv")
    decoder, reference = make_decoder("ffcv", "area", 1), ReferenceDecoder("area")
    whole = jpeg(PHOTOGRAPHS[1][:90, :120], "420")
    data = [whole, whole[: len(whole) // 2], b"", *ODD.values(), whole, b"not an image"]
    sizes, failures = decoder.sizes(data)
    bad = {place for place, size in enumerate(data) if len(size) < 20}
    assert set(failures) == bad
    boxes, flips = np.concatenate([np.zeros_like(sizes), sizes], axis=1), np.zeros(len(data), dtype=bool)
    outs = np.zeros((2, len(data), 24, 24, 3), dtype=np.uint8)
    failed = [each.decode(data, boxes, flips, out) for each, out in zip((decoder, reference), outs, strict=True)]
    assert set(failed[0]) == set(failed[1]) == {1, *bad}
    assert failed[0][1] == failed[1][1]
    assert np.abs(outs[0].astype(int) - outs[1])[[place for place in range(len(data)) if place != 1]].max() <= 18
    decoder.close()


def test_several_boxes_of_an_image_are_as_each_by_itself_by_ffcv() -> None:
    needed("ffcv")
    decoder = make_decoder("ffcv", "area", 2)
    data = [jpeg(PHOTOGRAPHS[0], "420"), PHOTOGRAPHS[1], ODD["png"]]
    sizes, _ = decoder.sizes(data)
    counts, rng = np.array([3, 1, 2]), np.random.default_rng(0)
    owners = np.repeat(np.arange(3), counts)
    boxes, flips = np.stack([random_box(rng, *sizes[owner]) for owner in owners]), rng.random(6) < 0.5
    together, alone = np.zeros((2, 6, 32, 32, 3), dtype=np.uint8)
    assert not decoder.decode(data, boxes, flips, together, counts)
    for place, owner in enumerate(owners):
        one = slice(place, place + 1)
        assert not decoder.decode([data[owner]], boxes[one], flips[one], alone[one])
    np.testing.assert_array_equal(together, alone)
    boxes[3] = (*sizes[1], 1, 1)
    failures = decoder.decode(data, boxes, flips, alone, counts)
    assert list(failures) == [1]
    assert f"cannot resize its boxes [[{sizes[1][0]}, {sizes[1][1]}, 1, 1]]" in failures[1]
    np.testing.assert_array_equal(np.delete(alone, 3, axis=0), np.delete(together, 3, axis=0))
    decoder.close()


def test_area_is_opencvs_of_pillows_pixels() -> None:
    decoder, pixels = ReferenceDecoder("area"), PHOTOGRAPHS[2]
    out = np.zeros((1, 50, 50, 3), dtype=np.uint8)
    assert not decoder.decode([pixels], np.array([[10, 20, 200, 300]]), np.array([True]), out)
    expected = cv2.resize(pixels[10:210, 20:320], (50, 50), interpolation=cv2.INTER_AREA)[:, ::-1]
    np.testing.assert_array_equal(out[0], expected)


@pytest.mark.parametrize(("decoder", "interpolation"), [("ffcv", "bilinear"), ("native", "area")])
def test_a_decoder_that_cannot_resize_so_is_refused(tree: Path, decoder: str, interpolation: str) -> None:
    needed(decoder)
    with pytest.raises(InputError, match=f"decoder {decoder} cannot resize by '{interpolation}'"):
        epoch_of(tree, decoder, interpolation)


def choice(path: Path, **options: object) -> str:
    loader = open_loader(path, "train", 8, train=True, num_threads=1, **options)
    loader.close()
    return loader.choice


def test_the_choice_is_told_with_its_reason(
    tree: Path, shards_set: Path, beton_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choice(shards_set, store="shards", decoder="reference") == "store shards, decoder reference, 1 thread"
    assert choice(beton_set).startswith("store beton (the set's only form), ")
    area = functools.partial(choice, tree, crops=CropPolicy(interpolation="area"))
    if not ffcv.why_missing():
        assert area() == "store tree, decoder ffcv (the one that resizes by area), 1 thread"
    monkeypatch.setattr("loaders.choosing.why_missing", lambda: "it was not built")
    monkeypatch.setattr("loaders.ffcv.why_missing", lambda: "FFCV is not there")
    assert choice(tree) == "store tree, decoder reference (it was not built), 1 thread"
    assert area() == "store tree, decoder reference (FFCV is not there), 1 thread"


@pytest.mark.parametrize(
    ("store", "message"), [("tar", "'tar' is unknown"), ("shards", "is a tree"), ("beton", "is a tree")]
)
def test_a_store_that_is_not_there_is_refused(tree: Path, store: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_store(tree, "train", store)


def test_a_store_of_ones_own_has_no_form_to_choose(tree: Path) -> None:
    store = open_store(tree, "train")
    with open_loader(store, "train", 4, train=False) as loader:
        assert loader.store == "TreeStore"
    with pytest.raises(InputError, match="TreeStore is a store of your own: leave out store and stage"):
        open_loader(store, "train", 4, train=False, store="tree")


def test_a_tree_is_not_found_in_a_converted_set(shards_set: Path) -> None:
    with pytest.raises(InputError, match="no tree: take store"):
        open_store(shards_set, "train", "tree")
    with pytest.raises(InputError, match="no beton of split"):
        open_store(shards_set, "train", "beton")


def test_boxes_and_flips_are_the_pure_functions(tree: Path) -> None:
    """What a decoder is asked for, seen on its way."""
    loader = open_loader(tree, "train", 17, train=True, size=16, seed=9, num_threads=1)
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    decode = loader.plan.decoder.decode  # type: ignore[attr-defined]

    def seen(data: object, boxes: np.ndarray, flips: np.ndarray, *rest: object) -> object:
        asked.append((boxes, flips))
        return decode(data, boxes, flips, *rest)

    loader.plan.decoder.decode = seen  # type: ignore[attr-defined]
    ids = [batch.ids.numpy() for batch in loader.epoch(2)]
    store = open_store(tree, "train")
    loader.close()
    for sample_ids in ids:
        sizes, _ = ReferenceDecoder().sizes([store.read(int(sample)) for sample in sample_ids])
        uniforms = draws.crop_uniforms(9, 2, sample_ids)
        boxes = draws.random_resized_crop(uniforms, sizes[:, 0], sizes[:, 1])
        assert any(
            np.array_equal(boxes, found) and np.array_equal(draws.flips(9, 2, sample_ids, 0.5), mirrored)
            for found, mirrored in asked
        )
