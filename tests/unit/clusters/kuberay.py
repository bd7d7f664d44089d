"""The fields of KubeRay's `ray.io/v1` resources (v1.6.2, "KubeRay CRD API reference") that one may write.

A group is a dict of field -> type, group, `[group]` or tuple of allowed words; a field with `!` is required. Pods are
Kubernetes' own: of them, the fields used here.
"""

from typing import Any

ANY = object()
QUANTITIES = {"requests": dict, "limits": dict}
ENV = {"name!": str, "value": str, "valueFrom": dict}
MOUNT = {"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}
CONTAINER = {
    "name!": str,
    "image!": str,
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "command": list,
    "args": list,
    "resources!": QUANTITIES,
    "ports": [{"containerPort!": int, "name": str, "protocol": str}],
    "env": [ENV],
    "envFrom": list,
    "volumeMounts": [MOUNT],
    "lifecycle": dict,
    "securityContext": dict,
}
VOLUME = {
    "name!": str,
    "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
    "emptyDir": {"medium": ("", "Memory"), "sizeLimit": str},
    "secret": dict,
    "configMap": dict,
}
POD = {
    "metadata": dict,
    "spec!": {
        "containers!": [CONTAINER],
        "initContainers": list,
        "volumes": [VOLUME],
        "nodeSelector": dict,
        "tolerations": [{"key": str, "operator": ("Exists", "Equal"), "effect": str, "value": str}],
        "affinity": dict,
        "serviceAccountName": str,
        "imagePullSecrets": list,
        "terminationGracePeriodSeconds": int,
    },
}
AUTOSCALER = {
    "resources": QUANTITIES,
    "image": str,
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "securityContext": dict,
    "idleTimeoutSeconds": int,
    "upscalingMode": ("Default", "Aggressive", "Conservative"),
    "version": ("v1", "v2"),
    "env": [ENV],
    "envFrom": list,
    "volumeMounts": [MOUNT],
}
HEAD_GROUP = {
    "template!": POD,
    "headService": dict,
    "enableIngress": bool,
    "resources": dict,
    "labels": dict,
    "rayStartParams": {str: str},
    "serviceType": ("ClusterIP", "NodePort", "LoadBalancer"),
}
WORKER_GROUP = {
    "suspend": bool,
    "groupName!": str,
    "replicas": int,
    "minReplicas!": int,
    "maxReplicas!": int,
    "idleTimeoutSeconds": int,
    "resources": dict,
    "labels": dict,
    "rayStartParams": {str: str},
    "template!": POD,
    "scaleStrategy": dict,
    "numOfHosts": int,
}
CLUSTER = {
    "authOptions": {"mode": ("disabled", "token"), "enableK8sTokenAuth": bool, "secretName": str},
    "suspend": bool,
    "managedBy": str,
    "autoscalerOptions": AUTOSCALER,
    "headServiceAnnotations": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec!": HEAD_GROUP,
    "rayVersion": str,
    "workerGroupSpecs": [WORKER_GROUP],
}
JOB = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "preRunningDeadlineSeconds": int,
    "rayClusterSpec": CLUSTER,
    "submitterPodTemplate": POD,
    "metadata": {str: str},
    "clusterSelector": {str: str},
    "submitterConfig": dict,
    "managedBy": str,
    "deletionStrategy": dict,
    "entrypoint!": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    "entrypointResources": str,
    "entrypointNumCpus": (int, float),
    "entrypointNumGpus": (int, float),
    "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
}
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB}


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a RayCluster or RayJob, one sentence each."""
    outer = {"apiVersion!": str, "kind!": str, "metadata!": dict, "spec!": SPECS[document["kind"]]}
    return _problems(document, outer, "")


def _problems(value: Any, schema: Any, where: str) -> list[str]:
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: expected a list, got {value!r}"]
        return [p for i, one in enumerate(value) for p in _problems(one, schema[0], f"{where}[{i}]")]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where}: expected a mapping, got {value!r}"]
        if set(schema) == {str}:
            return [f"{where}.{k}: expected str, got {v!r}" for k, v in value.items() if type(v) is not str]
        return _mapping_problems(value, schema, where)
    if isinstance(schema, tuple) and all(isinstance(word, str) for word in schema):
        return [] if value in schema else [f"{where}: {value!r} is none of {', '.join(schema)}"]
    types = schema if isinstance(schema, tuple) else (schema,)
    names = " or ".join(kind.__name__ for kind in types)
    return [] if type(value) in types else [f"{where}: expected {names}, got {value!r}"]


def _mapping_problems(value: dict[str, Any], schema: dict[str, Any], where: str) -> list[str]:
    fields = {name.rstrip("!"): inner for name, inner in schema.items()}
    found = [f"{where}: {n[:-1]} is required" for n in schema if n.endswith("!") and n[:-1] not in value]
    for name, inner in value.items():
        path = f"{where}.{name}".lstrip(".")
        found += _problems(inner, fields[name], path) if name in fields else [f"{where}: no field {name}"]
    return found
