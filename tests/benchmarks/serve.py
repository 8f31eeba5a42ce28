"""`make bench-serve`: the service on Ray Serve against the same work done directly. Printed, never asserted.

The bundled small model, drawn heads, everything on this machine; ratios compare what ran in turns within one run, so
that other load on the machine falls on both sides.
"""

import argparse
import functools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import ray
import torch

import xnemo
from pipelines.models import BUNDLED, load
from pipelines.serve import api
from pipelines.serve.config import Limits, ServeConfig
from pipelines.serve.scheduler import Scheduler
from xnemo.animation import decode, encode_driving, encode_portrait, motion_tokens, noise
from xnemo.client import Client
from xnemo.clip import save_frames
from xnemo.media.faces import detector
from xnemo.media.images import write_image
from xnemo.media.video import write_video
from xnemo.prepare import prepare_driving, prepare_portrait
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render

CLIENTS, BATCH = 8, 4


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--long", type=float, default=60.0, help="seconds of the long clip")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="xnemo-bench-") as name:
        folder = Path(name)
        portrait, short = draw(folder / "p.png", folder / "short.mp4", 2.0)
        _, long = draw(folder / "p.png", folder / "long.mp4", chosen.long)
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
        config = ServeConfig(
            model="bundled", folder=str(folder / "serve"), samples=str(folder), port=0, device="cpu", active=CLIENTS,
            limits=Limits(seconds=600, frames=20000, queue=64),
        )  # fmt: skip
        try:
            client = Client(api.start(config))
            work = functools.partial(served, client, portrait, steps=chosen.steps)
            measure(client, work, portrait, short, chosen.steps, chosen.repeats)
            measure_beside(work, short, long, 3 * chosen.repeats)
        finally:
            api.stop()
            ray.shutdown()


def served(client: Client, portrait: Path, driving: Path, steps: int) -> None:
    """One animation by the service, from the upload to the video on disk."""
    own = Client(client.url)
    job = own.post("/v1/animations", {"portrait": portrait, "driving": driving}, {"steps": steps, "label": False})
    own.download(own.finish(job)["links"]["video"], driving.with_name(f"{threading.get_ident()}.mp4"))


def measure(
    client: Client, work: Callable[[Path], None], portrait: Path, short: Path, steps: int, repeats: int
) -> None:
    model = load(BUNDLED)
    out = short.with_name("direct.mp4")
    print("idle replicas, resident: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory(client)), flush=True)

    def direct() -> None:
        xnemo.animate(model, portrait=portrait, driving=short, steps=steps, seed=0).save(out)

    def at_once() -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(work, [short] * CLIENTS))

    alone = turns({"service": lambda: work(short), "direct": direct}, repeats)
    ratio, over = alone["service"] / alone["direct"], 1000 * (alone["service"] - 1.1 * alone["direct"])
    print(f"one client: {alone['service']:.2f} s, direct call {alone['direct']:.2f} s: ratio {ratio:.2f}, "
          f"{over:+.0f} ms to 1.1 times (bound: +150)", flush=True)  # fmt: skip
    together = turns({"service": at_once, "batched": lambda: offline(model, portrait, short, steps, BATCH, out),
                      "one by one": lambda: offline(model, portrait, short, steps, 1, out)}, repeats)  # fmt: skip
    best = min(together["batched"], together["one by one"])
    print(
        f"{CLIENTS} clients: {CLIENTS / together['service']:.2f} clips/s, offline at best {CLIENTS / best:.2f}: "
        f"{best / together['service']:.2f} of it (bound: 0.95)"
    )
    print(f"batches of {BATCH} against single windows, offline: "
          f"{together['one by one'] / together['batched']:.2f} times the throughput (bound: 1.5 where the hardware "
          "allows)", flush=True)  # fmt: skip


def measure_beside(work: Callable[[Path], None], short: Path, long: Path, most: int) -> None:
    crowd = beside(lambda: work(short), lambda: work(long), most)
    quiet = sorted(timed(lambda: work(short)) for _ in range(most))
    print(f"2 s request: p95 {p95(quiet):.2f} s alone, {p95(crowd):.2f} s beside the long one: "
          f"{p95(crowd) / p95(quiet):.2f} times (bound: 2.5; {len(crowd)} requests: "
          f"{', '.join(f'{each:.2f}' for each in crowd)})")  # fmt: skip


def offline(model: xnemo.model.XNeMo, portrait: Path, driving: Path, steps: int, batch: int, out: Path) -> None:
    """The work of all clients at once, without a service."""
    scheduler, finder = Scheduler(model, batch), detector()
    fps = {}
    for number in range(CLIENTS):
        reference = encode_portrait(model, prepare_portrait(portrait, model.config, finder))
        motion = encode_driving(model, prepare_driving(driving, finder))
        tokens, first = motion_tokens(model, motion), noise(model, len(motion), 0)
        scale = model.config.guidance_scale
        scheduler.join(scheduler.prepare(str(number), reference, tokens, first, steps, scale))
        fps[str(number)] = motion.fps
    while scheduler.requests:
        for request in scheduler.advance():
            frames = (frame for part in decode(model, request.latents) for frame in part)
            save_frames(out, frames, fps[request.id])


def beside(work: Callable[[], None], load: Callable[[], None], most: int) -> list[float]:
    """Seconds of `work`, again and again while `load` runs."""
    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(2.0)
    seconds = []
    while thread.is_alive() and len(seconds) < most:
        seconds.append(timed(work))
    thread.join()
    return sorted(seconds)


def turns(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turns, after one round to warm up."""
    rounds = [{name: timed(work) for name, work in works.items()} for _ in range(repeats + 1)][1:]
    return {name: statistics.median(each[name] for each in rounds) for name in works}


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def p95(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def memory(client: Client) -> list[tuple[str, float]]:
    """Of every replica with its child processes, in MiB."""
    [card] = client.session.get(f"{client.url}/v1/models", timeout=30).json()["models"]
    raylet = psutil.Process(int(card["engine"].split("-")[-2])).parent()
    assert raylet is not None
    found = []
    for worker in raylet.children():
        name = " ".join(worker.cmdline())
        if "ServeReplica" in name:
            family = [worker, *worker.children(recursive=True)]
            found.append((name.split(":")[-1].strip(), sum(each.memory_info().rss for each in family) / 2**20))
    return sorted(found)


def draw(portrait: Path, driving: Path, seconds: float) -> tuple[Path, Path]:
    """A drawn portrait and a drawn driving video."""
    for path, identity, frames in ((portrait, 5, 1), (driving, 9, round(25 * seconds))):
        motion = sequence(2, frames)
        heads = render(random_identity(identity)[None], *motion, 160).permute(0, 2, 3, 1).numpy()
        if frames == 1:
            write_image(path, heads[0])
        else:
            write_video(path, heads, 25)
    return portrait, driving


if __name__ == "__main__":
    main()
