"""Images of more than 8 bits a value, on their way into a converted set."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from test_convert_images import photograph, rgb

from convert.images import BadImage, ImagePolicy, store


def test_16_bits_keep_their_brightness_in_every_format() -> None:
    levels = np.asarray(photograph().convert("L")).astype(np.uint16) * 257
    for kind in ("PNG", "TIFF", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, kind)
        stored = store(buffer.getvalue(), ImagePolicy.parse("original"))
        assert abs(rgb(stored.data).mean() - levels.mean() / 257) < 1.0, kind
    buffer = io.BytesIO()
    Image.fromarray(levels.astype(np.float32)).save(buffer, "TIFF")
    with pytest.raises(BadImage, match="floating-point"):
        store(buffer.getvalue(), ImagePolicy.parse("original"))
