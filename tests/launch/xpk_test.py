"""launch/xpk.py: JobSets as text; launch/on_xmanager.py and the Dockerfile as text."""

import os
import pathlib
import sys

import pytest

from launch import jobs, xpk

ROOT = pathlib.Path(__file__).parents[2]


def strict(schema):
    """A structural schema under which a field that it does not name is an error, not dropped."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(part) for key, part in schema.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    if found.pop("x-kubernetes-int-or-string", False):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    return found


def an(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


def some(schema, **optional):
    return {**schema, "properties": {**schema.get("properties", {}), **optional}}


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def each(schema):
    return {"type": "array", "minItems": 1, "items": schema}


# The fields of jobset.x-k8s.io/v1alpha2 that are used, with the types of its definition.
CONTAINER = some(
    an(
        name=TEXT,
        image=TEXT,
        command=each(TEXT),
        ports=each(an(containerPort=NUMBER)),
    ),
    env=each(some(an(name=TEXT), value=TEXT, valueFrom=an(fieldRef=an(fieldPath=TEXT)))),
    resources=an(limits={"type": "object", "additionalProperties": NUMBER}),
    volumeMounts=each(an(name=TEXT, mountPath={"type": "string", "pattern": "^/"})),
)
POD = some(
    an(
        restartPolicy={"enum": ["Never"]},
        terminationGracePeriodSeconds=NUMBER,
        containers=each(CONTAINER),
    ),
    nodeSelector=TEXTS,
    volumes=each(an(name=TEXT, persistentVolumeClaim=an(claimName=TEXT))),
)
EXIT = an(containerName=TEXT, operator={"enum": ["In", "NotIn"]}, values=each(NUMBER))
JOB = an(
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    parallelism=NUMBER,
    completions=NUMBER,
    backoffLimit=NUMBER,
    podFailurePolicy=an(
        rules=each(
            an(action={"enum": ["FailJob", "Ignore", "Count", "FailIndex"]}, onExitCodes=EXIT)
        )
    ),
    template=an(spec=POD),
)
RULE = an(
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons=each(TEXT),
)
SCHEMA = an(
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=some(
        an(name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}, namespace=TEXT),
        annotations=TEXTS,
    ),
    spec=an(
        failurePolicy=an(maxRestarts=NUMBER, rules=each(RULE)),
        network=an(enableDNSHostnames={"type": "boolean"}),
        replicatedJobs=each(an(name=TEXT, replicas=NUMBER, template=an(spec=JOB))),
    ),
)

IMAGE = "--image=registry/jaxlab:1"
KINDS = {
    "tpu": ("--tpu=v5p:4x4x4", "--slices=2", "--volume=claim:/mnt/runs"),
    "gpu": ("--gpu=nvidia-h100-80gb", "--nodes=4"),
    "cpu": ("--nodes=2", "--env=A=b: 'c'"),
    "one": (),
}


def documents(text):
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(text))


def definition():
    """The schema of the released definition, whose file JAXLAB_JOBSET_CRD names."""
    path = os.environ.get("JAXLAB_JOBSET_CRD")
    if path is None:
        pytest.skip("JAXLAB_JOBSET_CRD names no jobset.x-k8s.io_jobsets.yaml of JobSet's release")
    (crd,) = documents(pathlib.Path(path).read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize("whole", [False, True], ids=["used", "release"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_yaml_fits_the_definition(launch, kind, whole):
    jsonschema = pytest.importorskip("jsonschema")
    done = launch("xpk", IMAGE, "--dry_run", *KINDS[kind])
    assert done.returncode == 0, done.stderr
    (jobset,) = documents(done.stdout)
    schema = definition() if whole else SCHEMA
    if whole:
        # Its metadata is any object: the API server checks it elsewhere.
        schema["properties"]["metadata"] = SCHEMA["properties"]["metadata"]
    jsonschema.validate(jobset, strict(schema))
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["parallel"] = 1
    with pytest.raises(jsonschema.ValidationError, match="parallel"):
        jsonschema.validate(jobset, strict(schema))


def worker(jobset):
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    return spec, spec["template"]["spec"], spec["template"]["spec"]["containers"][0]


def test_tpus_by_slices(launch, tmp_path):
    text = launch("xpk", IMAGE, "--dry_run", *KINDS["tpu"]).stdout
    (jobset,) = documents(text)
    job, pod, container = worker(jobset)
    # 64 chips, 4 of a host.
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (16, 16, 0)
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    command = ["python", "-m", "door", f"--workdir={tmp_path}/run", "--config=configs/x.py"]
    assert container["command"] == [*command, "--config.mesh.multihost=auto"]
    assert "env" not in container
    assert text.splitlines()[0].endswith("  # without --volume")
    # xpk counts the cores of a v5p.
    assert text.startswith(
        "# xpk workload create --cluster=CLUSTER --workload=run --tpu-type=v5p-128 --num-slices=2 "
    )


def test_gpus_find_each_other_by_the_first_pod(launch):
    (jobset,) = documents(launch("xpk", IMAGE, "--dry_run", *KINDS["gpu"]).stdout)
    job, _, container = worker(jobset)
    assert (job["parallelism"], container["resources"]) == (4, {"limits": {"nvidia.com/gpu": 8}})
    env = {one["name"]: one for one in container["env"]}
    assert env["JAXLAB_COORDINATOR"]["value"] == "run-worker-0-0.run:8476"
    assert env["JAXLAB_NUM_PROCESSES"]["value"] == "4"
    field = env["JAXLAB_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert container["command"][-1] == "--config.mesh.multihost=env"


def test_bad_input_ends_a_set_and_lost_pods_do_not(launch):
    (jobset,) = documents(launch("xpk", IMAGE, "--dry_run", "--max_restarts=7").stdout)
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"][0]["action"] == "FailJobSet"
    (rule,) = worker(jobset)[0]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2]


def test_a_sweep_is_a_document_per_member(launch, tmp_path):
    found = documents(launch("xpk", IMAGE, "--dry_run", "--sweep", "--tpu=v6e:2x4").stdout)
    assert [one["metadata"]["name"] for one in found] == ["run-00", "run-01"]
    assert worker(found[1])[2]["command"][-2:] == ["--config.loss.name=a b", "--config.x=None"]


@pytest.mark.parametrize(
    ("kind", "hosts", "chips"),
    [("v5e:2x2", 1, 4), ("v5e:1x1", 1, 1), ("v6e:16x16", 64, 4), ("v4:2x2x4", 4, 4)],
)
def test_hosts_of_a_topology(kind, hosts, chips):
    arguments = jobs.argparse.Namespace(tpu=kind, gpu=None)
    found, _, devices = xpk.shape(arguments)
    assert (found, devices) == (hosts, {"google.com/tpu": chips})


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--tpu=v9:2x2",), "xpk.py: --tpu: 'v9:2x2' is not KIND:AxB or AxBxC of v4, v5e, v5p"),
        (("--tpu=v5p:4",), "--tpu: 'v5p:4' is not KIND:AxB"),
        (("--tpu=v5e:2x3",), "--tpu: 2x3 has 6 chips, hosts have 4"),
        (("--tpu=v5e:2x2", "--nodes=2"), "--nodes: the topology of --tpu says how many hosts"),
        (("--gpu=x", "--slices=2"), "--slices: of --tpu alone"),
        (("--gpus_per_node=4",), "--gpus_per_node: of --gpu alone"),
        (("--processes=2",), "--processes: a host has one process here: set --nodes"),
        (("--nodes=0",), "--nodes must be 1 or more, not 0"),
        (("--volume=claim",), "--volume: 'claim' is not CLAIM:/PATH"),
        (("--tpu=v5e:2x2", "--gpu=x"), "not allowed with argument"),
    ],
)
def test_bad_flags(launch, words, cause):
    done = launch("xpk", IMAGE, *words)
    assert done.returncode == 2
    assert cause in done.stderr


def test_without_kubectl_it_names_the_install_page(launch, tmp_path):
    done = launch("xpk", IMAGE, PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("xpk.py: kubectl is missing: https://kubernetes.io/docs/tasks")


def test_yaml_of_what_is_hard_to_quote():
    value = {"a": ["x: y", "- z", 'q"', "#", ""], "b": {}, "c": [{"d": [1, True, None]}, []]}
    assert documents(xpk.yaml(value)) == [value]


def test_names_are_those_of_kubernetes():
    assert xpk._name("/a/My run_2", "My run_2") == "my-run-2"
    assert xpk._name("/a/9", "00-optim.b2=1") == "j9-00"
    assert len(xpk._name("/a/" + "x" * 99, "x" * 99)) <= 40
    with pytest.raises(jobs.LaunchError, match="no letter or digit"):
        xpk._name("/a/__", "__")


def test_xmanager_as_text(launch, tmp_path):
    done = launch("on_xmanager", "--dry_run", "--sweep", "--processes=2", "--config.z=1")
    assert done.returncode == 0, done.stderr
    head, command, *_ = done.stdout.splitlines()
    assert head == "# 00-optim.b2=0.95,seed=1: xm.Binary under xm_local.Local"
    assert command == (
        f"{sys.executable} {ROOT}/launch/local.py --config=configs/x.py "
        f"--workdir={tmp_path}/run/00-optim.b2=0.95,seed=1 --processes=2 --max_restarts=3 "
        f"--module=door --python={sys.executable} --config.z=1 --config.optim.b2=0.95 "
        "--config.seed=1"
    )


def test_without_xmanager_it_names_the_install_line(launch, tmp_path):
    (tmp_path / "xmanager.py").write_text("raise ModuleNotFoundError('no xmanager')\n")
    done = launch("on_xmanager")
    assert done.returncode == 2
    assert "xmanager is missing: uv venv xm && uv pip install" in done.stderr


def test_the_image_copies_what_there_is():
    lines = (ROOT / "launch/Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    wheel = ("pyproject.toml", "README.md", "LICENSE", "jaxlab", "kernels")
    assert set(wheel) <= set(copied)
    extras = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{device} = [" in extras for device in ("gpu", "tpu"))
