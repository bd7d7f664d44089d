"""Where MLflow's tracking store is: the embedded default, what a user wrote, and how a person looks at it."""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from v05ray.config.redaction import redact
from v05ray.errors import ConfigError
from v05ray.registry import suggest

_DATABASES = ("sqlite", "mysql", "postgresql", "mssql")
_SCHEMES = (*_DATABASES, "http", "https", "databricks", "file")


def default_uri(output_dir: Path) -> str:
    """The embedded store: a SQLite file beside the runs."""
    return f"sqlite:///{output_dir.absolute() / 'mlflow.db'}"


def check_uri(uri: str | None) -> str | None:
    """The URI as it is; raises `ConfigError` saying what is wrong with it. None means the default."""
    if uri is None:
        return None
    shown = redact(uri)
    example = "such as http://mlflow.example:5000, postgresql://user@host/db, sqlite:///runs/mlflow.db, databricks"
    if not uri.strip() or (re.search(r"\s", uri.strip()) and "://" not in uri):
        raise ConfigError(f"tracking.uri {shown!r} is no URI; leave it out for a SQLite file, or write one {example}")
    if uri == "databricks":
        return uri
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme = uri.partition(":")[0]
        if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
            raise ConfigError(f"tracking.uri {shown!r} has no scheme; write http://{shown}")
        if scheme != "file":
            raise ConfigError(f"tracking.uri {shown!r} has no scheme; write one {example}")
    base = scheme.partition("+")[0]
    if base not in _SCHEMES:
        raise ConfigError(f"tracking.uri {shown!r} has the unknown scheme {scheme!r}{suggest(base, _SCHEMES)}")
    _check_rest(base, uri, rest, shown)
    return uri


def _check_rest(scheme: str, uri: str, rest: str, shown: str) -> None:
    if scheme == "file" and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("1", "true"):
        raise ConfigError(
            f"tracking.uri {shown!r} is a file store, which MLflow no longer takes; use sqlite:///FOLDER/mlflow.db, "
            "or set MLFLOW_ALLOW_FILE_STORE=true"
        )
    if scheme == "sqlite" and (not rest.startswith("/") or rest.strip("/") in ("", ":memory:")):
        raise ConfigError(
            f"tracking.uri {shown!r} names no file; write sqlite:///relative.db or sqlite:////absolute.db"
        )
    if scheme in ("http", "https", "mysql", "postgresql", "mssql"):
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"tracking.uri {shown!r} is malformed: {redact(str(error))}") from None
        if not host:
            raise ConfigError(f"tracking.uri {shown!r} names no host; write {scheme}://host:port")


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for every other one."""
    base, separator, rest = uri.partition(":///")
    if not separator or base.partition("+")[0] != "sqlite":
        return None
    return Path(rest.partition("?")[0]).absolute()


def how_to_look(uri: str | None, output_dir: Path = Path("runs")) -> str:
    """What to type (or open) to see the runs; without secrets."""
    uri = default_uri(output_dir) if uri is None else uri
    base = uri.partition("://")[0].partition("+")[0]
    if base in ("http", "https"):
        return redact(uri)
    if base == "databricks":
        return "the Experiments page of your Databricks workspace"
    return f"mlflow ui --backend-store-uri {shlex.quote(redact(uri))}"
