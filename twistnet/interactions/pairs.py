"""Which products a head makes, and in what order: arXiv 2602.07262, as its authors' code stores them."""

from __future__ import annotations

HEAD_CHANNELS = 8
EPS = 1e-6  # least norm that channels are divided by
# Every pair i <= j of a head's channels, i outer and j inner.
PAIRS = tuple((i, j) for i in range(HEAD_CHANNELS) for j in range(i, HEAD_CHANNELS))
INTERACTION_CHANNELS = HEAD_CHANNELS + len(PAIRS)
