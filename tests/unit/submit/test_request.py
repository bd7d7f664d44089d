import shutil
import subprocess
from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.submit.request import derive_id, git_commit, make_request
from v05ray.submit.working_dir import collect

ROOT = Path(__file__).parents[3]
JOB = ROOT / "jobs" / "tiny_cpu.yaml"
PLACES = ("model.path=/shared/tiny", "run.output_dir=/shared/runs")
SECRET = "hunter2-hunter2"


def request(*overrides: str, **options):
    return make_request(JOB, [*PLACES, *overrides], base=ROOT, environment=options.pop("environment", {}), **options)


def test_only_the_package_and_the_job_file_travel():
    asked = request()
    others = [name for name in asked.shipment.files if not name.startswith("v05ray/")]
    assert others == ["jobs/tiny_cpu.yaml"]
    assert "v05ray/cli/command.py" in asked.shipment.files
    assert not [name for name in asked.shipment.files if "__pycache__" in name]
    assert asked.shipment.num_bytes < 10 * 2**20


def test_the_command_joins_the_cluster_it_runs_on_and_quotes_what_a_shell_would_split():
    asked = request("data.suffix= Answer; with $a number")
    assert asked.entrypoint == (
        "python -m v05ray.cli train jobs/tiny_cpu.yaml cluster.address=auto "
        "model.path=/shared/tiny run.output_dir=/shared/runs 'data.suffix= Answer; with $a number'"
    )


def test_a_job_that_may_be_repeated_resumes_its_run():
    assert request(resume="auto").entrypoint.endswith(" --resume auto")
    assert request(resume="/shared/runs/tiny").entrypoint.endswith(" --resume /shared/runs/tiny")
    with pytest.raises(ConfigError, match="--resume runs/tiny is relative"):
        request(resume="runs/tiny")


def test_the_run_saves_itself_within_the_grace_that_the_job_has():
    assert request(grace_s=100).entrypoint.endswith(" run.grace_s=80")
    assert "run.grace_s" not in request().entrypoint


def test_a_job_file_from_elsewhere_lands_in_jobs(tmp_path: Path):
    job = tmp_path / "mine.yaml"
    job.write_text(JOB.read_text())
    _, name = collect(job, base=ROOT)
    assert name == "jobs/mine.yaml"


def test_the_name_is_made_of_files_command_and_environment(tmp_path: Path):
    assert request().id_stem == request().id_stem
    assert request().id_stem.startswith("tiny-")
    environment = {"PLAIN": "1"}
    stems = {
        request().id_stem,
        request("run.num_steps=7").id_stem,
        request(environment=environment, env_names=["PLAIN"]).id_stem,
        request(included=[Path("Makefile")]).id_stem,
    }
    assert len(stems) == 4


def test_a_taken_name_gets_a_number():
    assert derive_id("tiny-1a", []) == "tiny-1a"
    assert derive_id("tiny-1a", ["tiny-1a", "tiny-1a-2", "other"]) == "tiny-1a-3"


def test_metadata_say_what_runs():
    metadata = request().metadata
    assert (metadata["recipe"], metadata["run"], metadata["job_file"]) == ("v05", "tiny", "jobs/tiny_cpu.yaml")


def test_the_commit_marks_a_changed_tree(tmp_path: Path):
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    clean = git_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.path=/shared/tiny"], "run.output_dir 'runs' is relative"),
        (["run.output_dir=/shared/runs"], "send it along with --include models/tiny"),
        ([*PLACES, "cluster.address=10.0.0.1:6379"], "name the cluster with --address"),
        ([*PLACES, "run.nmu_steps=3"], "did you mean 'num_steps'"),
        ([*PLACES, "data.train.name=jsonl", "data.train.path=a.jsonl"], "data.train.path 'a.jsonl' is relative"),
        ([*PLACES, "data.eval=[{name: reasoning_gym}, {name: jsonl, path: b.jsonl}]"], "data.eval.1.path 'b.jsonl' is"),
        ([*PLACES, f"tracking.uri=http://me:{SECRET}@mlflow"], "'tracking.uri' carries a credential"),
    ],
)
def test_what_no_cluster_could_run_is_refused(overrides: list[str], message: str):
    with pytest.raises(ConfigError) as refused:
        make_request(JOB, overrides, base=ROOT, environment={})
    assert message in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_secret_of_the_environment_is_found_wherever_it_is(tmp_path: Path):
    environment = {"MLFLOW_TRACKING_TOKEN": SECRET}
    with pytest.raises(ConfigError, match=r"data\.suffix.*credential"):
        request(f"data.suffix={SECRET}", environment=environment)
    job = tmp_path / "mine.yaml"
    job.write_text(JOB.read_text() + f"\n# {SECRET}\n")
    with pytest.raises(ConfigError, match="carries a credential"):
        make_request(job, PLACES, base=ROOT, environment=environment)


def test_a_file_that_holds_a_secret_of_the_environment_does_not_travel(project: Path):
    environment = {"OPENAI_KEY": SECRET}
    (project / "extra" / "verify.py").write_text(f"key = '{SECRET}'\n")
    shutil.copy(JOB, project / "mine.yaml")
    included = [Path("extra")]
    make_request(project / "mine.yaml", PLACES, base=project, environment={}, included=included)
    with pytest.raises(ConfigError, match=r"extra/verify\.py holds the value of a secret variable") as refused:
        make_request(project / "mine.yaml", PLACES, base=project, environment=environment, included=included)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("OPENAI_KEY", SECRET), ("GITHUB_PAT", SECRET), ("PGPASSWORD", SECRET), ("DB", f"postgresql://me:{SECRET}@host")],
)
def test_secrets_under_other_names_need_consent_too(name: str, value: str):
    with pytest.raises(ConfigError, match="--store-secrets") as refused:
        request(environment={name: value}, env_names=[name])
    assert SECRET not in str(refused.value)


def test_variables_go_by_name_and_secret_ones_only_by_consent():
    environment = {"PLAIN": "1", "HF_TOKEN": SECRET}
    assert request(environment=environment, env_names=["PLAIN"]).env_vars["PLAIN"] == "1"
    with pytest.raises(ConfigError, match="no such variable"):
        request(environment=environment, env_names=["ABSENT"])
    with pytest.raises(ConfigError, match="takes a name alone") as refused:
        request(environment=environment, env_names=[f"HF_TOKEN={SECRET}"])
    assert SECRET not in str(refused.value)
    with pytest.raises(ConfigError, match="--store-secrets") as refused:
        request(environment=environment, env_names=["HF_TOKEN"])
    assert SECRET not in str(refused.value)
    asked = request(environment=environment, env_names=["HF_TOKEN"], store_secrets=True)
    assert asked.env_vars["HF_TOKEN"] == SECRET
    assert SECRET not in repr(asked)


def test_a_stopped_job_has_time_for_its_checkpoint():
    assert request().env_vars["RAY_JOB_STOP_WAIT_TIME_S"] == "300"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = ("extra/verify.py", "extra/.git/x", "extra/.env", "extra/a.pem", "extra/runs/x")
    for name in (*files, "extra/__pycache__/x", "key.pem"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    return tmp_path


def test_an_included_folder_leaves_histories_caches_and_secrets_behind(project: Path):
    shipment, _ = collect(JOB, [Path("extra")], base=project)
    assert [name for name in shipment.files if name.startswith("extra/")] == ["extra/verify.py"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("absent", "does not exist"), ("/etc/hostname", "does not lie below"), ("key.pem", "looks like a secret")],
)
def test_what_cannot_be_included_is_refused(project: Path, path: str, message: str):
    with pytest.raises(ConfigError, match=message):
        collect(JOB, [Path(path)], base=project)


def test_too_large_a_shipment_names_its_largest_files(project: Path):
    (project / "extra" / "weights.bin").write_bytes(b"\0" * 3 * 2**20)
    with pytest.raises(ConfigError, match=r"largest: extra/weights\.bin \(3\.0 MiB\)"):
        collect(JOB, [Path("extra")], base=project, limit_mib=2)


def test_a_shipment_is_written_as_it_was_listed(project: Path, tmp_path: Path):
    shipment, name = collect(JOB, [Path("extra")], base=project)
    shipment.write(tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == JOB.read_text()
    assert (tmp_path / "out" / "extra" / "verify.py").read_text() == "x"
