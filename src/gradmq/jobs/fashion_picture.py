"""A picture file of a piece of clothing, made into what Fashion-MNIST consists of.

Its pictures are 28 by 28, white on black: photographs on white, made grey, inverted and shrunk.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Grey = np.ndarray[Any, np.dtype[np.uint8]]

SIDE: Final = 28

#: Cameras of telephones make 12 million; decoding takes up to 16 bytes of memory for each.
MAX_PIXELS: Final = 2**24

#: Pictures are worked on at about so many pixels a side; JPEG files are decoded no larger if they
#: can be.
_ENOUGH: Final = 8 * SIDE

#: What Pillow raises for files that are damaged, or made to damage.
_BROKEN: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)

_PNG_BEGINS: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_BEGINS: Final = b"\xff\xd8\xff"


def inputs_of_picture(content: bytes) -> Mapping[str, np.ndarray[Any, Any]]:
    """The model's one input, (1, 28, 28) uint8, of a PNG or JPEG file.

    Raises ``ValueError`` that says what is wrong with the file; may be called in any thread.
    """
    return {"image": as_in_the_data(grey_of(content))[np.newaxis]}


def grey_of(content: bytes) -> Grey:
    """The picture (H, W) in shades of grey, upright, filled where it is transparent, maybe smaller.

    Raises ``ValueError`` as ``inputs_of_picture``; size and frames are looked at before any pixel.
    """
    try:
        # Pillow warns of what is odd in a file: that is for nobody here, and would fill the log.
        with warnings.catch_warnings(action="ignore"):
            return _grey(_loaded(content))
    except _Unfit:
        raise
    except _BROKEN as error:
        raise ValueError(f"it is damaged: {error}") from error


class _Unfit(ValueError):
    """What is wrong with a file that can be read."""


def _loaded(content: bytes) -> Image.Image:
    from PIL import ImageOps

    picture = _opened(content)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _Unfit(f"it has {width} x {height} pixels, more than {MAX_PIXELS}")
    if getattr(picture, "n_frames", 1) > 1:
        raise _Unfit("it has several frames: send one of them")
    picture.draft("L", (_ENOUGH, _ENOUGH))
    picture.load()
    return ImageOps.exif_transpose(picture)


def _opened(content: bytes) -> Image.Image:
    # Not Image.open: that also tries formats that nobody declared here, and only warns of files
    # that become huge.
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    if content.startswith(_PNG_BEGINS):
        return PngImageFile(BytesIO(content))
    if content.startswith(_JPEG_BEGINS):
        return JpegImageFile(BytesIO(content))
    raise _Unfit("it is neither PNG nor JPEG")


def _grey(picture: Image.Image) -> Grey:
    if picture.mode.startswith("I"):  # 16 bits a pixel
        return (np.asarray(picture) // 256).clip(0, 255).astype(np.uint8)
    shrink = max(1, max(picture.size) // _ENOUGH)
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("L").reduce(shrink))
    pixels = np.asarray(picture.convert("RGBA").reduce(shrink).convert("LA"), np.float32)
    grey, opacity = pixels[..., 0], pixels[..., 1] / 255
    seen = opacity.sum()
    mean = (grey * opacity).sum() / seen if seen else 0.0
    # Of black and white the ground that what can be seen stands out from.
    ground = 0.0 if mean > 127.5 else 255.0
    return (grey * opacity + ground * (1 - opacity)).round().astype(np.uint8)


def as_in_the_data(grey: Grey) -> Grey:
    """A picture of any size as (28, 28): white on black, its longer side 28, in the middle.

    It is inverted if its border is bright in the mean: so every picture of the data comes out
    as it is, and as it is from its negative too.
    """
    from PIL import Image

    border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    white_on_black = 255 - grey if border.mean() > 127.5 else grey
    height, width = grey.shape
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = Image.fromarray(white_on_black).resize(size, Image.Resampling.LANCZOS)
    answer = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    answer[top : top + size[1], left : left + size[0]] = np.asarray(fitted)
    return answer
