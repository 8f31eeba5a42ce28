"""Secrets are recognised by name, look and value, and nothing ordinary is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnemo_platform import packing
from xnemo_platform.confidential import hidden, names_secret, secret_in
from xnemo_platform.errors import PlatformError

SECRETS = {
    "postgresql://mlflow:hunter22@db:5432/x": "an address with a password",
    "key AKIAABCDEFGHIJKLMNOP": "a cloud access key",
    "-----BEGIN RSA PRIVATE KEY-----": "a private key",
    "hf_abcdefghijklmnopqrstuvwx": "a token",
    "https://b.example/x?X-Amz-Signature=0f0f0f": "a signed address",
}


@pytest.mark.parametrize(("text", "kind"), SECRETS.items())
def test_what_looks_like_a_secret_is_one_and_can_be_hidden(text, kind):
    assert secret_in(text, env={}) == kind
    assert not secret_in(hidden(text, env={}), env={})


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "db.password", "API_KEY", "GITHUB_TOKEN", "key"])
def test_names_of_secrets(name):
    assert names_secret(name)


@pytest.mark.parametrize("name", ["loop.keep", "generator.max_tokens", "model.motion_token_dim", "tokenizer", "monkey"])
def test_ordinary_names(name):
    assert not names_secret(name)


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=40), st.text())
def test_the_value_of_a_secret_variable_is_known_wherever_it_stands(value, around):
    text = f"{around}{value}{around}"
    assert secret_in(text, {"SOME_TOKEN": value})
    assert value not in hidden(text, {"SOME_TOKEN": value}) or value in "***"


@pytest.mark.parametrize("text", ["s3://bucket/a@b", "http://head:8265", "sqlite:////x/y.db", "models:/xnemo@champion"])
def test_addresses_without_a_secret_pass(text):
    assert not secret_in(text, env={})


@pytest.mark.parametrize("argument", ["store=postgresql://a:b12345@h/d", "--token=abcdef", "serve.api_key=abc"])
def test_an_argument_with_a_secret_is_refused(argument):
    with pytest.raises(PlatformError, match="mount secrets on the nodes") as caught:
        packing.refuse_secrets(["jobs.serve", argument], {})
    assert "b12345" not in str(caught.value)


def test_a_config_with_a_secret_does_not_travel(tmp_path):
    (tmp_path / "c.yaml").write_text("store: postgresql://a:b12345@h/d")
    packed = packing.packed(["jobs.serve", "--config", str(tmp_path / "c.yaml")], local=False)
    with pytest.raises(PlatformError, match=r"c.yaml holds an address with a password"), packed:
        pass


def test_a_machines_file_travels_inside_key_equals_value():
    path = packing.ROOT / "infra/deepspeed/cpu.json"
    with packing.packed(["jobs.train", f"loop.deepspeed={path}"], local=False) as (entrypoint, _):
        assert entrypoint.endswith("loop.deepspeed=submitted/cpu.json")
