"""What the documents say of the repository is so: links, paths, folders, versions, examples, and plain words."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import v05ray

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
HARD = re.compile(
    r"\b(mend(s|ed|ing)?|anew|of[ _]late|whoever|nobody|somebody|tells?|told|for[ _]ever|goes[ _]on[ _]from"
    r"|go[ _]on[ _]from|so many seconds|for so long|falls back on|is due)\b",
    re.IGNORECASE,
)
"""Words that its readers would not use: they say fix, again, recently, the component's name, reports, resumes from."""
FOLDERS = ("v05ray/", "tests/", "benchmarks/", "jobs/", "clusters/", "docs/", "requirements/")


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def outside_code(text: str) -> str:
    """The text without fenced blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", outside_code(text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_a_file_and_a_heading(name: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(text_of(name))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_this_repository_exist(name: str) -> None:
    quoted = {
        word.rstrip(",.:;")
        for span in re.findall(r"`([^`\n]+)`", outside_code(text_of(name)))
        for word in span.split()
        if word.startswith(FOLDERS) and not re.search(r"[*<>{}]|[A-Z]{2,}", word)
    }
    assert {path for path in quoted if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("name", NAMES)
def test_documents_use_plain_words(name: str) -> None:
    hard = [
        f"{number}: {line}"
        for number, line in enumerate(text_of(name).splitlines(), 1)
        if HARD.search(line) and not line.startswith("    ")  # quotes what a program prints
    ]
    assert hard == []


@pytest.mark.parametrize("folder", ["v05ray", "examples", "jobs", "clusters"])
def test_the_source_uses_plain_words(folder: str) -> None:
    hard = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".yaml")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if HARD.search(line)
    ]
    assert hard == []


def test_the_index_lists_every_document_once() -> None:
    listed = re.findall(r"(?m)^- \[([^\]]+)\]", text_of("docs/index.md"))
    others = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert len(listed) == len(set(listed))
    assert set(listed) == others | {"../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md"}


def test_the_readme_names_every_folder() -> None:
    """Every room of the package, and every folder beside it that is under version control."""
    rooms = {path.name for path in (ROOT / "v05ray").iterdir() if (path / "__init__.py").exists()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    beside = {line.partition("/")[0] for line in tracked.splitlines() if "/" in line} - {"v05ray"}
    readme = text_of("README.md")
    unnamed = {folder for folder in rooms | beside if not re.search(rf"`(v05ray/)?{re.escape(folder)}/`", readme)}
    assert unnamed == set()


def test_the_readme_starts_with_what_it_is_and_the_two_commands() -> None:
    screen = "\n".join(text_of("README.md").splitlines()[:24])
    assert "arxiv.org/abs/2603.10848" in screen
    assert re.search(r"^make train\b", screen, re.MULTILINE)
    assert re.search(r"^make test\b", screen, re.MULTILINE)


def test_the_changelog_has_the_version_of_the_package() -> None:
    versions = re.findall(r"(?m)^## \[([^\]]+)\]", text_of("CHANGELOG.md"))
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert versions[:2] == ["Unreleased", project["version"]]
    assert project["version"] == v05ray.__version__


def test_the_package_is_typed_and_packaged_as_such() -> None:
    assert (Path(v05ray.__file__).parent / "py.typed").is_file()
    data = tomllib.loads(text_of("pyproject.toml"))["tool"]["setuptools"]["package-data"]["v05ray"]
    assert "py.typed" in data


def test_the_estimator_in_contributing_works(tmp_path: Path) -> None:
    """In a process of its own, since it registers a name."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", text_of("CONTRIBUTING.md"))
    assert len(blocks) == 2
    script = tmp_path / "centred.py"
    script.write_text(
        "\n\n".join(blocks) + "\n\ntest_centred_by_hand()\nimport doctest\nassert not doctest.testmod().failed\n"
    )
    subprocess.run([sys.executable, str(script)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)


def test_the_workflow_runs_every_python_that_the_locks_are_for() -> None:
    import yaml

    from requirements.closure import PYTHONS

    jobs = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]
    assert jobs["check"]["strategy"]["matrix"]["python"] == list(PYTHONS)
    commands = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert commands == {"make setup PYTHON=python", "make check", "make unit", "make test"}
