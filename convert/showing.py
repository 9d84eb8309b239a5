"""Shows what a converted set holds: counts and sizes as text, sides and samples as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from convert.images import opened
from loaders.errors import InputError
from loaders.files import write_atomically
from loaders.manifest import NAME, Manifest, open_index, read_manifest
from loaders.opening import open_store

_BINS = (0, 64, 128, 256, 320, 384, 448, 512, 640, 1024, 2048, 65536)
_TILE, _COLUMNS, _ROWS, _CAPTION = 128, 8, 6, 16


def describe(folder: Path) -> str:
    """Counts, sizes and a histogram of image sides, as text.

    Raises:
        InputError: where the manifest lacks what twistnet convert writes.
    """
    manifest = read_manifest(folder)
    try:
        return _described(manifest)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{folder / NAME} says too little ({reason}): convert the data set into a new folder."
        ) from error


def _described(manifest: Manifest) -> str:
    folder = manifest.folder
    values = manifest.values
    lines = [
        f"{folder}: {len(manifest.classes)} classes, images {values['images']}, "
        f"EXIF orientation {values['exif']}, seed {values['seed']}"
    ]
    for name, split in manifest.splits.items():
        entry, rows = values["splits"][name], open_index(folder, split)
        fewest, most = min(entry["per_class"]), max(entry["per_class"])
        files = f"{len(split.shards)} shards" if split.shards else "no shards"
        if split.beton:
            files += f", {split.beton.name} of {split.beton.size / 1e9:,.2f} GB"
        lines += [
            "",
            f"{name}: {split.samples:,} images, {entry['bytes'] / 1e9:,.2f} GB, {fewest} to {most} a class, {files}",
            f"  from {entry['source']}, {sum(entry['repaired'].values())} repaired, {entry['quarantined']} quarantined",
            "  shorter side in pixels",
            *_histogram(np.minimum(rows["height"], rows["width"])),
        ]
    if manifest.subsets:
        lines += ["", f"subsets: {', '.join(manifest.subsets)}"]
    return "\n".join(lines)


def splits(folder: Path) -> list[str]:
    """Names of the splits of a converted set."""
    return list(read_manifest(folder).splits)


def draw_sides(folder: Path, path: Path) -> Path:
    """Draws histograms of the shorter side and of the file size of every split, a PNG.

    Raises:
        InputError: where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("a picture needs matplotlib: pip install 'twistnet[plots]'.") from error
    manifest = read_manifest(folder)
    figure = Figure(figsize=(11, 4), layout="constrained")
    sides, sizes = figure.subplots(1, 2)
    for name, split in manifest.splits.items():
        rows = open_index(folder, split)
        sides.hist(np.minimum(rows["height"], rows["width"]), bins=60, histtype="step", label=name)
        sizes.hist(rows["length"] / 1e3, bins=60, histtype="step", label=name)
    sides.set(title="Shorter side", xlabel="pixels", ylabel="images", yscale="log")
    sizes.set(title="Size", xlabel="kB", yscale="log")
    for axes in (sides, sizes):
        axes.grid(alpha=0.3)
        axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
    return path


def draw_samples(folder: Path, split: str, path: Path, seed: int = 0) -> Path:
    """Draws random samples of a split with their labels, a PNG."""
    store = open_store(folder, split)
    chosen = np.random.default_rng(seed).permutation(len(store))[: _COLUMNS * _ROWS]
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, sample in enumerate(chosen):
        left, top = place % _COLUMNS * _TILE, place // _COLUMNS * (_TILE + _CAPTION)
        data = store.read(int(sample))
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else opened(data)
        sheet.paste(ImageOps.fit(image.convert("RGB"), (_TILE, _TILE)), (left, top))
        draw.text((left + 2, top + _TILE + 2), store.classes[store.labels[sample]][:20], fill="black")
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    return path


def _histogram(sides: np.ndarray) -> list[str]:
    counts, _ = np.histogram(sides, bins=_BINS)
    most = max(counts.max(initial=0), 1)
    return [
        f"  {low:>6} to {high - 1:<6} {found:>10,} {'#' * round(40 * found / most)}"
        for low, high, found in zip(_BINS, _BINS[1:], counts, strict=False)
        if found
    ]
