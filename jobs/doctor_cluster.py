"""`xnemo doctor --address`: the same question asked of a cluster, on every node of it.

The client looks at the address, the token and the versions; then a job asks each node (`--nodes`), so that what
is found is what the workers meet, not what this machine would.
"""

import time
from collections import Counter

from jobs.findings import Finding, show
from xnemo_platform import nodes, submit
from xnemo_platform.settings import Settings, explicit

SKEW_S = 1.0  # more, and the order of events in logs and metrics misleads; signed storage requests fail at 900
LEAST_FREE_GIB = 20


def from_outside(address: str, gpu_needed: bool) -> int:
    """Submit the examination and follow it; exit code of the job. Raises PlatformError where it cannot start."""
    running = len(submit.jobs(address))
    show([Finding("ray", "ok", f"{address} answers and takes the token; {running} jobs known")])
    words = ["jobs.doctor", "--nodes", *(["--gpu"] if gpu_needed else [])]
    job = submit.submit(words, f"doctor-{time.strftime('%Y%m%d-%H%M%S')}", address, env=explicit())
    job = submit.follow(job.id, address, lambda line: print(line, flush=True))
    if job.status != "SUCCEEDED" and job.exit_code is None:
        print(f"job {job.id}: {job.status} {job.message}".rstrip())
    return submit.exit_code(job)


def from_inside(places: Settings, gpu_needed: bool) -> list[Finding]:
    """Findings on every node; runs in a job."""
    from xnemo_platform.trainer import start_ray

    start_ray(places.cpus)
    found = nodes.examine(places)
    ours = nodes.versions()
    return [
        *(finding for node in found for finding in judge(node, ours)),
        _gpus(found, gpu_needed),
    ]


def judge(node: nodes.Node, ours: dict[str, str]) -> list[Finding]:
    """What is well and what is not with one node; `ours` are the versions the driver has."""
    name = node.name
    if not node.answered:
        mend = "drain and restart the node; its raylet log says more"
        return [Finding(name, "fail", f"no answer ({node.problems['node']})", mend)]
    wrong = [
        f"{package} {node.versions[package]} instead of {wanted}"
        for package, wanted in ours.items()
        if node.versions[package] != wanted
    ]
    findings = [Finding(name, "fail", ", ".join(wrong), "start the node from the head's image")] if wrong else []
    mends = {
        "storage": "give the nodes' role read, write, list and delete on it, and its address in XNEMO_STORAGE",
        "home": "runs live there (XNEMO_HOME): it must be one volume that all nodes mount",
        "mlflow": "see docs/runbook.md, MLflow does not answer",
    }
    findings += [Finding(name, "fail", f"{what}: {says}", mends[what]) for what, says in node.problems.items() if says]
    if abs(node.skew_s) - node.skew_error_s > SKEW_S:
        findings.append(Finding(name, "fail", f"clock off by {node.skew_s:+.1f} s", "run chrony or ntpd on the node"))
    if node.free_gib < LEAST_FREE_GIB:
        findings.append(Finding(name, "warn", f"{node.free_gib:.0f} GiB free", f"{LEAST_FREE_GIB} GiB are comfortable"))
    if len(node.gpus) < node.gpus_promised:
        says = f"{len(node.gpus)} GPUs work of the {node.gpus_promised} Ray counts"
        findings.append(Finding(name, "fail", says, "look at nvidia-smi there, and at the image's driver"))
    if any(finding.state == "fail" for finding in findings):
        return findings
    gpus = ", ".join(f"{count} × {kind}" for kind, count in Counter(node.gpus).items()) or "no GPU"
    clock = f"clock {node.skew_s:+.2f} ± {node.skew_error_s:.2f} s"
    says = f"versions agree; storage, home and MLflow reached; {gpus}; {clock}; {node.free_gib:.0f} GiB free"
    return [Finding(name, "ok", says), *findings]


def _gpus(found: list[nodes.Node], needed: bool) -> Finding:
    count = sum(len(node.gpus) for node in found)
    if count or not needed:
        return Finding("cluster", "ok", f"{len(found)} nodes, {count} GPUs")
    return Finding("cluster", "fail", f"{len(found)} nodes, no GPU", "add a node of a GPU group")
