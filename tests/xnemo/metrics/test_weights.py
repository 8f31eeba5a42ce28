"""Weight files: absent, damaged, another network's, another file than was named; each told in one sentence."""

import hashlib

import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.metrics import weights
from xnemo.metrics.emotion import load_emonet
from xnemo.metrics.expression import load_blendshapes
from xnemo.metrics.identity import ArcFace, load_arcface
from xnemo.metrics.self_reenactment import Lpips, load_lpips

LOADERS = {
    "arcface": load_arcface, "emonet": load_emonet, "blendshapes": load_blendshapes,
    "lpips_alexnet": lambda given: load_lpips(given, "alexnet"),
    "lpips_vgg16": lambda given: load_lpips(given, "vgg16"),
}  # fmt: skip


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Files for the networks that stand beside the one in question; their digests are not looked at here."""
    monkeypatch.setenv("XNEMO_METRIC_WEIGHTS", str(tmp_path / "placed"))
    unpinned = {name: weights.WeightFile(w.file, w.holds, w.licence) for name, w in weights.FILES.items()}
    monkeypatch.setattr(weights, "FILES", unpinned)
    (tmp_path / "iris.tflite").write_bytes(b"not looked at before the other")
    for name in ("alexnet", "vgg16"):
        torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / f"{name}.pth")
    return {"iris": str(tmp_path / "iris.tflite")} | {n: str(tmp_path / f"{n}.pth") for n in ("alexnet", "vgg16")}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("kind", ["empty", "noise", "code", "another network"])
def test_a_file_that_does_not_do_is_refused_in_one_sentence(name, kind, given, tmp_path):
    path = tmp_path / "file.pth"
    if kind == "another network":
        torch.save({"conv1.weight": torch.zeros(3, 3), "layer1.0.bn1.weight": torch.zeros(2)}, path)
    elif kind == "code":
        torch.save({"a": print}, path)
    else:
        path.write_bytes(b"" if kind == "empty" else bytes(range(256)) * 20)
    with pytest.raises(XNeMoError) as told:
        LOADERS[name](given | {name: str(path)})
    text = str(told.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert ".pth" in text, "which file"


def test_a_cut_safetensors_file_is_told(tmp_path):
    from safetensors.torch import save_file

    whole = tmp_path / "whole.safetensors"
    save_file({"a": torch.zeros(100)}, whole)
    assert set(weights.tensors(whole)) == {"a"}
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(XNeMoError, match="cut short or damaged"):
        weights.tensors(cut)


def test_a_digest_can_be_pinned_behind_the_name(tmp_path):
    path = tmp_path / "arc.pth"
    torch.save(ArcFace((1, 1, 1, 1)).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_arcface({"arcface": f"{path}#{digest}"})
    assert weights.used(["id_sim"], {"arcface": f"{path}#{digest[:12].upper()}"}) == {
        "arcface": {"file": str(path), "licence": "non-commercial", "sha256": digest}
    }
    with pytest.raises(XNeMoError, match=r"is not the named 0123"):
        load_arcface({"arcface": f"{path}#0123"})


def test_a_hub_id_is_fetched_and_what_cannot_be_had_is_told(tmp_path, monkeypatch):
    import huggingface_hub

    path = tmp_path / "arcface.pth"
    torch.save(ArcFace((1, 1, 1, 1)).state_dict(), path)
    asked = []

    def fetch(repository, file):
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert load_arcface({"arcface": "owner/faces/deep/backbone.pth"})
    assert asked == [("owner/faces", "deep/backbone.pth")]
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for named in ("owner/faces/backbone.pth", "./nowhere.pth", "backbone.pth"):
        with pytest.raises(XNeMoError, match=r"neither a file here|there is no file") as told:
            load_arcface({"arcface": named})
        assert "\n" not in str(told.value)


def test_every_metric_that_lacks_its_file_is_told_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("XNEMO_METRIC_WEIGHTS", str(tmp_path))
    told = weights.absent(["l1", "apd", *weights.NEEDS])
    assert set(told) == set(weights.NEEDS)
    for text in told.values():
        assert text.startswith("not computed: place ")
        assert str(tmp_path) in text
        assert any(each.licence in text for each in weights.FILES.values())
    assert weights.used(weights.NEEDS) == {}
    torch.save(Lpips().state_dict(), tmp_path / "alexnet-owt-7be5be79.pth")
    torch.save({}, tmp_path / "alex.pth")
    assert "lpips" not in weights.absent(weights.NEEDS)
    assert set(weights.used(["lpips", "lpips_vgg"])) == {"alexnet", "lpips_alexnet"}
