"""A picture file becomes what Fashion-MNIST consists of, whatever program wrote it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradmq.jobs.fashion_picture import MAX_PIXELS, inputs_of_picture


def file_of(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def read(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    (image,) = inputs_of_picture(content).values()
    assert image.shape == (1, 28, 28) and image.dtype == np.uint8
    return image[0]


def a_shirt(width: int = 28, height: int = 28) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bright in the middle, in many shades, black at the border."""
    picture = np.zeros((height, width), np.uint8)
    top, left = height // 4, width // 4
    inside = picture[top : height - top, left : width - left]
    inside[:] = np.linspace(130, 250, inside.size).reshape(inside.shape)
    return picture


def test_a_picture_of_the_data_comes_out_as_it_is_and_so_does_its_negative() -> None:
    shirt = a_shirt()
    assert np.array_equal(read(file_of(Image.fromarray(shirt))), shirt)
    assert np.array_equal(read(file_of(Image.fromarray(255 - shirt))), shirt)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16"])
def test_the_way_its_pixels_are_stored_does_not_matter(mode: str) -> None:
    shirt = a_shirt()
    stored = (
        Image.fromarray(shirt.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(shirt).convert(mode)
    )
    assert stored.mode == mode
    assert np.abs(read(file_of(stored)).astype(int) - shirt).max() <= 1


def test_a_jpeg_is_read_too() -> None:
    shirt = a_shirt(280, 280)
    assert np.abs(read(file_of(Image.fromarray(shirt), "JPEG")).astype(int) - read(
        file_of(Image.fromarray(shirt)))).max() < 30  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(280, 140), (28, 14), (8, 4)])
def test_a_wide_picture_is_put_in_the_middle_with_black_around_it(width: int, height: int) -> None:
    answer = read(file_of(Image.new("L", (width, height), 100)))
    assert np.all(answer[7:21] == 100)
    assert not answer[:7].any() and not answer[21:].any()


def test_a_line_of_pixels_is_a_picture_too() -> None:
    assert read(file_of(Image.new("L", (1000, 1), 100))).any()


@pytest.mark.parametrize("shade", [0, 60, 200, 255])
def test_what_is_transparent_is_filled_so_that_the_rest_stands_out(shade: int) -> None:
    picture = np.zeros((28, 28, 4), np.uint8)
    picture[..., :3] = 77  # of pixels that nobody sees
    picture[7:21, 7:21] = shade, shade, shade, 255
    answer = read(file_of(Image.fromarray(picture)))
    assert np.all(answer[7:21, 7:21] == max(shade, 255 - shade))
    assert not answer[0].any()


def test_a_picture_with_nothing_to_see_is_black() -> None:
    assert not read(file_of(Image.new("RGBA", (9, 9)))).any()


def test_a_picture_that_a_camera_wrote_sideways_is_turned() -> None:
    upright = np.zeros((28, 28), np.uint8)
    upright[2:8, 5:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    sideways = Image.fromarray(np.rot90(upright).copy())
    assert np.array_equal(read(file_of(sideways, exif=exif)), upright)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GIF89a", "neither PNG nor JPEG"),
        (b"", "neither PNG nor JPEG"),
        (file_of(Image.fromarray(a_shirt()))[:80], "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (file_of(Image.fromarray(a_shirt()), "JPEG")[:300], "damaged"),
        (
            file_of(
                Image.new("L", (4, 4)), save_all=True, append_images=[Image.new("L", (4, 4), 9)]
            ),
            "several frames",
        ),
    ],
    ids=["gif", "empty", "cut off", "only the beginning", "jpeg cut off", "animated"],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        inputs_of_picture(content)


def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded() -> None:
    huge = file_of(Image.new("1", (4097, 4096)))
    assert len(huge) < 10_000
    with pytest.raises(ValueError, match=f"4097 x 4096 pixels, more than {MAX_PIXELS}"):
        inputs_of_picture(huge)
