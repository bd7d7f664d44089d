"""Passwords and tokens do not belong into logs, params, manifests or messages: they are replaced by `***`.

Three signs of a secret: credentials inside a URI, a key whose last word says so (`password`, `api_key`, ...), and the
value of an environment variable whose name says so (`MLFLOW_TRACKING_TOKEN`, `HF_TOKEN`, ...), wherever it occurs.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_NAME = r"(?:token|password|passwd|passphrase|secret|api_?key|access_?key|private_?key|secret_?key|credentials?)"
_SECRET_KEY = re.compile(rf"(?:^|[._-]){_NAME}$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"(?:^|_)(?:{_NAME}|key|pat|pass)$|_pwd$|password$", re.IGNORECASE)
"""Wider than for keys of a config: `OPENAI_KEY`, `GITHUB_PAT`, `PGPASSWORD` are secrets; `sort_key`, `PWD` are not."""
_USERINFO = re.compile(r"(?<=://)[^/\s]+(?=@)")
_QUERY = re.compile(rf"([?&;](?:[\w-]*[_-])?{_NAME}=)[^&;\s]+", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Shorter environment values are not searched for: `HF_TOKEN=1` must not blank every 1 of a config."""


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` without credentials in URIs and without the secrets of the environment (default: this process's)."""
    for secret in environment_secrets(os.environ if environment is None else environment):
        text = text.replace(secret, HIDDEN)
    return _QUERY.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(HIDDEN, text))


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    return bool(_SECRET_VARIABLE.search(name))


def redact_tree(value: Any, environment: Mapping[str, str] | None = None, *, key: str = "") -> Any:
    """A copy of nested mappings and lists with every secret replaced; numbers and None are never secrets."""
    if isinstance(value, Mapping):
        return {name: redact_tree(inner, environment, key=str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(inner, environment, key=key) for inner in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _SECRET_KEY.search(key) else redact(value, environment)


def environment_secrets(environment: Mapping[str, str]) -> list[str]:
    """The secret values of an environment, the longest first."""
    found = {
        value
        for name, value in environment.items()
        if is_secret_variable(name) and len(value) >= _SHORTEST_SECRET and not os.path.exists(value)  # a key file
    }
    return sorted(found, key=len, reverse=True)  # a secret that contains another one goes first
