"""Our own folder of weights: what is saved comes back, and nothing damaged is loaded."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xnemo.config import CodecConfig, ModelConfig, UNetConfig
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo, seeded
from xnemo.weights import CONFIG, DIGESTS, MODEL, Report, grouped, load, save, sha256

SMALL = ModelConfig.small()
UNET = UNetConfig(
    in_channels=SMALL.codec.channels, channels=(16, 32), attention=(True, True), layers_per_block=1, heads=2,
    norm_groups=4, context_dim=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def small() -> XNeMo:
    return seeded(SMALL.model_copy(update={"unet": UNET}), seed=0)


@pytest.fixture
def folder(small: XNeMo, tmp_path: Path) -> Path:
    return save(small, tmp_path / "model")


def test_a_saved_model_comes_back_tensor_for_tensor(small: XNeMo, folder: Path) -> None:
    again = load(folder)
    assert again.config == small.config
    assert not again.training
    tensors = small.state_dict()
    assert again.state_dict().keys() == tensors.keys()
    assert all(torch.equal(t, tensors[name]) for name, t in again.state_dict().items())
    assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG, MODEL, DIGESTS])


def test_a_model_can_be_loaded_in_another_precision_and_trained_on(folder: Path) -> None:
    model = load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())


def test_a_half_precision_file_runs_in_its_own_precision(small: XNeMo, tmp_path: Path) -> None:
    model = load(save(seeded(small.config, seed=0).bfloat16(), tmp_path / "half"))
    side, face = SMALL.latent_size, SMALL.motion_encoder.image_size
    faces = torch.zeros(1, 3, face, face, dtype=torch.bfloat16)
    tokens = model.motion_encoder(faces, torch.tensor([[0, 0, 1]], dtype=torch.bfloat16))
    latents = torch.zeros(1, SMALL.codec.channels, 1, side, side, dtype=torch.bfloat16)
    assert model.denoiser(latents, 5, model.null_context(1), tokens[:, None]).dtype == torch.bfloat16


def test_position_tables_do_not_lose_precision_in_a_half_precision_file(small: XNeMo, tmp_path: Path) -> None:
    half = seeded(small.config, seed=0).half()
    again = load(save(half, tmp_path / "half"), dtype=torch.float32)
    assert torch.equal(again.motion_encoder.pe, small.motion_encoder.pe)


def test_saving_replaces_an_older_model(small: XNeMo, folder: Path) -> None:
    save(seeded(small.config, seed=1), folder)
    first = next(load(folder).parameters())
    assert not torch.equal(first, next(small.parameters()))


def test_loading_and_saving_in_the_same_folder_keeps_the_model(small: XNeMo, folder: Path) -> None:
    save(load(folder), folder)
    assert torch.equal(next(load(folder).parameters()), next(small.parameters()))


def cut(folder: Path) -> None:
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[-1] ^= 1
    (folder / MODEL).write_bytes(data)


def edit_config(folder: Path) -> None:
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace("16", "32", 1))


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Change a file and its digest alike."""
    (folder / name).write_bytes(data)
    digests = json.loads((folder / DIGESTS).read_text()) | {name: sha256(folder / name)}
    (folder / DIGESTS).write_text(json.dumps(digests))


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / MODEL)
    del tensors["denoiser.conv_in.weight"]
    save_file(tensors, folder / "other")
    rewrite(folder, MODEL, (folder / "other").read_bytes())


def other_shape(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["unet"]["context_dim"] = 8
    rewrite(folder, CONFIG, json.dumps(config).encode())


def foreign_key(folder: Path) -> None:
    rewrite(folder, CONFIG, json.dumps(json.loads((folder / CONFIG).read_text()) | {"colour": "red"}).encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"model\.safetensors is damaged"),
        (flip_a_bit, r"model\.safetensors is damaged"),
        (edit_config, r"config\.json is damaged"),
        (lambda folder: (folder / MODEL).unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / DIGESTS).unlink(), r"digests\.json is absent"),
        (lambda folder: (folder / DIGESTS).write_text("[]"), r"digests\.json is absent or unreadable"),
        (lambda folder: rewrite(folder, MODEL, b"nonsense"), "not a readable safetensors file"),
        (drop_a_tensor, r"1 tensors missing: denoiser\.conv_in\.weight"),
        (other_shape, "tensors of another shape: .*to_v.weight"),
        (foreign_key, r"config\.json: colour Extra inputs"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(XNeMoError, match=message):
        load(folder)


def test_a_failed_save_leaves_the_older_model(small: XNeMo, folder: Path) -> None:
    broken = seeded(small.config, seed=1)
    broken.denoiser.conv_in.weight = torch.nn.Parameter(torch.empty(1, device="meta"))
    with pytest.raises(Exception, match="meta"):
        save(broken, folder)
    assert torch.equal(next(load(folder).parameters()), next(small.parameters()))
    assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG, MODEL, DIGESTS])


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(XNeMoError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(XNeMoError, match="owner/name is neither a folder here nor a repository"):
        load("owner/name")


def test_a_report_gathers_names_by_module_and_loses_none() -> None:
    names = [f"down.0.motion.1.part.{i}" for i in range(3)] + ["conv_in.weight"]
    assert grouped(names) == ["down.0.motion.1.* (3)", "conv_in.weight"]
    assert str(Report("file", tuple(names), (), ())) == "file: 4 tensors missing: down.0.motion.1.* (3), conv_in.weight"
    assert not Report("file", (), (), ())


def test_loading_holds_the_weights_once(tmp_path: Path) -> None:
    """Resident memory of a fresh process that loads, against the size of the file; reading it counts too."""
    shape = UNetConfig(in_channels=4, channels=(256, 512), attention=(True, True), context_dim=64)
    config = ModelConfig.small().model_copy(
        update={
            "unet": shape.model_copy(update={"layers_per_block": 2}),
            "codec": CodecConfig(kind="patches", factor=4, channels=4, scaling=1.0),
        }
    )
    folder = save(XNeMo(config), tmp_path / "model")
    size = (folder / MODEL).stat().st_size
    program = (
        "import resource, sys, torch, xnemo, xnemo.weights\n"
        "from xnemo.model import XNeMo\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "model = xnemo.load(sys.argv[1])\n"
        "print(sum(float(p.sum()) for p in model.parameters()), peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert size > 150e6
    assert int(done.stdout.split()[1]) < 1.3 * size
