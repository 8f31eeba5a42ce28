"""Pictures of every kind arrive as uint8 RGB, upright; what is no picture, or too large, is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xnemo.media.images import decode_jpeg, encode_jpeg, read_image, write_image
from xnemo.media.limits import Limits, MediaError


def stored(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colours() -> np.ndarray:
    """A 4 x 6 picture whose left half is red and right half blue."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :3], image[:, 3:] = (200, 10, 20), (10, 20, 200)
    return image


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_pictures_are_read_as_rgb(kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    np.testing.assert_array_equal(read_image(stored(Image.fromarray(colours()), kind, **options)), colours())


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    upright = read_image(stored(Image.fromarray(colours()), "jpeg", quality=100, exif=exif))
    assert upright.shape == (6, 4, 3)
    assert upright[0, 0, 0] > 150  # what was left is on top
    assert upright[-1, 0, 2] > 150


def test_transparent_pixels_lie_over_the_background() -> None:
    clear = Image.fromarray(np.zeros((2, 2, 4), np.uint8))
    assert (read_image(stored(clear)) == 255).all()
    assert (read_image(stored(clear), background=128) == 128).all()


def test_half_transparent_pixels_are_mixed() -> None:
    half = np.full((1, 1, 4), (0, 0, 0, 128), np.uint8)
    assert abs(int(read_image(stored(Image.fromarray(half)))[0, 0, 0]) - 127) <= 1


def test_a_palette_with_a_clear_colour_lies_over_the_background() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([9, 9, 9] * 256)
    assert (read_image(stored(image, transparency=0)) == 255).all()


def test_grey_becomes_three_channels() -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(stored(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    np.testing.assert_array_equal(read_image(stored(Image.fromarray(deep)))[0, :, 0], [0, 100, 255])


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = read_image(stored(image, "jpeg"))[0, 0]
    assert red[0] > 200
    assert red[1] < 80


def refused(data: bytes | Path, limits: Limits | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        read_image(data, limits=limits or Limits())
    return caught.value.code


def test_a_picture_beyond_the_pixel_limit_is_refused() -> None:
    assert refused(stored(Image.fromarray(colours())), Limits(pixels=23)) == "too_large"


def test_a_decompression_bomb_is_refused_before_it_unfolds() -> None:
    assert refused(stored(Image.new("1", (14_000, 14_000)))) == "too_large"


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"GIF89a" + bytes(50), b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0"])
def test_other_formats_are_refused(data: bytes) -> None:
    assert refused(data) == "format"


def test_a_damaged_picture_is_refused() -> None:
    data = stored(Image.effect_noise((64, 64), 50))
    assert refused(data[: len(data) // 2]) == "unreadable"


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nobody\.png"):
        read_image(tmp_path / "nobody.png")


def test_jpeg_keeps_colour_order() -> None:
    image = np.kron(colours(), np.ones((16, 16, 1), np.uint8))
    assert np.abs(decode_jpeg(encode_jpeg(image)).astype(int) - image).mean() < 4


def test_decoding_resizes_on_request() -> None:
    assert decode_jpeg(encode_jpeg(np.zeros((64, 64, 3), np.uint8)), 16).shape == (16, 16, 3)


def test_a_damaged_stored_frame_is_an_error() -> None:
    with pytest.raises(MediaError, match="shard"):
        decode_jpeg(b"no jpeg")


def test_a_written_picture_is_read_back(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", colours())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
