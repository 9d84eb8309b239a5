"""Where the time of a core goes in decoding JPEGs: each stage by itself, on the same images and boxes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.data import in_form, tree_of
from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from bench.timing import measure
from loaders.crops import CropPolicy
from loaders.native.decoder import NativeDecoder
from loaders.opening import open_store
from loaders.order import Order

CPU = torch.device("cpu")
WHOLE = "decode and resize, whole"


def stages(
    *, data_dir: Path | None = None, images: int = 512, size: int = 224, rounds: int = 5, seconds: float = 1.0
) -> None:
    """Measures the stages of the native decoder on one thread, over random crops, and adds rows.

    Entropy decoding is measured by asking for the last pixel of each crop alone: all before it has to be read, and next
    to nothing is made of it. The resize is measured on the crops as pixels. The rest of the whole is what libjpeg-turbo
    does to make pixels of coefficients.

    Args:
        data_dir: a tree with a folder train/; photographs that packages ship are cut to ImageNet's sizes unless given.
        images: that are decoded, one after another.
        size: side of the output in pixels.
        rounds: interleaved rounds.
        seconds: of each stage in one round, at least.
    """
    check_positive(images=images, size=size, rounds=rounds, seconds=seconds)
    check_results("stages")
    decoder = NativeDecoder()
    with tree_of(data_dir, images) as (tree, root):
        store = open_store(in_form("shards", tree, root, 1), "train")
        ids, _ = Order(num_samples=len(store), global_batch=images).batch(0, 0)
        data = [bytes(store.read(int(sample))) for sample in ids]
    sizes, _ = decoder.sizes(data)
    boxes = CropPolicy().boxes(0, 0, ids, sizes, train=True)
    last = np.concatenate([boxes[:, :2] + boxes[:, 2:] - 1, np.ones_like(boxes[:, 2:])], axis=1)
    crops = [_crop(encoded, box) for encoded, box in zip(data, boxes.tolist(), strict=True)]
    whole = np.concatenate([np.zeros_like(boxes[:, :2]), boxes[:, 2:]], axis=1)
    out = np.empty((images, size, size, 3), dtype=np.uint8)
    flips = np.zeros(images, dtype=bool)

    def decode(these: list[bytes] | list[np.ndarray], of: np.ndarray, to: np.ndarray) -> Callable[[], int]:
        def run() -> int:
            decoder.decode(these, of, flips, to)
            return images

        return run

    def headers() -> int:
        decoder.sizes(data)
        return images

    runs = {
        "headers": headers,
        "entropy decoding to the crop's end": decode(data, last, np.empty((images, 1, 1, 3), dtype=np.uint8)),
        "resize": decode(crops, whole, out),
        WHOLE: decode(data, boxes, out),
    }
    torch.set_num_threads(1)
    rates = measure(runs, rounds=rounds, seconds=seconds, device=CPU)
    cost = {name: {"us_per_image": round(1e6 / rate.median, 1)} for name, rate in rates.items()}
    pixels = int(np.median(boxes[:, 2] * boxes[:, 3]))
    options = {"data": tree.name, "images": images, "size": size, "median_crop_pixels": pixels}
    file = append_rates("stages", rates, options, CPU, cost)
    for name, rate in rates.items():
        share = 100 * rates[WHOLE].median / rate.median
        print(f"{name}: {cost[name]['us_per_image']} us an image ({share:.0f} %), n={rate.n}")
    print(added(file))


def _crop(encoded: bytes, box: list[int]) -> np.ndarray:
    top, left, height, width = box
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB").crop((left, top, left + width, top + height)))
