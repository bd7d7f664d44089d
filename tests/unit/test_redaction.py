import pytest

from v05ray.redaction import redact, redact_tree

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
        ("Bearer tok-12345-long refused", "Bearer *** refused"),
        ("Bearer tok-12345 refused", "Bearer *** refused"),
        ("HF_TOKEN is 1, /home/me", "HF_TOKEN is 1, /home/me"),
        ("sqlite:///runs/mlflow.db", "sqlite:///runs/mlflow.db"),
    ],
)
def test_redact(text, shown):
    assert redact(text, ENVIRONMENT) == shown


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
