"""Configs: typed, strict, and with errors that name the file, the key and the mend."""

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnemo_platform.config import Config, diff, fingerprint, load_config
from xnemo_platform.errors import PlatformError


class Optimizer(Config):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


class Example(Config):
    steps: int
    name: str = "a"
    zero: Literal[0, 1, 2, 3] = 0
    optimizer: Optimizer = Optimizer()
    second: Optimizer | None = None


def write(tmp_path, text):
    path = tmp_path / "example.yaml"
    path.write_text(text)
    return path


def test_a_number_in_exponent_form_without_a_dot_is_a_number(tmp_path):
    path = write(tmp_path, "steps: 3\noptimizer: {lr: 1e-5}\n")
    assert load_config(Example, path).optimizer.lr == 1e-5
    assert load_config(Example, path, ["optimizer.lr=3E-4"]).optimizer.lr == 3e-4


def test_overrides_win_over_the_file_and_may_create_a_section(tmp_path):
    config = load_config(Example, write(tmp_path, "steps: 3"), ["steps=5", "second.betas=[0, 0.9]"])
    assert config.steps == 5
    assert config.second == Optimizer(betas=(0, 0.9))


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        ("steps: 3\noptimiser: {}", [], ["example.yaml", "'optimiser'", "'optimizer'"]),
        ("steps: 3\noptimizer: {Lr: 1}", [], ["'optimizer.Lr'", "'lr'"]),
        ("steps: 3\nsecond: {betsa: 1}", [], ["'second.betsa'", "'betas'"]),
        ("steps: three", [], ["example.yaml", "'steps'", "integer", "'three'"]),
        ("name: x", [], ["'steps'", "required"]),
        ("steps: 3", ["zero=7"], ["'zero'", "0, 1, 2 or 3"]),
        ("steps: 3", ["steps"], ["key=value"]),
        ("steps: 3", ["steps.a=1"], ["'steps.a=1'", "no keys below"]),
        ("steps: [", [], ["example.yaml", "not valid YAML"]),
        ("- 1", [], ["top level"]),
    ],
)
def test_an_error_is_one_sentence_naming_the_place_and_the_mend(tmp_path, text, overrides, parts):
    with pytest.raises(PlatformError) as caught:
        load_config(Example, write(tmp_path, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_file_is_named():
    with pytest.raises(PlatformError, match="no such config file"):
        load_config(Example, "nowhere.yaml")


def test_the_fingerprint_follows_values_and_forgets_what_may_change():
    a, b = Example(steps=1), Example(steps=2)
    assert fingerprint(a) == fingerprint(Example.model_validate_json(a.model_dump_json()))
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(a, ignore=["steps"]) == fingerprint(b, ignore=["steps"])


def test_a_diff_names_the_dotted_key_and_both_values():
    assert diff(Example(steps=1), Example(steps=1, optimizer=Optimizer(lr=0.5))) == ["optimizer.lr: 0.001 → 0.5"]


printable = st.text(st.characters(codec="ascii"), max_size=20)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(), printable)
def test_any_value_survives_the_round_trip_through_an_override(lr, steps, name):
    given_ = [f"steps={steps}", f"optimizer.lr={lr!r}", f"name={json.dumps(name)}"]
    config = load_config(Example, None, given_)
    assert (config.optimizer.lr, config.steps, config.name) == (lr, steps, name)
