"""Run a config, or the members of its sweep, on a Kubernetes cluster (GKE) as JobSets.

    python launch/xpk.py --config=configs/NAME.py[:variant] --workdir=DIR --image=IMAGE [--sweep]
        [--dry_run] --tpu=v5p:4x4x4 [--slices=2]
        | --gpu=nvidia-h100-80gb --nodes=4 [--gpus_per_node=8] | --nodes=2

The YAML (jobset.x-k8s.io/v1alpha2, see docs/launch.md) goes to kubectl; --dry_run prints it, with
the xpk command for the same pods where there is one. The image is that of launch/Dockerfile; a
host is a pod and a process. When a pod is lost or preempted the whole set starts again, up to
--max_restarts times, and the same command goes on from the last checkpoint; code 2 (bad input) ends
it. DIR must be a volume that all pods see: --volume=CLAIM:PATH mounts a persistent one.
"""

import argparse
import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from launch import jobs

_PORT = 8476
# GKE's name of a TPU, chips of a host, and what xpk calls a type: by chips or by cores.
_TPUS = {
    "v4": ("tpu-v4-podslice", 4, "v4-", 2),
    "v5e": ("tpu-v5-lite-podslice", 4, "v5litepod-", 1),
    "v5p": ("tpu-v5p-slice", 4, "v5p-", 2),
    "v6e": ("tpu-v6e-slice", 4, "v6e-", 1),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Create the JobSets of the command line; returns the exit code."""
    flags = jobs.parser(__doc__, python="python")
    flags.add_argument("--image", required=True, help="of launch/Dockerfile, where nodes find it")
    kinds = flags.add_mutually_exclusive_group()
    kinds.add_argument("--tpu", metavar="KIND:TOPOLOGY", help="for example v5p:4x4x4")
    kinds.add_argument("--gpu", help="GKE's name of an accelerator, for example nvidia-h100-80gb")
    flags.add_argument("--slices", type=int, default=1, help="of TPUs")
    flags.add_argument("--nodes", type=int, default=1, help="of GPUs, or of CPUs")
    flags.add_argument("--gpus_per_node", type=int, default=8)
    flags.add_argument("--namespace", default="default")
    flags.add_argument("--volume", metavar="CLAIM:PATH", help="a persistent volume claim")
    flags.add_argument("--cluster", default="CLUSTER", help="of the xpk command")
    arguments = jobs.parse(flags, argv)
    jobs.refuse(flags, arguments, "a host has one process here: set --nodes", "processes")
    if arguments.tpu:
        jobs.refuse(flags, arguments, "the topology of --tpu says how many hosts", "nodes")
    else:
        jobs.refuse(flags, arguments, "of --tpu alone", "slices")
    if not arguments.gpu:
        jobs.refuse(flags, arguments, "of --gpu alone", "gpus_per_node")
    hosts, _, _ = shape(arguments)
    many = hosts * arguments.slices > 1
    found = jobs.jobs(arguments, ("auto" if arguments.tpu else "env") if many else None)
    documents = [jobset(job, arguments) for job in found]
    text = "---\n".join(yaml(one) for one in documents)
    if arguments.dry_run:
        if arguments.tpu:
            text = "".join(f"# {_xpk(job, arguments)}\n" for job in found) + text
        print(text, end="")
        return 0
    kubectl = jobs.need("kubectl", "https://kubernetes.io/docs/tasks/tools; --dry_run needs none")
    done = subprocess.run([kubectl, "apply", "-f", "-"], input=text, text=True)
    names = [one["metadata"]["name"] for one in documents]
    rows = [{"job": n, "workdir": job.workdir} for n, job in zip(names, found, strict=True)]
    print(jobs.table(rows))
    return 1 if done.returncode else 0


def shape(arguments: argparse.Namespace) -> tuple[int, dict[str, str], dict[str, int]]:
    """Hosts of a slice, what a node must be, and the devices that a host gets.

    Raises:
        LaunchError: the TPU or its topology is none.
    """
    if arguments.gpu:
        selector = {"cloud.google.com/gke-accelerator": arguments.gpu}
        return arguments.nodes, selector, {"nvidia.com/gpu": arguments.gpus_per_node}
    if not arguments.tpu:
        return arguments.nodes, {}, {}
    kind, _, topology = arguments.tpu.partition(":")
    if kind not in _TPUS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", topology):
        known = ", ".join(_TPUS)
        raise jobs.LaunchError(f"--tpu: {arguments.tpu!r} is not KIND:AxB or AxBxC of {known}")
    name, per_host, _, _ = _TPUS[kind]
    chips = math.prod(map(int, topology.split("x")))
    per_host = min(per_host, chips)
    if chips % per_host:
        raise jobs.LaunchError(f"--tpu: {topology} has {chips} chips, hosts have {per_host}")
    selector = {
        "cloud.google.com/gke-tpu-accelerator": name,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    return chips // per_host, selector, {"google.com/tpu": per_host}


def jobset(job: jobs.Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """The JobSet of a job."""
    hosts, selector, devices = shape(arguments)
    name = _name(arguments.workdir, job.name)
    given = dict(pair.split("=", 1) for pair in arguments.env)
    env: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in given.items()]
    replicas = arguments.slices if arguments.tpu else 1
    if not arguments.tpu and hosts > 1:
        # The first pod's name, which JobSet gives it in its network.
        own = jobs.environment(f"{name}-worker-0-0.{name}:{_PORT}", hosts, 0)
        del own["JAXLAB_PROCESS_ID"]
        env += [{"name": key, "value": value} for key, value in own.items()]
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        field = {"fieldRef": {"fieldPath": index}}
        env.append({"name": "JAXLAB_PROCESS_ID", "valueFrom": field})
    container: dict[str, Any] = {
        "name": "jaxlab",
        "image": arguments.image,
        "command": list(job.command),
        "ports": [{"containerPort": _PORT}],
    }
    if env:
        container["env"] = env
    if devices:
        container["resources"] = {"limits": dict(devices)}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        # From SIGTERM to SIGKILL: a checkpoint is to be saved.
        "terminationGracePeriodSeconds": 120,
        "containers": [container],
    }
    if selector:
        pod["nodeSelector"] = selector
    if arguments.volume:
        claim, _, path = arguments.volume.partition(":")
        if not claim or not path.startswith("/"):
            raise jobs.LaunchError(f"--volume: {arguments.volume!r} is not CLAIM:/PATH")
        container["volumeMounts"] = [{"name": "work", "mountPath": path}]
        pod["volumes"] = [{"name": "work", "persistentVolumeClaim": {"claimName": claim}}]
    annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    bad = {"containerName": "jaxlab", "operator": "In", "values": [jobs.BAD_INPUT]}
    spec = {
        "completionMode": "Indexed",
        "parallelism": hosts,
        "completions": hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": bad}]},
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": arguments.namespace,
            **({"annotations": annotations} if arguments.tpu else {}),
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": arguments.max_restarts,
                "rules": [
                    {
                        "name": "badInput",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "network": {"enableDNSHostnames": True},
            "replicatedJobs": [
                {"name": "worker", "replicas": replicas, "template": {"spec": spec}}
            ],
        },
    }


def yaml(value: Any, indent: int = 0) -> str:
    """Dicts, lists and scalars as YAML in blocks; a string is in quotes, as in JSON."""
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        return "".join(f"{pad}{key}:{_below(part, indent)}" for key, part in value.items())
    if isinstance(value, list) and value:
        lines = (yaml(part, indent + 1) for part in value)
        return "".join(f"{pad}- {line[len(pad) + 2 :]}" for line in lines)
    return f"{pad}{json.dumps(value)}\n"


def _below(value: Any, indent: int) -> str:
    if isinstance(value, Mapping | list) and value:
        return "\n" + yaml(value, indent + 1)
    return f" {json.dumps(value)}\n"


def _name(workdir: str, member: str) -> str:
    """A name that Kubernetes takes, short enough for those of its pods.

    Raises:
        LaunchError: no letter or digit is left.
    """
    whole = pathlib.PurePath(workdir).name
    words = whole if member == whole else f"{whole}-{member.partition('-')[0]}"
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[-40:].strip("-")
    if not name:
        raise jobs.LaunchError(f"--workdir: {whole!r} has no letter or digit for a job's name")
    return name if name[0].isalpha() else f"j{name}"


def _xpk(job: jobs.Job, arguments: argparse.Namespace) -> str:
    """The xpk command for the same pods, and which flags it leaves out."""
    kind, _, topology = arguments.tpu.partition(":")
    _, _, prefix, factor = _TPUS[kind]
    chips = math.prod(map(int, topology.split("x")))
    words = [
        f"--cluster={arguments.cluster}",
        f"--workload={_name(arguments.workdir, job.name)}",
        f"--tpu-type={prefix}{chips * factor}",
        f"--num-slices={arguments.slices}",
        f"--docker-image={arguments.image}",
        f"--max-restarts={arguments.max_restarts}",
        f"--command={shlex.join(job.command)}",
    ]
    given = {"--volume": arguments.volume, "--env": arguments.env}
    without = ", ".join(name for name, value in given.items() if value)
    note = f"  # without {without}" if without else ""
    return f"xpk workload create {shlex.join(words)}{note}"


if __name__ == "__main__":
    jobs.run(main)
