"""JSON schemas of the Kubernetes objects infra/ uses, written down from the fields their documentation lists.

They are stricter than the cluster: a field that is not listed here is an error, since a misspelt one is silently
dropped there. Only what the manifests need is listed; a new field is added with its type.
"""

from typing import Any

TEXT, BOOL, INT = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
ANY: dict[str, Any] = {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "object", "additionalProperties": {"pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$", "type": "string"}}
CRON = {"type": "string", "pattern": r"^(\S+ ){4}\S+$"}


def many(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


def fields(_needed: str = "", **known: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields and no others; `_needed` names the required ones."""
    return {"type": "object", "properties": known, "required": _needed.split(), "additionalProperties": False}


META = fields("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
KEY = fields("name key", name=TEXT, key=TEXT)
VALUE_FROM = fields("secretKeyRef", secretKeyRef=KEY)
ENV = fields("name", name=TEXT, value=TEXT, valueFrom=VALUE_FROM)
SOURCE = fields("name", name=TEXT, optional=BOOL)
PROBE = fields(
    exec=fields("command", command=many(TEXT)),
    httpGet=fields("path port", path=TEXT, port={"type": ["string", "integer"]}),
    initialDelaySeconds=INT,
)
CONTAINER = fields(
    "name image resources securityContext",
    name=TEXT,
    image=TEXT,
    command=many(TEXT),
    args=many(TEXT),
    env=many(ENV),
    envFrom=many(fields(secretRef=SOURCE, configMapRef=SOURCE)),
    ports=many(fields("containerPort", name=TEXT, containerPort=INT)),
    resources=fields("requests limits", requests=QUANTITY, limits=QUANTITY),
    securityContext=fields("allowPrivilegeEscalation capabilities", allowPrivilegeEscalation=BOOL, capabilities=ANY),
    volumeMounts=many(fields("name mountPath", name=TEXT, mountPath=TEXT, readOnly=BOOL)),
    readinessProbe=PROBE,
    livenessProbe=PROBE,
)
POD = fields(
    "containers securityContext",
    serviceAccountName=TEXT,
    automountServiceAccountToken=BOOL,
    terminationGracePeriodSeconds=INT,
    restartPolicy={"enum": ["Never", "OnFailure", "Always"]},
    securityContext=fields(
        "runAsNonRoot seccompProfile",
        runAsNonRoot={"const": True},
        runAsUser=INT,
        runAsGroup=INT,
        fsGroup=INT,
        seccompProfile=fields("type", type=TEXT),
    ),
    containers=many(CONTAINER),
    initContainers=many(CONTAINER),
    tolerations=many(fields("key operator", key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT)),
    volumes=many(
        fields(
            "name",
            name=TEXT,
            emptyDir=fields(medium=TEXT, sizeLimit=TEXT),
            persistentVolumeClaim=fields("claimName", claimName=TEXT),
        )
    ),
)
TEMPLATE = fields("spec", metadata=fields(labels=TEXTS), spec=POD)
SELECTOR = fields(
    matchLabels=TEXTS,
    matchExpressions=many(fields("key operator", key=TEXT, operator={"enum": ["In", "Exists"]}, values=many(TEXT))),
)
CLAIM = fields(
    "accessModes resources",
    accessModes=many({"enum": ["ReadWriteOnce", "ReadWriteMany"]}),
    storageClassName=TEXT,
    resources=fields("requests", requests=QUANTITY),
)
GROUP = {"rayStartParams": TEXTS, "template": TEMPLATE}
RAY_CLUSTER = fields(
    "rayVersion headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields("mode", mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling=BOOL,
    autoscalerOptions=fields(idleTimeoutSeconds=INT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}),
    gcsFaultToleranceOptions=fields(
        "redisAddress",
        redisAddress=TEXT,
        redisPassword=fields(value=TEXT, valueFrom=VALUE_FROM),
        externalStorageNamespace=TEXT,
    ),
    headGroupSpec=fields("rayStartParams template", **GROUP),
    workerGroupSpecs=many(
        fields(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=TEXT,
            replicas=INT,
            minReplicas=INT,
            maxReplicas=INT,
            **GROUP,
        )
    ),
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
WORKLOAD = {"replicas": INT, "selector": SELECTOR, "template": TEMPLATE}
PORTS = many(fields("port", port=INT))
PEER = fields(podSelector=SELECTOR, namespaceSelector=SELECTOR)
SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "Service"): fields("selector ports", selector=TEXTS, ports=many(fields("name port", name=TEXT, port=INT))),
    ("v1", "PersistentVolumeClaim"): CLAIM,
    ("apps/v1", "Deployment"): fields("selector template", **WORKLOAD),
    ("apps/v1", "StatefulSet"): fields(
        "serviceName selector template",
        serviceName=TEXT,
        volumeClaimTemplates=many(fields("metadata spec", metadata=META, spec=CLAIM)),
        **WORKLOAD,
    ),
    ("networking.k8s.io/v1", "NetworkPolicy"): fields(
        "podSelector policyTypes",
        podSelector=SELECTOR,
        policyTypes=many({"enum": ["Ingress", "Egress"]}),
        ingress=many(fields("from", **{"from": many(PEER)}, ports=PORTS)),
    ),
    ("batch/v1", "CronJob"): fields(
        "schedule jobTemplate",
        schedule=CRON,
        timeZone=TEXT,
        concurrencyPolicy={"enum": ["Forbid", "Allow", "Replace"]},
        startingDeadlineSeconds=INT,
        successfulJobsHistoryLimit=INT,
        failedJobsHistoryLimit=INT,
        jobTemplate=fields(
            "spec", spec=fields("template", backoffLimit=INT, activeDeadlineSeconds=INT, template=TEMPLATE)
        ),
    ),
    ("ray.io/v1", "RayCluster"): RAY_CLUSTER,
    ("ray.io/v1", "RayJob"): RAY_JOB,
    ("ray.io/v1", "RayService"): fields(
        "serveConfigV2 rayClusterConfig", serveConfigV2=TEXT, rayClusterConfig=RAY_CLUSTER
    ),
}
PLAIN = {
    ("v1", "Namespace"): fields("apiVersion kind metadata", apiVersion=TEXT, kind=TEXT, metadata=META),
    ("v1", "ConfigMap"): fields("apiVersion kind metadata data", apiVersion=TEXT, kind=TEXT, metadata=META, data=TEXTS),
    ("v1", "ServiceAccount"): fields(
        "apiVersion kind metadata", apiVersion=TEXT, kind=TEXT, metadata=META, automountServiceAccountToken=BOOL
    ),
}


def schema_of(thing: dict[str, Any]) -> dict[str, Any]:
    """The schema of one object; KeyError for a kind nobody wrote down."""
    kind = (thing["apiVersion"], thing["kind"])
    if kind in PLAIN:
        return PLAIN[kind]
    return fields("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=META, spec=SPECS[kind])
