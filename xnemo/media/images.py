"""Pictures in and out. Everything inside the project is uint8 RGB, HWC."""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np

from xnemo.media.limits import LIMITS, Limits, MediaError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1")
_FIRST_BYTES = ((0, b"\xff\xd8\xff"), (0, b"\x89PNG"), (8, b"WEBP"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"),
                (4, b"ftypavif"), *((4, b"ftyp" + brand) for brand in _HEIC))  # fmt: skip


def is_picture(path: str | Path) -> bool:
    """Whether a file begins like a still picture (and not like a video). Raises MediaError if it cannot be read."""
    return any(_head(path)[at : at + len(magic)] == magic for at, magic in _FIRST_BYTES)


def _head(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise MediaError("unreadable", f"{path} cannot be read: {error.strerror}") from error


def _heic_plugin(head: bytes) -> tuple[str, ...]:
    """Pillow's name for HEIC, if that is what this is and the package pillow-heif is installed to read it."""
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIC:
        return ()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise MediaError(
            "format", "HEIC pictures need the package pillow-heif: install it, or convert the picture to JPEG"
        ) from None
    register_heif_opener()
    return ("HEIF",)


def read_image(source: str | Path | bytes, *, background: int = 255, limits: Limits = LIMITS) -> np.ndarray:
    """Read JPEG, PNG, WebP, AVIF, BMP, TIFF or (with pillow-heif) HEIC as uint8 RGB [H, W, 3].

    The EXIF rotation is applied, transparent pixels lie over the grey level `background` (255 white), grey
    becomes three equal channels, 16 bit is scaled to 8, of several pages the first is taken. Raises
    MediaError: `unreadable`, `format`, `too_large`.
    """
    from PIL import Image, ImageOps

    name = "the picture" if isinstance(source, bytes) else Path(source).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of size; the limit below refuses
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            head = source[:16] if isinstance(source, bytes) else _head(source)
            if not head:
                raise MediaError("format", f"{name} is empty (0 bytes): copy it again")
            with Image.open(file, formats=_FORMATS + _heic_plugin(head)) as image:
                if image.width * image.height > limits.pixels:
                    raise MediaError(
                        "too_large",
                        f"{name} is {image.width}x{image.height}; at most "
                        f"{limits.pixels} pixels are read: scale it down first",
                    )
                return _to_rgb(ImageOps.exif_transpose(image), background)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError("too_large", f"{name} is too large ({error}): scale it down first") from error
    except Image.UnidentifiedImageError as error:
        raise MediaError("format", f"{name} is no JPEG, PNG, WebP, AVIF, BMP or TIFF picture: convert it") from error
    except Exception as error:  # Pillow raises anything at all on damaged files
        raise MediaError("unreadable", f"{name} cannot be read: {error}") from error


def _to_rgb(image, background: int) -> np.ndarray:  # type: ignore[no-untyped-def]  # a PIL image
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, np.float32)
        grey = grey / 257.0 if image.mode != "F" or grey.max() > 255 else grey  # 65535 -> 255
        return np.repeat(np.clip(grey + 0.5, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (background,) * 3 + (255,)), image)
    return np.asarray(image.convert("RGB"))


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """uint8 RGB [H, W, 3] to JPEG bytes."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise MediaError("unwritable", f"a picture of shape {image.shape} cannot be written as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes, size: int | None = None) -> np.ndarray:
    """JPEG bytes to uint8 RGB [H, W, 3]; with `size` resized to [size, size, 3], averaging when it shrinks.

    For pictures this project wrote (shards): no limits are checked. Raises MediaError if the bytes are damaged.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise MediaError("corrupt", "a stored frame is no readable JPEG: the shard is damaged")
    return image if size is None or image.shape[0] == size else resize(image, size, size)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3]; the format follows the name's ending (png, jpg, webp)."""
    from PIL import Image

    path = Path(path)
    partial = path.with_name(f".part-{path.name}")
    Image.fromarray(image).save(partial)
    partial.rename(path)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize [H, W, 3] by averaging where it shrinks, by cubic interpolation where it grows."""
    shrinks = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
