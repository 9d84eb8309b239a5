"""The bench's own parts: rows that can be read again, a rank test, a made data set, and a simulated run."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from bench import decode as bench_decode
from bench import parts, rows
from bench import storage as bench_storage
from bench import training as bench_training
from bench import upload as bench_upload
from bench.compare import compare, differences
from bench.costs import Cost, Costs
from bench.made_set import make_tree
from bench.reading import newest, read_rows
from bench.simulation import Batches, Use, shared_out, simulate
from bench.timing import Rate, measure
from loaders import InputError, dali_graph, ffcv
from loaders.native.library import why_missing

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def written(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# --- what stands beside a rate ----------------------------------------------------------------------------------------


def test_cores_memory_and_the_first_call_are_counted() -> None:
    sizes = iter((300, 20, 20, 20))

    def busy() -> int:
        """Works on one core; the first call takes more memory than those that count."""
        held = np.ones(next(sizes) << 17)
        end = measure_cpu(0.05)
        return int(held[0] + end)

    rate = measure({"busy": busy}, rounds=3, seconds=0.0, device=CPU)["busy"]
    assert rate.n == len(rate.each) == 3
    assert rate.first_s > 0.05
    assert 0.2 < rate.cpu_share * bench_storage.usable_cores() < 1.6
    assert 100 << 20 < rate.memory_bytes < 20_000 << 20
    assert rate.card_bytes == 0
    assert rate.core_s == pytest.approx(rate.cpu_share * bench_storage.usable_cores() / rate.median)


def measure_cpu(seconds: float) -> int:
    import time

    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass
    return 1


def test_a_file_with_other_columns_is_not_spoilt(results: Path) -> None:
    (results / "x.csv").write_text("date,what\n2026-01-01,old\n")
    with pytest.raises(InputError, match=r"other columns than this version writes \(run\)"):
        rows.append_rates("x", {"a": Rate.of([1.0])}, {}, CPU)
    assert (results / "x.csv").read_text() == "date,what\n2026-01-01,old\n"


# --- rows read again, and compared ------------------------------------------------------------------------------------


def test_rows_are_read_as_they_were_written(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run, rate in (("20260101T000000", 10.0), ("20260102T000000", 20.0)):
        monkeypatch.setattr(rows, "RUN", run)
        rows.append_rates("x", {"a thing": Rate.of([rate, rate + 2])}, {"set": "500 px .beton", "batch": 4}, CPU)
    found = read_rows()
    assert [row.images_per_s for row in found] == [11, 21]
    assert found[0].options == {"set": "500_px_.beton", "batch": "4"}
    assert found[1].rounds == [20, 22]
    assert [row.images_per_s for row in read_rows("20260102T000000")] == [21]
    assert [row.images_per_s for row in newest(found, "x", batch="4")] == [21]
    assert newest(found, "x", batch="8") == []
    assert [row.images_per_s for row in read_rows(str(results / "x.csv"))] == [11, 21]
    with pytest.raises(InputError, match="no rows of 20270101: give one of the runs 20260101T000000, 20260102T000000"):
        read_rows("20270101")


def test_the_rank_test_is_scipys(monkeypatch: pytest.MonkeyPatch) -> None:
    a = {"same": [1.0, 2, 3, 4, 5], "faster": [1.0, 2, 3, 4, 5], "slower": [10.0, 11, 12, 13, 14]}
    b = {"same": [1.5, 2.5, 3.5, 2, 4], "faster": [6.0, 7, 8, 9, 10], "slower": [1.0, 2, 3, 4, 5]}
    for run, rates in (("one", a), ("two", b)):
        monkeypatch.setattr(rows, "RUN", run)
        rows.append_rates("x", {name: Rate.of(each) for name, each in rates.items()}, {}, CPU)
    found = {each.subject[1]: each for each in differences(read_rows("one"), read_rows("two"))}
    # Beside the last, which is the reference, and that one by its rate.
    ours, theirs = ({name: np.divide(each[name], each["slower"]) for name in ("same", "faster")} for each in (a, b))
    pairs = [(ours["same"], theirs["same"]), (ours["faster"], theirs["faster"]), (a["slower"], b["slower"])]
    p = [scipy.stats.mannwhitneyu(*pair).pvalue for pair in pairs]
    assert [each.p for each in found.values()] == pytest.approx(p)
    assert [each.against for each in found.values()] == ["slower", "slower", ""]
    assert found["slower"].verdict == "B is slower"
    ratio = np.median(theirs["faster"]) / np.median(ours["faster"])
    assert found["faster"].ratio == pytest.approx(ratio)
    assert found["faster"].verdict == "B is faster"
    with pytest.raises(InputError, match="nothing to compare"):
        differences(read_rows("one"), [])


def test_one_slower_thing_among_a_hundred_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though all of B were measured on a day when the machine was a fifth faster."""
    rng = np.random.default_rng(0)
    for run, day in (("one", 1.0), ("two", 1.2)):
        monkeypatch.setattr(rows, "RUN", run)
        for place in range(49):
            speed = 100.0 * (0.5 if (run, place) == ("two", 7) else 1.0)
            ours, theirs = (day * mean * rng.uniform(0.97, 1.03, 5) for mean in (speed, 50.0))
            rates = {"ours": Rate.of(ours.tolist()), "the peer": Rate.of(theirs.tolist())}
            rows.append_rates("x", rates, {"set": place}, CPU)
    found = differences(read_rows("one"), read_rows("two"))
    ours = [each for each in found if each.subject[1] == "ours"]
    slower = [each.subject for each in ours if each.verdict == "B is slower"]
    assert ("x", "ours", "set=7") in slower
    assert sum(each.verdict != "no difference beyond the spread" for each in ours) <= 3, "by chance one in a hundred"
    compare("one", "two")
    said = capsys.readouterr().out
    assert "x: ours beside the peer (set=7): 0.5" in said
    assert "of 98 that are the same, 1.0 would by chance" in said


# No commit begins with a letter beyond f: by its first ones a run may be named, too.
def test_comparing_says_what_it_could_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for run, more in (("one", "old"), ("two", "new")):
        monkeypatch.setattr(rows, "RUN", run)
        rows.append_rates("x", {"thing": Rate.of([1.0, 2, 3, 4]), more: Rate.of([1.0])}, {}, CPU)
    compare("one", "two")
    said = capsys.readouterr().out
    assert "1 things are in A alone, as x old." in said
    assert "1 things are in B alone, as x new." in said
    assert "1 have fewer than 5 rounds on a side and cannot differ by this test: raise --rounds." in said


def test_folders_are_compared(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.append_rates("x", {"thing": Rate.of([1.0, 2, 3, 4, 5])}, {}, CPU)
    shutil.copytree(results, tmp_path / "other")
    compare(str(results), str(tmp_path / "other"))
    assert "0 of 1 differ beyond their spread" in capsys.readouterr().out


# --- what is measured on ----------------------------------------------------------------------------------------------


def test_the_made_set_has_imagenets_sizes_and_weights(tmp_path: Path) -> None:
    files = sorted((make_tree(tmp_path / "one", images=140) / "train").rglob("*.JPEG"))
    again = sorted((make_tree(tmp_path / "two", images=140) / "train").rglob("*.JPEG"))
    assert len(files) == 140
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    assert np.mean([file.stat().st_size for file in files]) == pytest.approx(110_000, rel=0.1)
    width, height = np.mean([Image.open(file).size for file in files], axis=0)
    assert width == pytest.approx(470, rel=0.05)
    assert height == pytest.approx(390, rel=0.08)


def test_reading_is_measured_cold_and_warm(tree: Path, results: Path) -> None:
    bench_storage.storage(data_dir=tree, rounds=1, seconds=0.01, workers=1)
    found = written(results / "storage.csv")
    assert [row["what"] for row in found[:4]] == [
        *("cold, in order", "cold, at random"),
        *("warm, in order", "warm, at random"),
    ]
    assert {row["options"].split()[0] for row in found} == {"set=tree", "set=shards"}
    for row in found:
        kb = float(row["options"].partition("kb=")[2].split()[0])
        assert float(row["mb_per_s"]) == pytest.approx(float(row["images_per_s"]) * kb / 1e3, rel=0.01, abs=0.1)
        assert 0 <= float(row["cached"]) <= 1
    files = sorted((tree / "train").rglob("*.JPEG"))
    for file in files:
        file.read_bytes()
    assert bench_storage.share_in_memory(files) == 1.0


def test_every_decoder_is_measured(tree: Path, results: Path) -> None:
    bench_decode.decode(data_dir=tree, images=100, size=32, batch_size=4, rounds=1, seconds=0.01, workers=2)
    found = written(results / "decode.csv")
    installed = [
        *(["native"] if why_missing() is None else []),
        *(["ffcv"] if ffcv.why_missing() is None else []),
        *(["dali"] if dali_graph.why_missing() is None else []),
        "reference",
    ]
    assert [row["what"] for row in found[: len(installed)]] == installed
    sets = dict.fromkeys(row["options"].split()[0] for row in found)
    assert list(sets) == ["set=original", "set=500_px", "set=400_px", "set=256_px", "set=raw_256_px"]
    assert all(float(row["megapixels_per_s"]) > 0 for row in found)
    megapixels = np.mean([np.prod(Image.open(file).size) for file in (tree / "train").rglob("*.JPEG")]) / 1e6
    first = found[0]
    assert float(first["megapixels_per_s"]) / float(first["images_per_s"]) == pytest.approx(megapixels, rel=0.02)


def test_uploads_are_measured(results: Path) -> None:
    bench_upload.upload(batch_size=4, size=32, rounds=1, seconds=0.01, device="cpu")
    (row,) = written(results / "upload.csv")
    assert (row["what"], row["device"]) == ("paged", "cpu")
    assert float(row["gb_per_s"]) == pytest.approx(float(row["images_per_s"]) * 3 * 32 * 32 / 1e9, abs=0.01)


# --- a simulated run --------------------------------------------------------------------------------------------------

DECODE = Use(resource="cores", amount=0.1, limit=2.0, weight=2.0)


def of_card(step_s: float, **stages: Use) -> Batches:
    return Batches(stages={"decode": DECODE, **stages}, step=Use(resource="card", amount=step_s, limit=1.0))


@pytest.mark.parametrize(
    ("batches", "rate"),
    [
        (of_card(0.02), 20.0),  # two cores decode 0.1 s of a core in 0.05 s
        (of_card(0.06), 1 / 0.06),
        (of_card(0.02, upload=Use(resource="link", amount=8.0)), 12.5),
        (of_card(0.02, read=Use(resource="disk", amount=10.0)), 10.0),
        # The one thread that uploads and augments does one after the other.
        (of_card(0.01, upload=Use(resource="link", amount=4.0), augment=Use(resource="cores", amount=0.0)), 20.0),
        (
            of_card(
                0.01, upload=Use(resource="link", amount=3.0), augment=Use(resource="card", amount=0.05, limit=1.0)
            ),
            1 / 0.08,
        ),
    ],
)
def test_the_slowest_stage_bounds_where_nothing_is_shared(batches: Batches, rate: float) -> None:
    outcome = simulate(batches, {"cores": 2.0, "card": 1.0, "link": 100.0, "disk": 100.0})
    assert outcome.batches_per_s == pytest.approx(rate, rel=0.02)


def test_a_step_on_the_cores_that_decode_takes_its_part_of_them() -> None:
    step = Use(resource="cores", amount=0.1, limit=2.0, weight=2.0)
    both = Batches(stages={"decode": DECODE}, step=step)
    assert simulate(both, {"cores": 2.0}).batches_per_s == pytest.approx(10.0, rel=0.02)
    spinning = dataclasses.replace(both, step=dataclasses.replace(step, in_company=0.5))
    # For 0.1 s of decoding at half the cores the step gets a quarter of them: 0.1 s and three quarters of 0.05 s.
    assert simulate(spinning, {"cores": 2.0}).batches_per_s == pytest.approx(1 / 0.125, rel=0.03)


def test_ranks_share_a_disk_and_wait_for_each_other() -> None:
    reading = of_card(0.01, read=Use(resource="disk", amount=10.0))
    capacities = {"cores": 64.0, "card": 1.0, "disk": 400.0, "network": 1e9}
    one, four = (simulate(reading, capacities, ranks=ranks).batches_per_s for ranks in (1, 4))
    assert (one, four) == (pytest.approx(20.0, rel=0.05), pytest.approx(10.0, rel=0.05))  # decoding, then the disk
    reducing = dataclasses.replace(of_card(0.05), reduce=Use(resource="network", amount=1e7))
    found = simulate(reducing, capacities, ranks=4)
    assert found.batches_per_s == pytest.approx(1 / (0.05 + 0.04), rel=0.02)


def test_waiting_and_work_are_counted() -> None:
    outcome = simulate(of_card(0.02), {"cores": 2.0, "card": 1.0})
    assert outcome.waited == pytest.approx(0.6, abs=0.01)
    assert outcome.busy["decode"] == pytest.approx(1.0, abs=0.01)
    assert outcome.busy["step"] == pytest.approx(0.4, abs=0.01)
    assert simulate(of_card(0.2), {"cores": 2.0, "card": 1.0}).waited == pytest.approx(0.0, abs=0.01)
    # Of two batches that come every 0.2 s, each reads for 0.15 s and then decodes for 0.05 s.
    reading = of_card(0.02, read=Use(resource="disk", amount=10.0))
    slow = simulate(reading, {"cores": 64.0, "card": 1.0, "disk": 100.0})
    assert slow.busy["read"] == pytest.approx(0.75, abs=0.02)
    assert slow.bound == "read"


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("read", Use(resource="disk", amount=40.0)),
        ("decode", dataclasses.replace(DECODE, amount=1.0)),
        ("upload", Use(resource="link", amount=40.0)),
        ("augment", Use(resource="cores", amount=0.4, limit=1.0)),
    ],
)
def test_the_stage_that_is_slowed_down_is_named(name: str, use: Use) -> None:
    fast, capacities = of_card(0.1), {"cores": 2.0, "card": 1.0, "link": 100.0, "disk": 100.0}
    assert simulate(fast, capacities).bound == "step"
    assert simulate(of_card(0.1, **{name: use}), capacities).bound == name


def test_a_run_is_simulated_from_rates_of_its_stages() -> None:
    """Two cores; decoding alone at 400 and steps at 100 images a second, and at half and a quarter of it together."""
    costs = {
        name: Cost(seconds=1 / rate, core_s=cores / rate)
        for name, rate, cores in (
            *((parts.READ, 1e6, 0.0), (parts.DECODE, 400.0, 2.0)),
            *((parts.STEP_BESIDE, 25.0, 2.0), (parts.DECODE_BESIDE, 200.0, 2.0), (parts.STEP, 100.0, 2.0)),
        )
    }
    outcome = bench_training.simulated(costs, 8, on_card=False, cores=2)
    beside_s = 1 / 200  # an image's decoding, in which steps are as slow as they were beside it
    assert 8 * outcome.batches_per_s == pytest.approx(1 / (beside_s + (1 - 25 * beside_s) / 100), rel=0.03)
    assert outcome.bound == "step"
    found = bench_training.simulated(costs, 8, on_card=True, cores=2)
    assert found.batches_per_s * 8 == pytest.approx(100, rel=0.01)


def test_shares_follow_weights_and_limits() -> None:
    uses = [
        Use(resource="r", amount=1, limit=1.0),
        Use(resource="r", amount=1, weight=3.0),
        Use(resource="r", amount=1),
    ]
    assert shared_out(uses, 9.0) == pytest.approx([1.0, 6.0, 2.0])


def test_costs_measured_alone_become_a_run() -> None:
    stages = {"decode": Cost(seconds=0.01, core_s=0.02), "step": Cost(seconds=0.02, core_s=0.04)}
    batches = Costs(stages=stages, on_card=False).batches(8)
    assert batches.stages["decode"].amount == pytest.approx(0.16)
    assert batches.stages["decode"].limit == pytest.approx(2.0)
    assert batches.step.resource == "cores"
    assert Costs(stages=stages, on_card=True).batches(8).step == Use(resource="card", amount=0.16, limit=1.0)
