from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.tracking.uri import check_uri, default_uri, how_to_look, sqlite_path


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "sqlite:///runs/mlflow.db",
        "sqlite:////tmp/a b/mlflow.db",
        "http://localhost:5000",
        "https://user:pw@mlflow.example/path",
        "postgresql+psycopg2://me:pw@host:5432/db",
        "mysql://host/db",
        "databricks",
        "databricks://profile",
    ],
)
def test_good_uris_pass_as_they_are(uri):
    assert check_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "tracking.uri '' is no URI; leave it out for a SQLite file, or write one such as"),
        ("localhost:5000", "tracking.uri 'localhost:5000' has no scheme; write http://localhost:5000"),
        ("runs/mlflow", "tracking.uri 'runs/mlflow' has no scheme; write one such as"),
        ("htp://host", "tracking.uri 'htp://host' has the unknown scheme 'htp'; did you mean 'http'?"),
        ("http://", "tracking.uri 'http://' names no host; write http://host:port"),
        ("http://host:99999", "tracking.uri 'http://host:99999' is malformed: Port out of range 0-65535"),
        ("http://me:secret@host:x", "tracking.uri 'http://\\*\\*\\*@host:x' is malformed: Port could not be cast"),
        ("sqlite://", "tracking.uri 'sqlite://' names no file; write sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:///:memory:", "names no file"),
        ("file:///tmp/mlruns", "is a file store, which MLflow no longer takes; use sqlite:///FOLDER/mlflow.db"),
    ],
)
def test_bad_uris_are_explained_without_their_secrets(uri, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_uri(uri)
    assert "secret" not in str(caught.value)


def test_the_default_is_a_file_beside_the_runs(tmp_path):
    assert default_uri(tmp_path / "my runs") == f"sqlite:///{tmp_path}/my runs/mlflow.db"
    assert sqlite_path(default_uri(tmp_path)) == tmp_path / "mlflow.db"
    assert sqlite_path("sqlite:///x.db?timeout=5") == Path("x.db").absolute()
    assert sqlite_path("postgresql://host/db") is None


def test_how_to_look(tmp_path):
    assert how_to_look(None, tmp_path / "my runs") == (
        f"mlflow ui --backend-store-uri 'sqlite:///{tmp_path}/my runs/mlflow.db'"
    )
    assert how_to_look("http://me:pw@host:5000") == "http://***@host:5000"
    assert how_to_look("postgresql://me:pw@host/db") == "mlflow ui --backend-store-uri 'postgresql://***@host/db'"
    assert how_to_look("databricks") == "the Experiments page of your Databricks workspace"
