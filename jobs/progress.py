"""Progress bars with an ETA for the commands a person watches."""

from collections.abc import Callable

from tqdm import tqdm

LABELS = {"faces": "finding faces", "motion": "reading motion", "steps": "denoising", "frames": "decoding"}


def bars() -> Callable[[str, int, int], None]:
    """A callback (stage, done, total) that draws one bar after the other on standard error."""
    shown: dict[str, tqdm] = {}

    def update(stage: str, done: int, total: int) -> None:
        if stage not in shown:
            shown[stage] = tqdm(desc=f"{LABELS.get(stage, stage):<14}", total=total or None, unit="", leave=True)
        bar = shown[stage]
        bar.update(done - bar.n)
        if total and done >= total:
            bar.close()

    return update
