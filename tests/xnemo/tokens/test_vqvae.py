"""The tokenizer learns, uses its codebook, and keeps equal codebooks on all ranks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.tokens.vqvae import Codebook, MotionTokenizer, TokenizerConfig, sum_over_ranks

from . import toy

ROOT = Path(__file__).parents[3]


def test_reconstruction_is_far_better_than_the_mean() -> None:
    unseen = toy.motion(64, 32, seed=1)
    losses = toy.trained_tokenizer().losses(unseen)
    spread = (unseen - unseen.flatten(0, 1).mean(0)).square().mean().sqrt() / unseen.flatten(0, 1).std(0).mean()
    assert losses["nrmse"] < 0.7 * spread


def test_the_codebook_does_not_collapse() -> None:
    losses = toy.trained_tokenizer().losses(toy.motion(64, 32, seed=1))
    assert losses["perplexity"] > 32  # of 64
    assert losses["usage"] > 0.8


def test_encoding_then_decoding_gives_what_the_losses_measured() -> None:
    tokenizer, x = toy.trained_tokenizer(), toy.motion(8, 32, seed=2)
    error = ((tokenizer.decode(tokenizer.encode(x)) - x) / tokenizer.std).square().mean().sqrt()
    torch.testing.assert_close(error, tokenizer.losses(x)["nrmse"], rtol=1e-4, atol=1e-5)


def test_published_sizes() -> None:
    with torch.device("meta"):
        tokenizer = MotionTokenizer(TokenizerConfig.paper())
    sizes = [sum(p.numel() for p in part.parameters()) for part in (tokenizer.encoder, tokenizer.decoder)]
    assert [round(size / 1e6, 1) for size in sizes] == [9.2, 9.5]
    assert tokenizer.codebook.vectors.shape == (4096, 8)
    assert tokenizer.config.window // tokenizer.config.factor == 32


def test_gradient_passes_the_quantiser_and_codes_have_none() -> None:
    tokenizer = MotionTokenizer(toy.tokenizer_config())
    tokenizer.losses(toy.motion(4, 32, seed=0))["reconstruction"].backward()
    first = tokenizer.encoder[0].weight.grad
    assert first is not None
    assert float(first.detach().abs().sum()) > 0
    assert not any("codebook" in name for name, _ in tokenizer.named_parameters())


def test_dead_codes_are_revived() -> None:
    codebook = Codebook(toy.tokenizer_config())
    torch.manual_seed(0)
    two = torch.nn.functional.normalize(torch.randn(2, 4), dim=-1)
    spread = torch.nn.functional.normalize(torch.randn(512, 4), dim=-1)
    for data in [two[torch.arange(512) % 2]] * 3 + [spread] * 100:
        codebook.update(data, codebook.nearest(data), lambda t: t)
    assert len(codebook.nearest(spread).unique()) > 50  # of 64; the start knew two directions


def test_used_codes_move_to_the_mean_of_what_they_are_assigned() -> None:
    config = toy.tokenizer_config().model_copy(update={"codes": 1, "decay": 0.5})
    codebook = Codebook(config)
    target = torch.tensor([0.6, 0.8, 0.0, 0.0])
    for _ in range(40):
        codebook.update(target.expand(8, 4), torch.zeros(8, dtype=torch.long), lambda t: t)
    torch.testing.assert_close(codebook.vectors[0], target, atol=1e-3, rtol=0)


def test_summing_over_ranks_equals_one_rank_with_all_the_data() -> None:
    torch.manual_seed(0)
    start = toy.tokenizer_config()
    whole, half = Codebook(start), Codebook(start)
    half.load_state_dict(whole.state_dict())
    z = torch.nn.functional.normalize(torch.randn(64, 4), dim=-1)
    whole.update(z, whole.nearest(z), lambda t: t)
    half.load_state_dict(whole.state_dict())
    other = z[32:]
    columns = torch.cat(
        [
            torch.zeros_like(half.total).index_add_(0, half.nearest(other), other),
            torch.bincount(half.nearest(other), minlength=64).float()[:, None],
            torch.zeros_like(half.total),
        ],
        dim=1,
    )
    whole.update(z, whole.nearest(z), lambda t: t)
    half.update(z[:32], half.nearest(z[:32]), lambda t: t + columns)
    torch.testing.assert_close(half.count, whole.count)
    live = whole.count > 1  # others were re-seeded from each one's own vectors
    torch.testing.assert_close(half.vectors[live], whole.vectors[live])


def _rank(rank: int, store: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    codebook = Codebook(toy.tokenizer_config())
    z = torch.nn.functional.normalize(torch.randn(40, 64, 4, generator=torch.Generator().manual_seed(rank)), dim=-1)
    for batch in z:
        codebook.update(batch, codebook.nearest(batch), sum_over_ranks)
    torch.save(codebook.state_dict(), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_different_data_keep_one_codebook(tmp_path: Path) -> None:
    code = "import sys; from tests.xnemo.tokens.test_vqvae import _rank; _rank(int(sys.argv[1]), *sys.argv[2:])"
    ranks = [  # processes of their own: a forked one would have what is left of this one's process group
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(tmp_path / "store"), str(tmp_path)], cwd=ROOT)
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert int(one["updates"]) == 40


def test_validation_leaves_the_codebook_alone() -> None:
    tokenizer = toy.trained_tokenizer()
    before = tokenizer.codebook.vectors.clone()
    tokenizer.losses(toy.motion(4, 32, seed=3))
    assert torch.equal(before, tokenizer.codebook.vectors)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_tokens_per_clip_follow_factor_and_groups(groups: int) -> None:
    tokenizer = MotionTokenizer(toy.tokenizer_config(groups=groups)).eval()
    ids = tokenizer.encode(torch.randn(2, 32, toy.FEATURES))
    assert ids.shape == (2, 8 * groups)
    assert tokenizer.decode(ids).shape == (2, 32, toy.FEATURES)


def test_decoded_frames_depend_on_no_more_than_the_receptive_steps() -> None:
    tokenizer = toy.trained_tokenizer()
    reach, groups = tokenizer.receptive_steps(), tokenizer.config.groups
    ids = torch.randint(64, (1, 60 * groups), generator=torch.Generator().manual_seed(0))
    window = ids[:, (30 - reach) * groups : (32 + reach) * groups]
    inside = tokenizer.decode(window)[:, reach * 4 : (reach + 2) * 4]
    torch.testing.assert_close(inside, tokenizer.decode(ids)[:, 120:128])


@pytest.mark.parametrize(
    ("shape", "word"),
    [((1, 3, 24), "3 frames"), ((1, 30, 24), "multiple of 4"), ((1, 32, 25), "24"), ((32, 24), "B,T,24")],
)
def test_motion_of_another_shape_is_refused(shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(XNeMoError, match=word):
        toy.trained_tokenizer().encode(torch.zeros(shape))
