"""Ray's real autoscaler on one machine: one command up, one down.

Every process of the cluster inherits a variable that names the cluster's folder, so that `down` ends those and no
others: not another cluster of this machine, as `ray stop` would.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import yaml

CONFIG = Path(__file__).with_name("autoscaling.yaml")
MARK = "V05RAY_LOCAL_CLUSTER"
"""Environment variable of every process of the cluster; its value is the cluster's folder."""
FOLDER = Path("/tmp/v05ray-local")
"""Short, for Ray puts sockets below it, whose paths may have at most 107 characters."""


def main(arguments: list[str] | None = None) -> int:
    """Runs `up` or `down`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="local-autoscaling", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    start = actions.add_parser("up", help="start the cluster; returns when jobs can be submitted")
    start.add_argument("--generators", type=int, default=3, help="most generator nodes (default: 3)")
    start.add_argument("--learners", type=int, default=0, help="most learner nodes (default: 0)")
    start.add_argument("--values", type=int, default=0, help="most value nodes (default: 0)")
    start.add_argument("--head-cpus", type=int, default=2, help="CPUs the head offers (default: 2)")
    start.add_argument(
        "--idle-s", type=float, default=12.0, help="a node is removed after N seconds idle (default: 12)"
    )
    start.add_argument("--dashboard-port", type=int, default=8265, help="0 takes any free one (default: 8265)")
    start.add_argument("--folder", type=Path, default=FOLDER, help=f"its files, a short path (default: {FOLDER})")
    end = actions.add_parser("down", help="end the cluster and delete its folder")
    end.add_argument("--folder", type=Path, default=FOLDER)
    parsed = parser.parse_args(arguments)
    if parsed.action == "down":
        return down(parsed.folder)
    return up(parsed)


def up(parsed: argparse.Namespace) -> int:
    """Starts the head; returns 0 once its agent takes jobs, 1 with the reason where it does not."""
    folder: Path = parsed.folder
    if processes(folder):
        return _fail(f"a cluster runs in {folder} already; end it with clusters/local-autoscaling/down")
    if parsed.dashboard_port and not _is_free(parsed.dashboard_port):
        return _fail(f"port {parsed.dashboard_port} is taken; give another --dashboard-port, or 0 for any")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    gcs, dashboard, client, agent = _free_ports(4)
    dashboard = parsed.dashboard_port or dashboard
    from ray.util import get_node_ip_address

    ip = get_node_ip_address()
    config = configuration(
        f"{ip}:{gcs}",
        most={"generator": parsed.generators, "learner": parsed.learners, "value": parsed.values},
        head_cpus=parsed.head_cpus,
        idle_s=parsed.idle_s,
    )
    (folder / "autoscaling.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={folder}/ray", f"--autoscaling-config={folder}/autoscaling.json"]
    command += [f"--num-cpus={parsed.head_cpus}", "--resources", json.dumps({"head": 1})]
    command += ["--object-store-memory=300000000"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=_environment(folder), stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    urls = (f"{address}/api/version", f"http://{ip}:{agent}/api/local_raylet_healthz")
    if not _wait(head, urls, timeout_s=120):
        tail = "\n".join((folder / "head.log").read_text().splitlines()[-15:])
        down(folder)
        return _fail(f"the head did not come up; its last words:\n{tail}")
    print(f"up: {address} (process {head.pid}, files in {folder})")
    print(
        f"submit: v05ray submit jobs/tiny_cpu.yaml --address {address} --follow \\\n"
        f"            generators.num_cpus=1 model.path=$PWD/models/tiny run.output_dir=$PWD/runs\n"
        "end:    clusters/local-autoscaling/down"
    )
    return 0


def configuration(gcs_address: str, *, most: dict[str, int], head_cpus: int, idle_s: float) -> dict[str, Any]:
    """The autoscaler's configuration: `autoscaling.yaml` with this cluster's address and numbers."""
    config = yaml.safe_load(CONFIG.read_text())
    config["provider"]["gcs_address"] = gcs_address
    config["idle_timeout_minutes"] = idle_s / 60
    types = config["available_node_types"]
    types["ray.head.default"]["resources"]["CPU"] = head_cpus
    for name, count in most.items():
        types[name]["max_workers"] = count
    config["max_workers"] = sum(kind["max_workers"] for kind in types.values())
    return config


def down(folder: Path, *, grace_s: float = 4.0) -> int:
    """Ends every process that bears the folder's mark, asking first; deletes the folder. 0, or 1 if some stay."""
    found = processes(folder)
    # The head's monitor would replace nodes that go: it is asked with the rest, and what came meanwhile is ended below.
    for process in found:
        _signal(process.terminate)
    psutil.wait_procs(found, timeout=grace_s)
    for _ in range(5):
        left = processes(folder)
        if not left:
            break
        for process in left:
            _signal(process.kill)
        psutil.wait_procs(left, timeout=2)
    left = processes(folder)
    if left:
        return _fail(f"still running: {[process.pid for process in left]}")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"down: {len(found)} processes ended" if found else f"down: nothing ran in {folder}")
    return 0


def processes(folder: Path) -> list[psutil.Process]:
    """This user's processes that bear the folder's mark, but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):  # another user's, or gone meanwhile
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def _signal(send: Any) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        send()


def _environment(folder: Path) -> dict[str, str]:
    """Of the head, its nodes and the jobs: jobs find this environment's `python` first."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    return kept | {
        MARK: str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(CONFIG.parent), os.environ.get("PYTHONPATH")))),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _wait(head: subprocess.Popen[bytes], urls: tuple[str, ...], *, timeout_s: float) -> bool:
    """Until every URL has answered; False where the head ends or time runs out."""
    deadline = time.monotonic() + timeout_s
    waiting = list(urls)
    while waiting:
        if head.poll() is not None or time.monotonic() > deadline:
            return False
        try:
            with urllib.request.urlopen(waiting[0], timeout=2):
                waiting.pop(0)
        except urllib.error.HTTPError as answer:
            if answer.code not in (401, 403):  # it is up, and asks for Ray's token, which Ray's own clients bring
                time.sleep(0.3)
                continue
            waiting.pop(0)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    return True


def _fail(reason: str) -> int:
    print(f"local-autoscaling: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
