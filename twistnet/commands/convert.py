"""`twistnet convert` and what belongs to it: prepare, count, merge, check and show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from convert import checking, counting, finishing, preparing, showing
from convert.beton_policy import BetonPolicy
from convert.converting import Conversion, convert_split
from convert.images import ImagePolicy
from convert.plan import unfinished_splits
from convert.scan import Scan
from convert.sources import find_source, splits_of
from loaders import InputError
from loaders.cores import usable_cores
from loaders.files import is_same
from loaders.manifest import is_converted, read_manifest

Source = Literal[
    "auto", "tree", "archives", "kaggle", "flat", "tiny", "webdataset", "dtd", "fmd", "kth", "cub", "flowers", "folder"
]


def convert(
    *,
    data_dir: Path,
    out: Path,
    formats: tuple[str, ...] = ("shards",),
    images: str = "original",
    quality: int = 90,
    beton: Literal["jpg", "raw", "proportion"] | None = None,
    proportion: float | None = None,
    source: Source = "auto",
    devkit: Path | None = None,
    splits: tuple[str, ...] = (),
    seed: int = 0,
    shard_size: float = 1.0,
    min_shards: int = 16,
    workers: int | None = None,
    max_bad: float = 0.001,
    part: str | None = None,
) -> None:
    """Converts a data set as it was downloaded into shards, and into FFCV's .beton.

    Started again after a kill, it goes on, and ends with the same bytes.

    Args:
        data_dir: ImageNet's archives, a tree split/class/image, Kaggle's layout, Tiny-ImageNet, WebDataset tars, or a
            data set with folds: DTD, FMD, KTH-TIPS2-b, CUB-200-2011, Flowers-102, class folders of one's own.
        out: the converted set's folder.
        formats: shards, beton or both.
        images: original passes JPEGs through untouched; short_side=400 or max_side=500 make larger ones smaller.
        quality: of JPEGs that are encoded anew, 1 to 100.
        beton: what the .beton holds: jpg, the JPEGs as they are, unless given; raw pixels; or either in proportion.
        proportion: share of JPEGs with --beton proportion; 0.5 unless given.
        source: what data_dir is; auto recognises it by its content.
        devkit: ILSVRC2012's development kit, where it is not in data_dir.
        splits: which ones; all that are there unless given.
        seed: of the order that samples are written in.
        shard_size: target size of a shard in GB.
        min_shards: at least so many shards: ranks times readers.
        workers: processes; the usable cores unless given.
        max_bad: largest share of images that may be left out.
        part: i/n writes every n-th shard, for array jobs; twistnet convert merge joins them.
    """
    unknown = [name for name in formats if name not in ("shards", "beton")]
    if unknown or not formats:
        raise InputError(f"format {', '.join(unknown) or 'none'} is unknown: write shards, beton or shards,beton.")
    if is_same(data_dir, out):
        raise InputError(f"--out {out} is the data set's own folder: name another, as {out / 'converted'}.")
    if "beton" not in formats and (beton is not None or proportion is not None):
        raise InputError("--beton and --proportion are about the .beton: add --formats beton or shards,beton.")
    if proportion is not None and beton != "proportion":
        raise InputError(
            f"--proportion {proportion} has no effect without --beton proportion: add it, or leave it out."
        )
    if shard_size > 1000:
        raise InputError(f"shard_size {shard_size:g} GB is too large: take at most 1000.")
    conversion = Conversion(
        out=out,
        policy=ImagePolicy.parse(images, quality),
        beton=BetonPolicy(mode=beton or "jpg", share=0.5 if proportion is None else proportion, seed=seed)
        if "beton" in formats
        else None,
        keep_shards="shards" in formats,
        seed=seed,
        shard_bytes=round(shard_size * 1e9),
        min_shards=min_shards,
        workers=_workers(workers),
        max_bad=max_bad,
        part=_part(part),
    )

    scans = _scans(data_dir, splits, source, devkit)  # of all splits first: what is wrong with one shows at once
    held = read_manifest(out).splits if is_converted(out) else {}
    sizes = {name: int(scan.length.sum()) for name, scan in scans.items() if name not in held}

    def convert_one(name: str) -> None:
        sizes.pop(name, None)
        entry = convert_split(scans[name], conversion, print, later=sum(sizes.values()))
        if entry:
            print(
                f"{name}: {entry['samples']:,} images converted, {sum(entry['repaired'].values())} repaired, "
                f"{entry['quarantined']} quarantined; {out}"
            )

    _for_all(scans, convert_one)


def prepare(
    *,
    data_dir: Path,
    out: Path,
    source: Source = "auto",
    devkit: Path | None = None,
    splits: tuple[str, ...] = (),
    workers: int | None = None,
) -> None:
    """Extracts the official archives into train/<class>/ and val/<class>/, the guide's second step.

    Any other source is copied into that layout too. Started again, it goes on.

    Args:
        data_dir: the folder of the archives.
        out: where train/ and val/ go.
        source: what data_dir is; auto recognises it by its content.
        devkit: ILSVRC2012's development kit, where it is not in data_dir.
        splits: which ones; all that are there unless given.
        workers: threads; the usable cores unless given.
    """
    kind = preparing.kind_of(data_dir, out, source)
    for name, scan in _scans(data_dir, splits, kind, devkit).items():
        written = preparing.prepare(scan, out, _workers(workers))
        print(f"{name}: {len(scan):,} images in {out / name}, {written:,} of them written now.")


def count(*, data_dir: Path, source: Source = "auto", devkit: Path | None = None, md5: bool = False) -> int:
    """Counts images by split and class, and compares with the numbers published, ImageNet's or the data set's.

    Args:
        data_dir: the data set, in any form that convert takes.
        source: what data_dir is; auto recognises it by its content.
        devkit: ILSVRC2012's development kit, where it is not in data_dir.
        md5: check the archives' MD5 too, which reads all of them.
    """
    scans = _scans(data_dir, (), source, devkit)
    counts = [counting.count(scan) for scan in scans.values()]
    for found in counts:
        print("\n".join(counting.describe(found)))
    if md5:
        known, folders = counting.archives_of(next(iter(scans.values())))
        print("\n".join(counting.check_md5([data_dir, *folders], known)))
    return 1 if any(found.is_published is False for found in counts) else 0


def merge(*, out: Path, max_bad: float = 0.001, workers: int | None = None) -> None:
    """Joins the parts of a conversion, once all of them are done.

    Args:
        out: the folder that the parts were written to, or copied into.
        max_bad: largest share of images that may be left out.
        workers: threads that decode for FFCV's file; the usable cores unless given.
    """
    splits = unfinished_splits(out)
    if not splits and is_converted(out):
        print(f"{out} has no parts that are not joined.")
        return
    if not splits:
        raise InputError(f"{out} holds no parts: name the --out of twistnet convert --part.")

    def merge_one(split: str) -> None:
        entry = finishing.merge(out, split, max_bad=max_bad, workers=_workers(workers))
        print(f"{split}: {entry['samples']:,} images in {len(entry['shards'])} shards; {out}")

    _for_all(splits, merge_one)


def check(*, data_dir: Path, full: bool = False, workers: int | None = None) -> None:
    """Checks a converted set against its manifest and names the first thing that is wrong.

    Args:
        data_dir: the converted set's folder.
        full: also read every byte and decode every image.
        workers: threads; the usable cores unless given.
    """
    samples = checking.check(data_dir, full=full, workers=_workers(workers))
    print(f"{data_dir}: {samples:,} samples as the manifest says{', every image decoded' if full else ''}.")


def show(*, data_dir: Path, pictures: Path | None = None, seed: int = 0) -> None:
    """Prints what a converted set holds: counts, sizes, and how large its images are.

    Args:
        data_dir: the converted set's folder.
        pictures: folder for a histogram of sides and a sheet of random samples of every split.
        seed: chooses the samples.
    """
    print(showing.describe(data_dir))
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        print(showing.draw_sides(data_dir, pictures / "sides.png"))
        for split in showing.splits(data_dir):
            print(showing.draw_samples(data_dir, split, pictures / f"{split}.png", seed))


def _scans(data_dir: Path, splits: Iterable[str], source: str, devkit: Path | None) -> dict[str, Scan]:
    """The splits that are wanted, or all that are there, as they were found; says once what as."""
    names = list(splits or splits_of(data_dir, source, devkit))
    return {
        name: find_source(data_dir, name, source, devkit, report=None if place else print)
        for place, name in enumerate(names)
    }


def _for_all(splits: Iterable[str], work: Callable[[str], None]) -> None:
    """Works on every split; one with too many bad images is no reason to leave the others undone."""
    bad = []
    for name in splits:
        try:
            work(name)
        except finishing.TooManyBad as error:
            bad.append(f"{error}")
    if bad:
        raise InputError(" ".join(bad))


def _workers(given: int | None) -> int:
    return usable_cores() if given is None else given


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise InputError(f"part {text!r} is no i/n: write 1/4 for the first of four.")
    return int(number), int(of)
