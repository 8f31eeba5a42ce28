"""Tokenizer and generator survive their round trip; damaged or foreign folders are refused."""

import json
from pathlib import Path

import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.tokens.generator import MotionGenerator
from xnemo.tokens.motion_file import Motion, still_rts
from xnemo.tokens.outpaint import outpaint, outpaint_motion
from xnemo.tokens.vqvae import MotionTokenizer
from xnemo.tokens.weights import load_generator, load_tokenizer, save_generator, save_tokenizer

from . import toy


@pytest.fixture
def tokenizer() -> MotionTokenizer:
    tokenizer = MotionTokenizer(toy.tokenizer_config()).eval()
    tokenizer.belongs_to = "model-a"
    return tokenizer


def generator(belongs_to: str) -> MotionGenerator:
    net = MotionGenerator(toy.fresh_generator().config).eval()
    net.belongs_to = belongs_to
    return net


def test_round_trip_gives_the_same_motion(tmp_path: Path, tokenizer: MotionTokenizer) -> None:
    digest = save_tokenizer(tokenizer, tmp_path / "t")
    original = generator(digest)
    save_generator(original, tmp_path / "g")
    again = load_tokenizer(tmp_path / "t"), load_generator(tmp_path / "g")
    assert again[0].belongs_to == "model-a"
    assert again[1].belongs_to == again[0].digest == digest
    assert torch.equal(outpaint(*again, None, 60, seed=1), outpaint(tokenizer, original, None, 60, seed=1))


def test_saving_again_replaces_the_folder_and_leaves_nothing_behind(tmp_path: Path, tokenizer: MotionTokenizer) -> None:
    first, second = (save_tokenizer(tokenizer, tmp_path / "t") for _ in range(2))
    assert first == second
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, tokenizer: MotionTokenizer) -> None:
    save_tokenizer(tokenizer, tmp_path / "t")
    with pytest.raises(XNeMoError, match="trained on tokenizer other"):
        outpaint(tokenizer, generator("other"), None, 60)
    prefix = Motion(torch.zeros(8, toy.FEATURES).numpy(), still_rts(8), 25.0, "model-b")
    with pytest.raises(XNeMoError, match="model model-b"):
        outpaint_motion(tokenizer, generator(tokenizer.digest), prefix, 60)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "digests.json"])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, tokenizer: MotionTokenizer, name: str) -> None:
    save_tokenizer(tokenizer, tmp_path / "t")
    path = tmp_path / "t" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(XNeMoError, match=r"damaged|unreadable"):
        load_tokenizer(tmp_path / "t")
    path.unlink()
    with pytest.raises(XNeMoError, match=r"missing|absent"):
        load_tokenizer(tmp_path / "t")


def test_another_kind_is_refused(tmp_path: Path, tokenizer: MotionTokenizer) -> None:
    save_tokenizer(tokenizer, tmp_path / "t")
    with pytest.raises(XNeMoError, match="holds a tokenizer, not a generator"):
        load_generator(tmp_path / "t")


def test_weights_of_another_shape_are_refused(tmp_path: Path, tokenizer: MotionTokenizer) -> None:
    import hashlib

    save_tokenizer(tokenizer, tmp_path / "t")
    config, digests = tmp_path / "t" / "config.json", tmp_path / "t" / "digests.json"
    config.write_text(config.read_text().replace('"width": 48', '"width": 64'))
    listed = json.loads(digests.read_text()) | {"config.json": hashlib.sha256(config.read_bytes()).hexdigest()}
    digests.write_text(json.dumps(listed))
    with pytest.raises(XNeMoError, match="another shape"):
        load_tokenizer(tmp_path / "t")
