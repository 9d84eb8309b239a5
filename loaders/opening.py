"""From a path to a loader: which store and which decoder, checked before any thread starts."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from loaders.augment import Augment
from loaders.beton import open_beton
from loaders.choosing import STORES, Choice, choose_decoder, choose_store, keeps_pixels, make_decoder
from loaders.cores import local_ranks, usable_cores
from loaders.crops import CropPolicy
from loaders.errors import InputError, one_line
from loaders.kept import KeptPixels
from loaders.loader import BatchLoader, Plan
from loaders.manifest import Manifest, is_converted
from loaders.order import Order
from loaders.staged import Staged, open_staged, refuse_url
from loaders.subset import open_named
from loaders.tree import open_tree
from loaders.types import Decoder, Loader, Store


def open_store(path: str | Path, split: str, store: str = "auto") -> Store:
    """The store of one split of a data set, recognised by what is there.

    Args:
        path: a converted set's folder, a `.beton` file of FFCV's, or a tree of image files.
        split: its name, in a converted set a named subset's too. A `.beton` file holds one split: any name will do
            but one that the file's own name contradicts, as "val" for imagenet_train.beton.
        store: "tree", "shards" or "beton", or "auto": of a converted set that has both, the beton where it holds pixels
            and takes less than half of the memory, else the shards.

    Raises:
        InputError: where the path is no such data set, has no such split, or holds what its manifest does not say.
    """
    return find_store(path, split, store)[0]


def find_store(path: str | Path, split: str, store: str = "auto") -> tuple[Store, Choice]:
    """The same, and why."""
    refuse_url(path)
    path = Path(path)
    if store not in ("auto", *STORES):
        raise InputError(f"store {store!r} is unknown: choose auto or {', '.join(STORES)}.")
    is_beton = path.suffix == ".beton" and not path.is_dir()
    only = "beton" if is_beton else None if is_converted(path) else "tree"
    if store == "tree" and only is None:
        raise InputError(f"{path} is a converted set, no tree: take store shards, beton or auto.")
    if only and store not in ("auto", only):
        raise InputError(f"{path} is a {only}: take store {only} or auto, or convert it.")
    if is_beton:
        _check_named(path, split)
        return open_beton(path), Choice("beton")
    if only:
        return open_tree(path, split), Choice("tree")
    chosen: list[Choice] = []

    def open_whole(manifest: Manifest, name: str) -> Store:
        found, choice = choose_store(manifest, name, store)
        chosen.append(choice)
        return found

    return open_named(path, split, open_whole), chosen[0]


def open_loader(
    path: str | Path | Store,
    split: str,
    batch_size: int,
    *,
    train: bool,
    size: int = 224,
    store: str = "auto",
    decoder: str | Decoder = "auto",
    augment: Augment | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    shuffle: str = "global",
    rank: int = 0,
    world_size: int = 1,
    num_threads: int | None = None,
    look_ahead: int = 3,
    crops: CropPolicy | None = None,
    max_bad: float = 0.0,
    verify: bool = False,
    repeats: int = 1,
    stage: str | Path | None = None,
    stage_bytes: int | None = None,
    kept: KeptPixels | None = None,
) -> Loader:
    """Opens one split for one rank.

    Args:
        path: a folder `<split>/<class>/<image>`, or one of `loaders.layouts`; a converted set's folder; a `.beton`
            file; or, with `stage`, the URL of a converted set, as s3://bucket/set; or a store of one's own.
        split: "train", "val", ...; of a data set with folds "train1", "val1", "test1", "train2", ...; as `open_store`
            says for a `.beton` file. One's own store is a split already.
        batch_size: samples of a batch on this rank.
        train: shuffled order, random resized crops and flips; otherwise the set's order and central crops.
        size: side of the images in pixels; `Loader.epoch` may be asked for another.
        store: "tree", "shards", "beton" or "auto", as for `open_store`.
        decoder: "native", "ffcv", "reference", "dali", "dali+native", "device" or "auto". Native, reference and
            device give the same pixels: auto takes native where it was built, and device crops raw pixels on `device`.
            ffcv gives FFCV's, and auto takes it where `crops` resize by area. dali decodes on `device`; where both are
            named, native takes a part of each batch. Or a decoder of one's own, which is closed with the loader.
        augment: what happens on the device; None gives uint8 (B, size, size, 3), cropped and flipped only.
        device: where the batches end.
        seed: of order and draws, 0 to 2**64 - 1.
        shuffle: "global" or "window", for training.
        rank: this process's, of `world_size`. Batches of all ranks, in order, make up the global batch.
        num_threads: decoding threads; by default the usable cores, shared among the ranks of this machine.
        look_ahead: batches that are decoded ahead of the consumer.
        crops: crop, flip and resize; by default ImageNet's usual ones.
        max_bad: largest share of the split's samples that this process replaces by their successors where they cannot
            be read or decoded, 0 to 1; the replacements are not `valid`. By default the first one ends the epoch.
        verify: whether every image is held to the CRC-32 of the conversion, each time that it is read.
        repeats: how often a batch holds each of its samples, each time with other crops and draws: repeated
            augmentation. An epoch is then that part of the set, and as many epochs in a row are the whole.
        stage: a folder on a local disk that shards are copied to, ahead of the batches that need them; all ranks of a
            machine, and other runs, may share it.
        stage_bytes: that shards may take there, by default nine tenths of the free disk. With a window shuffle it may
            be less than the set.
        kept: where images stay that were decoded once, whole, for all loaders that are given the same; batches are
            what they are without it. Decoders with pixels of their own, ffcv and dali, leave it unused.

    Raises:
        InputError: for a value that cannot work, before any thread starts.
    """
    for name, value in (("batch_size", batch_size), ("size", size), ("world_size", world_size)):
        if value < 1:
            raise InputError(f"{name} {value} is too small: take at least 1.")
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} is outside 0 to {world_size - 1}.")
    if look_ahead < 1:
        raise InputError(f"look_ahead {look_ahead} is too small: take at least 1.")
    threads = max(1, usable_cores() // local_ranks()) if num_threads is None else num_threads
    if threads < 1:
        raise InputError(f"num_threads {threads} is too small: take at least 1.")
    if not 0 <= max_bad <= 1:
        raise InputError(f"max_bad {max_bad} is impossible: take a share of the samples, 0 to 1.")
    if augment is not None and not isinstance(augment, Augment):
        raise InputError(f"augment is {augment!r}: give an Augment, as Augment(policy=...).")
    if repeats != 1 and not train:
        raise InputError(f"repeats {repeats} is for training: leave it out, or take train=True.")
    where = _device(device)
    crops = crops or CropPolicy()
    if augment:
        augment.check_batch_size(batch_size)
    chosen = choose_decoder(decoder, crops.interpolation, where) if isinstance(decoder, str) else Choice(decoder.name)
    if stage_bytes is not None and stage is None:
        raise InputError(f"stage_bytes {stage_bytes} bounds a staging folder: name it with stage, or leave it out.")
    found, form, staged = _find(path, split, store, stage, stage_bytes, verify)
    if verify and not found.has_checksums:
        raise InputError("there are no checksums to verify: name the folder of a converted set, or leave verify out.")
    order = Order(
        num_samples=len(found),
        global_batch=batch_size * world_size,
        shuffle=shuffle if train else "none",
        seed=seed,
        repeats=repeats,
    )
    if staged:
        staged.staging.follow(order, staged.shard_of, rank, world_size)
    choice = f"store {form}, decoder {chosen}, {threads} {'thread' if threads == 1 else 'threads'}"
    if kept is not None and not (isinstance(decoder, str) and keeps_pixels(chosen.name)):
        choice += f"; decoded images are not kept, as {chosen.name} makes pixels of its own"
        kept = None
    elif kept is not None:
        choice += f"; decoded images are kept, in at most {kept.limit_bytes / 2**30:.3g} GiB of memory"
    plan = Plan(
        store=found,
        staging=staged.staging if staged else None,
        decoder=make_decoder(chosen.name, crops.interpolation, threads, where, found)
        if isinstance(decoder, str)
        else decoder,
        order=order,
        crops=crops,
        augment=augment,
        train=train,
        size=size,
        device=where,
        rank=rank,
        world_size=world_size,
        max_bad=max_bad,
        verify=verify,
        form=form.name,
        kept=kept,
        choice=choice,
    )
    return BatchLoader(plan, num_threads=threads, look_ahead=look_ahead)


def _find(
    path: str | Path | Store, split: str, store: str, stage: str | Path | None, stage_bytes: int | None, verify: bool
) -> tuple[Store, Choice, Staged | None]:
    """The store, what it is, and what stages it."""
    if not isinstance(path, (str, Path)):
        if store != "auto" or stage is not None:
            raise InputError(f"{type(path).__name__} is a store of your own: leave out store and stage.")
        return path, Choice(type(path).__name__), None
    if stage is None:
        return *find_store(path, split, store), None
    staged = open_staged(path, split, Path(stage), store=store, bound=stage_bytes, verify=verify)
    return staged.store, Choice("shards", f"staged in {stage}"), staged


def _check_named(path: Path, split: str) -> None:
    # Else a run given one .beton for all its splits would be scored on its own training images.
    words = re.split("[^a-z]+", path.stem.lower())
    named = [name for name in ("train", "val", "test") if any(word.startswith(name) for word in words)]
    if named and not any(split.startswith(name) for name in named):
        raise InputError(f"{path} is named after {named[0]}, not {split}: name the file of split {split!r}.")


def _device(name: str | torch.device) -> torch.device:
    """A device that is there, with its number where it is a card."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is unknown ({one_line(error, 80)}): take cpu or cuda.") from error
    if device.type != "cuda":
        return device
    cards = torch.cuda.device_count()
    if (device.index or 0) >= cards:
        raise InputError(f"device {str(name)!r} is not there, torch sees {cards} CUDA cards: take cpu, or another one.")
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
