"""What augmentation is given and refuses: draws, settings, images; and the memory, locks and numbers that go in with
them."""

from __future__ import annotations

import numpy as np
import pytest

from loaders import draws as sample_draws
from loaders.augment import Mix
from loaders.draws import CUTMIX, MIXUP
from loaders.native.library import why_missing
from loaders.philox import Purpose, bits, uniforms


@pytest.mark.parametrize("compiled", [True, False])
def test_words_from_a_place_on_are_those_of_all_words(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("loaders.philox.why_missing", lambda: "not built")
    elif why_missing():
        pytest.skip("needs the compiled library")
    ids = np.random.default_rng(0).integers(0, 2**32, 500)
    whole = bits(2**63 + 7, 3, ids, Purpose.MIX, 68)
    for start, count in ((0, 8), (36, 4), (4, 5), (64, 4)):
        part = bits(2**63 + 7, 3, ids, Purpose.MIX, count, start=start)
        np.testing.assert_array_equal(part, whole[:, start : start + count])


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
@pytest.mark.parametrize("probability", [1.0, 0.6])
def test_mixings_weights_are_those_of_all_tries(alpha: float, probability: float) -> None:
    """Tries after the first are drawn only where they count, which must not be seen."""
    ids = np.random.default_rng(1).permutation(100_000)[:16_000]
    of_all, first = np.zeros(len(ids), dtype=np.int64), np.r_[0:4, 32:36]
    tries = uniforms(5, 2, ids, Purpose.MIX, 68)[:, 4:]
    weight, settled = sample_draws.symmetric_beta(tries, (alpha,), of_all)
    at_first, settled_at_first = sample_draws.symmetric_beta(tries[:, first], (alpha,), of_all)
    assert settled.all()
    assert 0.005 < (weight != at_first).mean() < 0.1, "some need another try"
    np.testing.assert_array_equal(weight[settled_at_first], at_first[settled_at_first])

    mixup = Mix(mixup_alpha=alpha, cutmix_alpha=0.0, probability=probability).draw(5, 2, ids, 224)
    np.testing.assert_array_equal(mixup.weight, np.where(mixup.kind == MIXUP, weight, 1.0).astype(np.float32))
    cutmix = Mix(mixup_alpha=0.0, cutmix_alpha=alpha, probability=probability).draw(5, 2, ids, 10**6)
    uncut = (cutmix.boxes[:, :2] > 0).all(axis=1) & (cutmix.boxes[:, 2:] < 10**6).all(axis=1)
    assert uncut.mean() > 0.05
    np.testing.assert_allclose(cutmix.weight[uncut], weight[uncut], atol=1e-5)
    both = Mix(mixup_alpha=alpha, cutmix_alpha=alpha, probability=probability).draw(5, 2, ids, 10**6)
    for kind, alone in ((MIXUP, mixup), (CUTMIX, cutmix)):
        where = both.kind == kind
        assert where.mean() > 0.2
        np.testing.assert_array_equal(both.weight[where], alone.weight[where])
        np.testing.assert_array_equal(both.boxes[where], alone.boxes[where])
