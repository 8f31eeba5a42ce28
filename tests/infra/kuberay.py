"""JSON schemas of KubeRay's objects, written down from the fields its API reference lists; what a pod may say, and
every object of Kubernetes itself, is checked against the schemas of the API (package kubernetes-validate).

They are stricter than the cluster: a field that is not listed here is an error, since a misspelt one is silently
dropped there. Only what the manifests need is listed; a new field is added with its type.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.34"
TEXT, BOOL, INT = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(_needed: str = "", **known: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields and no others; `_needed` names the required ones."""
    return {"type": "object", "properties": known, "required": _needed.split(), "additionalProperties": False}


META = fields("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
KEY = fields("name key", name=TEXT, key=TEXT)
GROUP = {"rayStartParams": TEXTS, "template": fields("spec", metadata={"type": "object"}, spec={"type": "object"})}
RAY_CLUSTER = fields(
    "rayVersion headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields("mode", mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling=BOOL,
    autoscalerOptions=fields(idleTimeoutSeconds=INT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}),
    gcsFaultToleranceOptions=fields(
        "redisAddress",
        redisAddress=TEXT,
        redisPassword=fields(value=TEXT, valueFrom=fields("secretKeyRef", secretKeyRef=KEY)),
        externalStorageNamespace=TEXT,
    ),
    headGroupSpec=fields("rayStartParams template", **GROUP),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": fields(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=TEXT,
            replicas=INT,
            minReplicas=INT,
            maxReplicas=INT,
            **GROUP,
        ),
    },
)
RAY_JOB = fields(
    "entrypoint",
    entrypoint=TEXT,
    clusterSelector=TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    rayClusterSpec=RAY_CLUSTER,
    activeDeadlineSeconds=INT,
    shutdownAfterJobFinishes=BOOL,
    jobId=TEXT,
    metadata=TEXTS,
)
RAY_SERVICE = fields("serveConfigV2 rayClusterConfig", serveConfigV2=TEXT, rayClusterConfig=RAY_CLUSTER)
SPECS = {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB, "RayService": RAY_SERVICE}


def validate(thing: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError for a field that no version of the object has, or that is missing."""
    if thing["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
        return
    whole = fields(
        "apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=META, spec=SPECS[thing["kind"]]
    )
    jsonschema.validate(thing, whole)
    for template in templates(thing["spec"]):
        about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"} | template.get("metadata", {})}
        kubernetes_validate.validate(about | {"spec": template["spec"]}, KUBERNETES, strict=True)


def templates(value: Any) -> Iterator[dict[str, Any]]:
    """The pod templates of a Ray cluster, wherever it stands."""
    if isinstance(value, dict) and "template" in value:
        yield value["template"]
    elif isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from templates(below)
