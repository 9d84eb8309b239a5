"""The compiled library: found beside this file, opened once, with the types of its calls."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

IS_FOR_ANOTHER, IS_DONE, IS_GONE = 0, 1, 2  # as batch.h has them
_POINTER = ctypes.c_void_p
_I32, _I64 = ctypes.c_int32, ctypes.c_int64
_REASON = (
    "the native decoder was not built: install g++ and libjpeg-turbo's headers (Debian: libjpeg-dev), then twistnet "
    "again, with pip install -v where it fails"
)


@functools.cache
def why_missing() -> str | None:
    """What keeps the library from being used, with the next step; None where it is there."""
    try:
        library()
    except OSError as error:
        return str(error)
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The library. Its calls let other Python threads run meanwhile.

    Raises:
        OSError: where it was not built, or cannot be opened.
    """
    # Built as an extension module, whose suffix names the interpreter, though it knows nothing of Python.
    found = sorted(Path(__file__).parent.glob("_native*.so"))
    if not found:
        raise OSError(_REASON)
    try:
        opened = ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise OSError(f"{found[0]} cannot be opened ({error}): install twistnet again") from error
    try:
        _declare(opened)
    except AttributeError as error:
        raise OSError(f"{found[0]} is of another version ({error}): install twistnet again") from error
    return opened


def _declare(opened: ctypes.CDLL) -> None:
    """Sets the types of all calls."""
    opened.twistnet_open.argtypes = [_I32]
    opened.twistnet_open.restype = _POINTER
    opened.twistnet_close.argtypes = [_POINTER]
    opened.twistnet_close.restype = None
    opened.twistnet_copy.argtypes = [_POINTER, ctypes.c_uint64, _POINTER]
    opened.twistnet_copy.restype = _I32
    opened.twistnet_sizes.argtypes = [_I64, _POINTER, _POINTER, _POINTER]
    opened.twistnet_sizes.restype = None
    opened.twistnet_decode.argtypes = [_POINTER, _I64, *[_POINTER] * 6, _I32, _I32, _I32, _POINTER, _POINTER]
    opened.twistnet_decode.restype = None
    opened.twistnet_ffcv_open.argtypes = [_I32]
    opened.twistnet_ffcv_open.restype = _POINTER
    opened.twistnet_ffcv_close.argtypes = [_POINTER]
    opened.twistnet_ffcv_close.restype = None
    opened.twistnet_ffcv_decode.argtypes = [*[_POINTER] * 3, _I64, *[_POINTER] * 7, _I32, _I32, _POINTER, _POINTER]
    opened.twistnet_ffcv_decode.restype = None
    opened.twistnet_pack_open.argtypes = [_I32]
    opened.twistnet_pack_open.restype = _POINTER
    opened.twistnet_pack_close.argtypes = [_POINTER]
    opened.twistnet_pack_close.restype = None
    opened.twistnet_pack_jpegs.argtypes = [_POINTER, _I64, *[_POINTER] * 5]
    opened.twistnet_pack_jpegs.restype = None
    opened.twistnet_pack_boxes.argtypes = [_POINTER, _I64, *[_POINTER] * 8]
    opened.twistnet_pack_boxes.restype = None
    opened.twistnet_augment_open.argtypes = [_I32]
    opened.twistnet_augment_open.restype = _POINTER
    opened.twistnet_augment_close.argtypes = [_POINTER]
    opened.twistnet_augment_close.restype = None
    images = (_POINTER, _I64, _I32, _I32)
    opened.twistnet_operations.argtypes = [*images, _I32, *[_POINTER] * 5]
    opened.twistnet_operations.restype = _I32
    opened.twistnet_finish.argtypes = [*images, *[_POINTER] * 8]
    opened.twistnet_finish.restype = _I32
    draw = (_I64, _POINTER, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, _I64)
    opened.twistnet_words.argtypes = [*draw, _I64, _POINTER]
    opened.twistnet_words.restype = None
    opened.twistnet_crops.argtypes = [*draw, *[_POINTER] * 5]
    opened.twistnet_crops.restype = None
