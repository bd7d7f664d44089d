import pytest

from v05ray.config.redaction import redact, redact_tree

ENVIRONMENT = {
    "MLFLOW_TRACKING_TOKEN": "tok-12345",
    "HF_TOKEN": "1",
    "HOME": "/home/me",
    "MY_API_KEY": "tok-12345-long",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pass@host:5432/db", "postgresql://***@host:5432/db"),
        ("API request to https://me:p%40ss@host/api failed", "API request to https://***@host/api failed"),
        ("https://host/db?user=me&password=hunter22&x=1", "https://host/db?user=me&password=***&x=1"),
        ("https://me:p@ss@host/api and http://h/a@b", "https://***@host/api and http://h/a@b"),
        ("Bearer tok-12345-long refused", "Bearer *** refused"),
        ("Bearer tok-12345 refused", "Bearer *** refused"),
        ("HF_TOKEN is 1, /home/me", "HF_TOKEN is 1, /home/me"),
        ("sqlite:///runs/mlflow.db", "sqlite:///runs/mlflow.db"),
    ],
)
def test_redact(text, shown):
    assert redact(text, ENVIRONMENT) == shown


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", True),
        ("OPENAI_KEY", True),
        ("GITHUB_PAT", True),
        ("PGPASSWORD", True),
        ("MYSQL_PWD", True),
        ("PWD", False),
        ("PATH", False),
        ("COMPATIBLE", False),
        ("RAY_AUTH_MODE", False),
    ],
)
def test_a_variables_name_says_that_it_is_secret(name: str, secret: bool):
    assert (redact("it is value-of-it", {name: "value-of-it"}) == "it is ***") is secret


def test_redact_tree_goes_by_keys_too():
    tree = {
        "tracking": {"uri": "http://u:p@h", "experiment": "e"},
        "data": {"train": {"name": "huggingface", "hf_token": "abc", "api_key": "d", "columns": ["tok-12345"]}},
        "sampling": {"max_tokens": 24, "stop_token_ids": [1, 2], "temperature": None},
    }
    assert redact_tree(tree, ENVIRONMENT) == {
        "tracking": {"uri": "http://***@h", "experiment": "e"},
        "data": {"train": {"name": "huggingface", "hf_token": "***", "api_key": "***", "columns": ["***"]}},
        "sampling": {"max_tokens": 24, "stop_token_ids": [1, 2], "temperature": None},
    }
