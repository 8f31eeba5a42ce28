"""Secrets are known by their names and their looks: refused where others can read, hidden where we write.

A job's runtime environment, its arguments, MLflow's parameters and logs can be read by everyone who sees the
cluster. Secrets come from the nodes: mounted files, or the cluster's own secret store.
"""

import os
import re
from collections.abc import Mapping

_WORD = "secret|password|passwd|token|credentials?|api_?key|access_?key|secret_?key|private_?key"
NAME = re.compile(rf"(^|[._-])({_WORD}|key)([_-]?(id|file|path))?$", re.IGNORECASE)
"""The last word of a name that holds a secret: `AWS_SECRET_ACCESS_KEY`, `HF_TOKEN`, `db.password`; not `max_tokens`."""
_LOOKS = {
    "an address with a password": re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),
    "a cloud access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a token": re.compile(r"\b(?:hf_|gh[pousr]_|glpat-|xox[bap]-)[\w-]{16,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    "a signed address": re.compile(r"(?i)(?<=[?&])(?:x-amz-signature|sig|x-goog-signature)=[^&\s]+"),
}
_SHORTEST = 8  # shorter values of the environment are words like "true"
HIDDEN = "***"


def names_secret(name: str) -> bool:
    """Whether a variable or key of that name holds a secret."""
    return bool(NAME.search(name))


def secret_in(text: str, env: Mapping[str, str] = os.environ) -> str:
    """What kind of secret stands in the text, or "": one that looks like it, or the value of one of `env`."""
    for kind, look in _LOOKS.items():
        if look.search(text):
            return kind
    for name, value in _values(env):
        if value in text:
            return f"the value of {name}"
    return ""


def hidden(text: str, env: Mapping[str, str] = os.environ) -> str:
    """The text with every secret that can be recognised replaced by ***."""
    for look in _LOOKS.values():
        text = look.sub(HIDDEN, text)
    for _, value in _values(env):
        text = text.replace(value, HIDDEN)
    return text


def _values(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """Secrets of the environment; names of files and users are none."""
    return [
        (name, value)
        for name, value in env.items()
        if names_secret(name) and not re.search(r"(file|path)$", name, re.IGNORECASE) and len(value) >= _SHORTEST
    ]
