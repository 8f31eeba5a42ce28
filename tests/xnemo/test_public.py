"""The names people call from Python."""

import types
from pathlib import Path

import pytest
import torch

import xnemo
from xnemo.config import ModelConfig
from xnemo.model import XNeMo


def test_animate_is_both_the_call_and_the_module_of_its_parts():
    assert callable(xnemo.animate)
    assert isinstance(xnemo.animate, types.ModuleType)
    assert callable(xnemo.animate.sample)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'anmate'"):
        _ = xnemo.anmate


def test_a_half_precision_model_computes_in_single_on_a_cpu_unless_asked_otherwise(tmp_path: Path):
    folder = xnemo.save(XNeMo(ModelConfig.small()).half(), tmp_path / "model")
    assert {p.dtype for p in xnemo.load(folder).parameters()} == {torch.float32}
    assert {p.dtype for p in xnemo.load(folder, dtype=torch.float16).parameters()} == {torch.float16}
