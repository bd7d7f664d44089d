"""What a RayCluster may grow to, read from a Kubernetes API as the head's pod reads it, over TLS."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from v05ray.machine.layout import Node, NodeType, Role, outlook

ROOT = Path(__file__).parents[3]
READ = """
import json, logging, sys
from pathlib import Path
from v05ray.actors.placement import kuberay_config, types_of

logging.basicConfig(stream=sys.stdout)
for line in sys.stdin:
    config = kuberay_config(json.loads(line), Path(sys.argv[1]))
    print(json.dumps(None if config is None else [[t.name, t.resources, t.most] for t in types_of(config)]), flush=True)
"""
Api = Callable[..., tuple[list[NodeType] | None, str]]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Reads the RayCluster of a server that answers with `status` and `document`; gives what was found and was said.

    One process reads for all tests: Ray takes the paths from its environment as it is imported, which takes seconds.
    """
    answer: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/apis/ray.io/v1/namespaces/training/rayclusters/v05ray"
            body = json.dumps(answer["document"]).encode()
            self.send_response(answer["status"] if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    account = tmp_path_factory.mktemp("account")
    certificate, key = account / "ca.crt", account / "key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=kubernetes"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    (account / "namespace").write_text("training\n")

    def read(document: Any, status: int = 200, name: str = "v05ray") -> tuple[list[NodeType] | None, str]:
        answer.update(document=document, status=status)
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write(f"{json.dumps(name)}\n")
        reader.stdin.flush()
        said = []
        while not (line := reader.stdout.readline()).startswith(("[", "null")):
            assert line, "".join(said)
            said.append(line)
        found = json.loads(line)
        return found and [NodeType(*entry) for entry in found], "".join(said)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        env = {
            **os.environ,
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_address[1]),
            "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
        }
        command = [sys.executable, "-c", READ, str(account)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as reader:
            yield read
            reader.communicate(timeout=60)
        server.shutdown()
        serving.join()


def cluster() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "clusters" / "raycluster.yaml").read_text())
    document["metadata"]["namespace"] = "training"  # as the API returns it
    return document


def test_the_groups_of_the_raycluster_are_what_may_come(api: Api):
    types, _ = api(cluster())
    gib = 2**30
    assert types == [
        NodeType("generator", {"CPU": 8, "GPU": 1, "memory": 48 * gib, "generator": 1}, 8),
        NodeType("learner", {"CPU": 32, "GPU": 4, "memory": 192 * gib, "learner": 1}, 2),
        NodeType("value", {"CPU": 4, "memory": 16 * gib, "value": 1}, 4),
    ]
    # So what no group holds is refused at once, and what one may bring is waited for.
    head = [Node("head", {"CPU": 8.0})]
    giant, one = (Role("learner", ({"GPU": float(count)},), "PACK") for count in (8, 4))
    assert outlook([giant], head, types).verdict == "never"
    assert outlook([one], head, types).verdict == "coming"


def test_where_it_may_not_be_read_or_there_is_no_autoscaler_nothing_is_known(api: Api):
    types, said = api({}, status=403)
    assert types is None
    assert "the RayCluster v05ray cannot be read (403" in said
    fixed = cluster()
    fixed["spec"]["enableInTreeAutoscaling"] = False
    assert api(fixed)[0] is None
    assert api(cluster(), name="")[0] is None  # not under KubeRay
