"""The page in a real browser, from the drop to the download, by mouse and by keyboard, on a desk and on a phone.

Pictures of each stop are left in the test's folder (`pytest --basetemp=…` keeps them).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.serve.config import ServeConfig
from tests.pipelines.serve.browser import Page, chromium
from tests.pipelines.serve.conftest import heads, listening
from xnemo_platform.access import Access

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("browser")
    film = folder / "camera.mjpeg"
    film.write_bytes(b"".join(_jpegs()))
    camera = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
              f"--use-file-for-fake-video-capture={film}")  # fmt: skip
    with chromium(folder / "profile", *camera) as page:
        page.size(1100, 900)
        page.open(served)
        yield page


def _jpegs() -> Iterator[bytes]:
    from xnemo.media.images import encode_jpeg

    for head in heads(9, 2, 50, 256):
        yield encode_jpeg(head)


def animate(page: Page) -> None:
    page.until("!document.getElementById('start').disabled")
    page.js("document.querySelector('[name=steps]').value = 2")
    page.js("document.getElementById('start').click()")
    page.until("!document.getElementById('result').hidden")
    page.until("document.getElementById('video').readyState >= 2")


def test_a_portrait_is_animated_compared_and_downloaded(
    page: Page, served: str, portrait: Path, driving: Path, tmp_path: Path
) -> None:
    page.until("document.getElementById('model').textContent.includes('tiny')")
    assert page.js("document.getElementById('start').disabled")
    page.upload("#portrait", portrait)
    page.upload("#driving", driving)
    animate(page)
    assert page.js("document.getElementById('facts').textContent").startswith("Portrait, animated · 10 frames")
    assert not page.js("document.getElementById('driver-figure').hidden")
    assert page.js("fetch(document.getElementById('download').href).then(a => a.blob()).then(b => b.size)") > 1000
    assert page.js("document.activeElement.id") == "result-title"
    page.until("document.querySelectorAll('#gallery button').length === 1")
    page.picture(tmp_path / "result.png")


def test_the_samples_can_be_tried(page: Page) -> None:
    page.js("for (const role of ['portrait', 'driving']) document.querySelector(`#${role}-samples button`).click()")
    page.until("document.getElementById('driving-drop').textContent.includes('driving.mp4')")
    page.until("document.getElementById('portrait-drop').textContent.includes('portrait.png')")
    assert not page.js("document.getElementById('start').disabled")


def test_a_motion_is_kept_used_again_and_blended(page: Page, portrait: Path, driving: Path, tmp_path: Path) -> None:
    page.upload("#driving", driving)
    page.until("!document.getElementById('keep').disabled")
    page.js("document.getElementById('keep').click()")
    page.until("document.querySelectorAll('#motions li').length === 1")
    page.js("document.getElementById('blend-b-at').value = 0.3; document.getElementById('blend-seconds').value = 1;"
            "document.getElementById('blend-go').click()")  # fmt: skip
    page.until("document.querySelectorAll('#motions li').length === 2")
    page.upload("#portrait", portrait)
    page.js("document.querySelector('#motions button').click()")
    assert "Motion: driving, blended" in page.js("document.getElementById('driving-drop').textContent")
    animate(page)
    assert "25 frames" in page.js("document.getElementById('facts').textContent")
    page.picture(tmp_path / "motions.png")


def test_the_camera_gives_a_driving_video(page: Page, tmp_path: Path) -> None:
    page.js("document.getElementById('camera').click()")
    page.until("!document.getElementById('record').disabled")
    page.js("document.getElementById('record').click()")
    page.until("document.getElementById('camera-says').textContent.startsWith('Recording, 2')")
    page.picture(tmp_path / "camera.png")
    page.js("document.getElementById('record').click()")
    page.until("document.getElementById('driving-drop').textContent.includes('camera')")
    assert not page.js("document.getElementById('studio').open")
    animate(page)


def test_a_reason_is_shown_where_it_failed(page: Page, driving: Path, tmp_path: Path) -> None:
    from xnemo.media.images import write_image

    write_image(tmp_path / "blank.png", heads(5, 1, 1)[0] * 0 + 99)
    page.upload("#portrait", tmp_path / "blank.png")
    page.upload("#driving", driving)
    page.until("!document.getElementById('start').disabled")
    page.js("document.getElementById('start').click()")
    page.until("!document.getElementById('error').hidden")
    assert "no face was found" in page.js("document.getElementById('error').textContent").lower()


def test_it_works_by_keyboard_alone_and_every_control_has_a_name(
    page: Page, served: str, portrait: Path, driving: Path
) -> None:
    page.open(served + "/?keyboard")
    page.upload("#portrait", portrait)
    page.upload("#driving", driving)
    page.until("!document.getElementById('start').disabled")
    page.js("document.getElementById('theme').focus()")
    for _ in range(40):
        page.press("Tab", 9)
        if page.js("document.activeElement.id") == "start":
            break
    else:
        pytest.fail("the button cannot be reached with Tab")
    page.press("Enter", 13)
    page.until("!document.getElementById('result').hidden")
    nameless = """[...document.querySelectorAll('button, input, select, a, video, summary')].filter(node =>
      !(node.getAttribute('aria-label') || node.textContent.trim() || (node.labels && node.labels.length)
        || node.tagName === 'VIDEO')).map(node => node.outerHTML)"""
    assert page.js(nameless) == []
    assert page.js("document.documentElement.lang") == "en"


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, served: str, tmp_path: Path) -> None:
    page.size(375, 812, phone=True)
    page.open(served + "/?phone")
    page.until("document.querySelectorAll('#gallery button').length > 0")
    for theme in ("light", "dark"):
        page.js(f"document.documentElement.dataset.theme = '{theme}'")
        assert page.js("document.documentElement.scrollWidth") <= 375
        page.js("Promise.all(document.getAnimations().map(each => each.finished)).then(() => 0)")
        page.picture(tmp_path / f"phone-{theme}.png")
    page.size(1100, 900)


def test_every_call_is_described(page: Page, served: str, tmp_path: Path) -> None:
    page.open(served + "/docs")
    page.until("document.querySelectorAll('.call').length >= 14")
    assert "curl -F portrait=@p.png" in page.js("document.body.textContent")
    page.picture(tmp_path / "docs.png")


def test_nothing_went_wrong_unseen(page: Page) -> None:
    assert page.errors == []


def test_a_service_with_keys_asks_for_one(config: ServeConfig, tmp_path: Path) -> None:
    closed = config.model_copy(update={"folder": str(tmp_path / "closed"), "require_key": True})
    with listening(closed) as url, chromium(tmp_path / "profile") as page:
        page.open(url)
        page.until("!document.getElementById('key-form').hidden")
        token = Access(closed.store_url).make("ada")
        page.js(f"document.getElementById('key').value = '{token}'")
        page.js("document.getElementById('key-form').requestSubmit()")
        page.until("document.getElementById('key-form').hidden")
        page.picture(tmp_path / "key.png")
