"""Progress bars with an ETA, in frames, for the commands a person watches."""

from collections.abc import Callable

from tqdm import tqdm

_drawn: list[tqdm] = []
LABELS = {"faces": "finding faces", "motion": "reading motion", "steps": "denoising"}


def close() -> None:
    """End the line of a bar that is still being drawn, so that what is printed next stands on its own."""
    for bar in _drawn:
        bar.close()
    _drawn.clear()


def bars() -> Callable[[str, int, int], None]:
    """A callback (stage, done, total) that draws one bar after the other on standard error.

    "steps" counts calls of the denoiser; they are shown as the frames they are worth. Finished "frames" have no bar of
    their own: the denoiser's runs on while they are written.
    """
    shown: dict[str, tqdm] = {}
    frames = 0

    def update(stage: str, done: int, total: int) -> None:
        nonlocal frames
        if stage == "frames":
            frames = total
            return
        if stage == "steps" and frames:
            done, total = done * frames // total, frames
        bar = shown.get(stage)
        if bar is None or (done < bar.n and stage != "steps"):  # a second driver begins anew
            bar = shown[stage] = tqdm(desc=f"{LABELS.get(stage, stage):<14}", total=total or None, unit=" frames")
            _drawn.append(bar)
            bar.initial = bar.n = done if stage == "steps" and done > total // 10 else 0  # resumed: not at this pace
        bar.update(done - bar.n)
        if total and done >= total:
            bar.close()

    return update
