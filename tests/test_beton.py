"""FFCV's file read by hand, against FFCV's own writer and loader, and what is refused where FFCV says nothing."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from converted_sets import as_ffcv_encodes, copy_of, entry, samples_of, write_beton, write_index, write_manifest
from PIL import Image

from loaders import InputError, open_store
from loaders.beton import open_beton, open_beton_split
from loaders.reference import ReferenceDecoder
from loaders.shards import open_shards

pytest_plugins = ("converted_sets",)

SIDE = 48
HEADER, FIELD, SAMPLE = 24, 1041, 24  # bytes


@pytest.fixture(scope="module")
def crops(tree: Path) -> list[tuple[np.ndarray, int]]:
    """Images of one size, which FFCV's plain decoder wants, with labels that skip a class."""
    return [
        (np.ascontiguousarray(sample.pixels[:SIDE, :SIDE]), 2 * sample.label) for sample in samples_of(tree, "val")[1]
    ]


@pytest.fixture(scope="module", params=["jpg", "raw", "raw label first"])
def written(
    request: pytest.FixtureRequest, crops: list[tuple[np.ndarray, int]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    mode, *label_first = request.param.split(" ", 1)
    file = tmp_path_factory.mktemp("written") / f"{mode}.beton"
    return write_beton(file, crops, mode, label_first=bool(label_first))


# In a process of its own: FFCV sets the number of torch's threads, and compiles for seconds.
FFCV_LOADS = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
for file in sys.argv[1:]:
    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    loader = Loader(
        file, batch_size=7, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines, os_cache=True,
        drop_last=False,
    )
    parts = [dict(zip(pipelines, [np.array(part) for part in batch])) for batch in loader]
    np.savez(file + ".npz", **{name: np.concatenate([part[name] for part in parts]) for name in pipelines})
"""


def test_it_holds_what_ffcvs_own_loader_finds(crops: list[tuple[np.ndarray, int]], tmp_path: Path) -> None:
    files = [write_beton(tmp_path / f"{mode}.beton", crops, mode) for mode in ("raw", "jpg")]
    done = subprocess.run(
        [sys.executable, "-c", FFCV_LOADS, *map(str, files)], capture_output=True, text=True, timeout=300
    )
    assert not done.returncode, done.stderr
    for file in files:
        store, found = open_beton(file), np.load(f"{file}.npz")
        assert len(store) == len(found["label"]) == len(crops)
        assert store.labels.tolist() == found["label"].ravel().tolist()
        out = np.zeros((len(store), SIDE, SIDE, 3), np.uint8)
        boxes = np.tile([0, 0, SIDE, SIDE], (len(store), 1))
        data = [store.read(i) for i in range(len(store))]
        assert not ReferenceDecoder().decode(data, boxes, np.zeros(len(store), bool), out)
        if file.stem == "raw":
            np.testing.assert_array_equal(out, found["image"])
        else:  # FFCV decodes with the fast DCT
            assert np.abs(out.astype(int) - found["image"]).mean() < 2


def test_it_reads_each_mode_and_either_order_of_fields(written: Path, crops: list[tuple[np.ndarray, int]]) -> None:
    store = open_beton(written)
    assert store.classes == ("0", "1", "2", "3", "4")
    assert store.labels.tolist() == [label for _, label in crops]
    for sample, (pixels, _) in enumerate(crops):
        data = store.read(sample)
        if written.stem == "raw":
            np.testing.assert_array_equal(data, pixels)
        else:
            assert isinstance(data, memoryview)
            assert Image.open(io.BytesIO(data)).size == (SIDE, SIDE)


def test_jpegs_are_the_bytes_that_ffcv_stored(tree: Path, beton_set: Path) -> None:
    store = open_beton(beton_set / "train.beton")
    for place, sample in enumerate(samples_of(tree, "train")[1]):
        assert store.read(place) == as_ffcv_encodes(sample).data


def test_several_writers_leave_the_samples_in_order(tmp_path: Path) -> None:
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    rows = [(np.full((900, 1000, 3), place, np.uint8), place) for place in range(12)]  # three a page of 8 MiB
    file = tmp_path / "train.beton"
    with contextlib.redirect_stderr(io.StringIO()):
        writer = DatasetWriter(str(file), {"image": RGBImageField("raw"), "label": IntField()}, num_workers=3)
        writer.from_indexed_dataset(rows, chunksize=2)
    store = open_beton(file)
    assert store.labels.tolist() == list(range(12))
    for place in range(12):
        assert (store.read(place) == place).all()


def test_a_fingerprint_is_that_of_content_and_order(crops: list[tuple[np.ndarray, int]], tmp_path: Path) -> None:
    first = open_beton(write_beton(tmp_path / "a.beton", crops, "raw"))
    assert open_beton(write_beton(tmp_path / "b.beton", crops, "raw")).fingerprint == first.fingerprint
    swapped = [*crops[:8], crops[9], crops[8], *crops[10:]]  # of one class and one size: the pixels tell
    relabelled = [(crops[0][0], 1), *crops[1:]]
    prints = {
        first.fingerprint,
        open_beton(tmp_path / "a.beton", ("a", "b", "c", "d", "e")).fingerprint,
        *(
            open_beton(write_beton(tmp_path / f"{mode}{place}.beton", rows, mode)).fingerprint
            for place, (rows, mode) in enumerate([(swapped, "raw"), (relabelled, "raw"), (crops, "jpg")])
        ),
    }
    assert len(prints) == 5


def altered(file: Path, to: Path, *patches: tuple[int, bytes]) -> Path:
    data = bytearray(file.read_bytes())
    for offset, patch in patches:
        data[offset : offset + len(patch)] = patch
    to.write_bytes(data)
    return to


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


METADATA = HEADER + 2 * FIELD
# Places in a beton of an image, then a label: the metadata of sample 3.
MODE, HEIGHT, POINTER, LABEL = (METADATA + 3 * SAMPLE + place for place in (0, 3, 5, 16))


@pytest.mark.parametrize(
    ("offset", "patch", "message"),
    [
        (0, b"\x63\0", r"has format 99 where a \.beton has 2"),
        (2, b"\x03\0", "has fields 'image' of kind image, 'label' of kind int, .* of kind"),
        (2, b"\xff\xff", "has [0-9,]+ bytes where its 65535 fields need 68,221,959"),
        (2, b"\0\0", "has fields none"),
        (HEADER, b"\x04", "has fields 'image' of kind array, 'label' of kind int"),
        (HEADER + FIELD, b"\xff", "has fields 'image' of kind image, 'label' of kind 255"),
        (8, u64(0), "holds no samples"),
        (8, u64(20), r"bytes where its header asks for"),
        (8, u64(2**61), "was not written to its end"),
        (16, u64(0), "was not written to its end"),
        (16, u64(2**63), "has [0-9,]+ bytes where its header asks for"),
        (MODE, b"\x02", "holds sample 3 in mode 2"),
        (HEIGHT, b"\x2f\0", "holds sample 3 in mode 1 with 6,912 bytes for 47 x 48 pixels"),
        (HEIGHT, b"\0\0", "holds sample 3 in mode 1 with 6,912 bytes for 0 x 48 pixels"),
        (POINTER, u64(2**63), "puts sample 3 at byte 9,223,372,036,854,775,808 where its table says"),
        (LABEL, struct.pack("<q", -1), "has labels -1 to 4"),
        (LABEL, struct.pack("<q", 2**62), "has labels 0 to 4611686018427387904"),
    ],
)
def test_a_file_that_is_no_whole_beton_is_refused(
    crops: list[tuple[np.ndarray, int]], tmp_path: Path, offset: int, patch: bytes, message: str
) -> None:
    file = write_beton(tmp_path / "whole.beton", crops, "raw")
    assert len(open_beton(file)) == 21
    with pytest.raises(InputError, match=message):
        open_beton(altered(file, tmp_path / "altered.beton", (offset, patch)))


def test_a_jpeg_without_a_size_is_refused(crops: list[tuple[np.ndarray, int]], tmp_path: Path) -> None:
    file = write_beton(tmp_path / "whole.beton", crops, "jpg")
    with pytest.raises(InputError, match=r"holds sample 3 in mode 0 with [0-9,]+ bytes for 0 x 48 pixels"):
        open_beton(altered(file, tmp_path / "altered.beton", (HEIGHT, b"\0\0")))


@pytest.mark.parametrize("place", [0, 8, 2**64 - 100])
def test_a_table_that_points_outside_the_data_is_refused(
    crops: list[tuple[np.ndarray, int]], tmp_path: Path, place: int
) -> None:
    file = write_beton(tmp_path / "whole.beton", crops, "raw")
    (table,) = struct.unpack_from("<Q", file.read_bytes(), 16)
    for patches in (
        [(POINTER, u64(place)), (table + 3 * 24 + 8, u64(place))],  # metadata and table agree
        [(POINTER, u64(table - 100)), (table + 3 * 24 + 8, u64(table - 100))],  # its end is outside
        [(table + 3 * 24, u64(2))],  # one sample twice, and one never
    ):
        with pytest.raises(InputError, match="data lie at"):
            open_beton(altered(file, tmp_path / "altered.beton", *patches))


@pytest.mark.parametrize("cut", [1, 24, 50, 24 * 21, 24 * 21 + 1, 10**9])
def test_a_cut_file_is_refused_though_ffcv_loads_it(written: Path, tmp_path: Path, cut: int) -> None:
    data = written.read_bytes()
    file = tmp_path / "cut.beton"
    file.write_bytes(data[: max(len(data) - cut, 30)])
    with pytest.raises(InputError, match="bytes where its"):
        open_beton(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has 0 bytes"), (b"\xff\xd8\xff\xe0 a JPEG, no beton at all", "has format 55551"), (None, "cannot be read")],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "some.beton"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_store(file, "train")


def test_a_beton_is_held_to_its_manifest_and_index(beton_set: Path, tmp_path: Path) -> None:
    whole = open_beton_split(beton_set, "train")
    assert whole.fingerprint == open_beton_split(copy_of(beton_set, tmp_path / "same"), "train").fingerprint
    folder = copy_of(beton_set, tmp_path / "longer")
    size = (folder / "train.beton").stat().st_size
    with (folder / "train.beton").open("ab") as file:
        file.write(bytes(24))
    message = rf"train\.beton has {size + 24:,} bytes where manifest\.json says {size:,}"
    with pytest.raises(InputError, match=message):
        open_store(folder, "train")
    swapped = np.load(beton_set / "train.index.npy")
    swapped["label"][20] = 2
    for name, rows, message in (
        ("label", swapped, r"sample 20 label 1 where train\.index\.npy says 2"),
        ("length", swapped[:50], r"holds 51 samples where manifest\.json says 50"),
    ):
        folder = copy_of(beton_set, tmp_path / name)
        split = {"samples": len(rows), "index": write_index(folder, "train", rows), "shards": []}
        write_manifest(folder, whole.classes, {"train": split | {"beton": entry(folder / "train.beton")}})
        with pytest.raises(InputError, match=message):
            open_store(folder, "train")


def test_shards_come_before_a_beton_and_share_its_fingerprint(
    shards_set: Path, beton_set: Path, tmp_path: Path
) -> None:
    folder = copy_of(shards_set, tmp_path / "both")
    file = folder / "train.beton"
    file.write_bytes((beton_set / "train.beton").read_bytes())
    split = {"samples": 51, "index": entry(folder / "train.index.npy"), "beton": entry(file)}
    shards = [entry(folder / f"train-{shard:06d}.tar") for shard in range(3)]
    write_manifest(folder, open_shards(shards_set, "train").classes, {"train": split | {"shards": shards}})
    assert open_store(folder, "train").key(0).startswith("train-000000.tar:")
    assert open_beton_split(folder, "train").fingerprint == open_store(folder, "train").fingerprint
    with pytest.raises(InputError, match="has no beton of split 'train'"):
        open_beton_split(shards_set, "train")


def test_a_pickled_store_looks_at_its_file_again(written: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.beton"
    file.write_bytes(written.read_bytes())
    pickled = pickle.dumps(open_beton(file))
    file.write_bytes(b"")
    with pytest.raises(InputError, match="has 0 bytes"):
        pickle.loads(pickled)


@pytest.mark.parametrize("name", ["imagenet_train_500.beton", "train.beton"])
def test_a_file_named_after_one_split_is_no_other(raw_beton: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(raw_beton)
    (tmp_path / "cifar.beton").symlink_to(raw_beton)
    assert len(open_store(tmp_path / name, "train")) == len(open_store(tmp_path / "cifar.beton", "val")) == 51
    with pytest.raises(InputError, match="is named after train, not val"):
        open_store(tmp_path / name, "val")


CROPS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda pixels: pixels,
    lambda pixels: np.ascontiguousarray(pixels[::-1])[::-1],  # a view with strides of its own
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("of", CROPS)
def test_raw_pixels_are_cropped_and_resized_as_a_png_of_them(
    tree: Path, flip: bool, kind: str, of: Callable[[np.ndarray], np.ndarray]
) -> None:
    pixels = of(samples_of(tree, "val")[1][0].pixels)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    decoder = ReferenceDecoder(kind)
    data = [pixels, png.getvalue()]
    sizes, failures = decoder.sizes(data)
    assert not failures
    assert sizes.tolist() == [list(pixels.shape[:2])] * 2
    for box in ([0, 0, *pixels.shape[:2]], [7, 11, 30, 41], [3, 5, 1, 2]):
        out = np.zeros((2, 32, 32, 3), np.uint8)
        assert not decoder.decode(data, np.array([box] * 2), np.array([flip] * 2), out)
        np.testing.assert_array_equal(out[0], out[1])
    assert out.any()


@pytest.mark.parametrize("pixels", [np.zeros((8, 8)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)])
def test_other_arrays_are_reported_and_their_neighbours_delivered(pixels: np.ndarray) -> None:
    white, out = np.full((8, 8, 3), 255, np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    sizes, failures = ReferenceDecoder().sizes([pixels, white])
    assert sizes.tolist() == [[1, 1], [8, 8]]
    assert "not (H, W, 3) of uint8" in failures[0]
    failures = ReferenceDecoder().decode([pixels, white], np.array([[0, 0, 8, 8]] * 2), np.zeros(2, bool), out)
    assert list(failures) == [0]
    assert (out[1] == 255).all()
