"""The names people call from Python."""

import types

import pytest

import xnemo


def test_animate_is_both_the_call_and_the_module_of_its_parts():
    assert callable(xnemo.animate)
    assert isinstance(xnemo.animate, types.ModuleType)
    assert callable(xnemo.animate.sample)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'anmate'"):
        _ = xnemo.anmate
