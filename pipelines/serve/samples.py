"""Drawn portraits and driving clips that the page offers to try; nobody real is in them."""

from pathlib import Path

from pipelines.evaluation.drawn import UNSEEN

EMOTIONS = ("happy", "surprised", "angry", "sad")


def draw(folder: Path) -> Path:
    """Make folder/portraits/*.png and folder/driving/*.mp4; what is there already is kept."""
    from xnemo.synthetic import clips

    for index in range(6):
        if not (portrait := folder / "portraits" / f"head-{index}.png").exists():
            clips.portrait(portrait, UNSEEN + 100 + index, 256)
    for index, emotion in enumerate(EMOTIONS):
        if not (driving := folder / "driving" / f"{emotion}.mp4").exists():
            clips.write_clip(driving, UNSEEN + 200 + index, UNSEEN + 200 + index, 2.0, 192, emotion)
    return folder
