"""What every test shares: quiet libraries, one thread, and where the real clips lie."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)

import hypothesis
import pytest

if TYPE_CHECKING:
    from xnemo.config import ModelConfig

hypothesis.settings.register_profile("xnemo", deadline=None, max_examples=50)
hypothesis.settings.load_profile("xnemo")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real clips and portraits (`XNEMO_SAMPLES`); the test is skipped where it is absent."""
    folder = Path(os.environ.get("XNEMO_SAMPLES", SHARED / "samples"))
    if not folder.is_dir():
        pytest.skip(f"no real media at {folder}: set XNEMO_SAMPLES")
    return folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of recorded outputs of the released networks (`XNEMO_GOLDENS`); skipped where it is absent."""
    folder = Path(os.environ.get("XNEMO_GOLDENS", SHARED / "goldens"))
    if not folder.is_dir():
        pytest.skip(f"no recorded outputs at {folder}: set XNEMO_GOLDENS")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> "ModelConfig":
    """The shape of the recorded networks: the released one with narrow UNets, VAE and CLIP tower."""
    from xnemo.config import CodecConfig, ImageEncoderConfig, ModelConfig, UNetConfig

    return ModelConfig(
        image_size=512,
        codec=CodecConfig(widths=(32, 32, 32, 32), layers_per_block=1),
        unet=UNetConfig(channels=(32, 64, 128, 128), layers_per_block=1, context_dim=32),
        image_encoder=ImageEncoderConfig(
            patch_size=32, width=32, layers=2, heads=4, feed_forward=64, projection_dim=32
        ),
    )
