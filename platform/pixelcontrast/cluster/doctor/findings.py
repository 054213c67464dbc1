"""What follows from the facts of all machines: facts in, findings out. Imports no Ray."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pixelcontrast.cluster.doctor.probe import Facts
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.placement import (
    Resources,
    check_placement,
    describe_request,
    takes_gpus,
    worker_resources,
    workers_in,
)
from pixelcontrast.config import Run

LEAST_FREE = 5 * 10**9
"""Bytes that should be free: a large network's checkpoint has 1 GB, and Ray spills to its own folder."""
LARGEST_SKEW_S = 1.0
"""Largest difference of two clocks: the times of several workers' errors tell which came first."""

Machines = Mapping[str, Facts]


class Finding(NamedTuple):
    """One row of the doctor's table; ``remedy`` is empty where nothing has to be done."""

    name: str
    text: str
    remedy: str = ""


def versions(machines: Machines) -> Finding:
    """Whether all machines have the same versions of Python, packages and the platform's source."""
    first = next(iter(machines.values())).versions
    different = [
        f"{package} {_by({name: facts.versions.get(package) for name, facts in machines.items()}, machines)}"
        for package in first
        if len({facts.versions.get(package) for facts in machines.values()}) > 1
    ]
    if different:
        remedy = "install the same everywhere; with `ray job submit` the package itself comes with the job"
        return Finding("versions", "; ".join(different), remedy)
    return Finding("versions", ", ".join(f"{package} {version}" for package, version in first.items()))


def token(machines: Machines) -> Finding:
    """Whether Ray demands a token, and only its owner can read the token's file."""
    open_to_all = [name for name, facts in machines.items() if facts.token_required is False]
    if open_to_all:
        finding = f"not required on {_list(open_to_all)}: whoever reaches Ray's ports runs code there"
        remedy = "`ray get-auth-token --generate`, and start the cluster with RAY_AUTH_MODE=token"
        return Finding("token", finding, remedy)
    readable = {
        name: facts.token_file
        for name, facts in machines.items()
        if facts.token_file and facts.token_file[1] & 0o077
    }
    if readable:
        paths = " ".join(dict.fromkeys(path for path, _ in readable.values()))
        modes = {name: f"{path} has mode {mode:04o}" for name, (path, mode) in readable.items()}
        remedy = f"chmod 600 {paths}, and a new token if others may have read it"
        return Finding("token", _by(modes, machines), remedy)
    if any(facts.token_required is None for facts in machines.values()):
        return Finding("token", "no Ray is running here; a local instance makes one of its own, mode 0600")
    files = any(facts.token_file for facts in machines.values())
    return Finding("token", f"required{', its file is for the owner alone' if files else ''}")


def processors(machines: Machines) -> Finding:
    """The CPUs: only on equal ones does a repeated run end with the same bits."""
    found = {name: f"{facts.cores} × {facts.processor}" for name, facts in machines.items()}
    return Finding("CPUs", _by(found, machines))


def gpus(machines: Machines, resources: Mapping[str, Resources]) -> list[Finding]:
    """Whether torch can use the GPUs that Ray assigns, with one version of NCCL."""
    found = {name: ", ".join(facts.gpus) or "none" for name, facts in machines.items()}
    blind = [
        name for name, facts in machines.items() if resources.get(name, {}).get("GPU", 0) > len(facts.gpus)
    ]
    rows = [Finding("GPUs", _by(found, machines))]
    if blind:
        finding = f"{_list(blind)}: Ray has more GPUs to give than torch can use ({_by(found, machines)})"
        rows = [Finding("GPUs", finding, "install a torch built for CUDA and a driver that it works with")]
    nccl = {name: facts.nccl for name, facts in machines.items() if facts.nccl is not None}
    if not nccl:
        return [*rows, Finding("NCCL", "not needed: no GPU; CPU workers use gloo")]
    remedy = "install the same torch on all nodes with GPUs" if len(set(nccl.values())) > 1 else ""
    return [*rows, Finding("NCCL", _by(nccl, nccl), remedy)]


def gloo(machines: Machines) -> Finding:
    """Whether nodes reach one another: gloo, which every training uses, takes the host's own name."""
    unreachable = {
        name: f"the host's own name, {facts.host}, is {facts.gloo}"
        for name, facts in machines.items()
        if facts.gloo.startswith("127.") or facts.gloo == "::1"
    }
    if unreachable:
        finding = f"{_by(unreachable, machines)}: no worker of another node reaches it"
        remedy = (
            "give the name the host's network address in its /etc/hosts, or the job's runtime env "
            "GLOO_SOCKET_IFNAME, the network interface's name (env_vars in clusters/runtime_env.yaml)"
        )
        return Finding("gloo", finding, remedy)
    return Finding("gloo", _by({name: facts.gloo for name, facts in machines.items()}, machines))


def disk(machines: Machines) -> Finding:
    """Whether there is room for Ray's own files and, on a local storage, for checkpoints."""
    free = {
        f"{folder} on {name}": size for name, facts in machines.items() for folder, size in facts.disk.items()
    }
    low = [f"{size / 1e9:.1f} GB free in {where}" for where, size in free.items() if size < LEAST_FREE]
    if low:
        return Finding(
            "disk", "; ".join(low), f"free at least {LEAST_FREE / 1e9:.0f} GB, or use another folder"
        )
    return Finding("disk", f"at least {min(free.values()) / 1e9:.0f} GB free")


def data(machines: Machines, root: str) -> Finding:
    """Whether every machine has the same data set."""
    errors = {name: facts.data_error for name, facts in machines.items() if facts.data_error}
    if errors:
        remedy = f"put the data set under {root} on every node, or on a file system that all share"
        return Finding("data", _by(errors, machines), remedy)
    if len({facts.data for facts in machines.values()}) > 1:
        groups = _groups({name: facts.data for name, facts in machines.items()})
        finding = f"{root} is not the same on {' as on '.join(_list(names) for names in groups.values())}"
        return Finding("data", finding, "copy the same data set to every node")
    return Finding("data", f"{root} is reachable{_everywhere(machines)}")


def storage(
    location: str, written: Mapping[str, Exception | None], unseen: Mapping[str, Sequence[str] | Exception]
) -> Finding:
    """Whether every machine can write to the storage, and read what the others wrote.

    Args:
        written: machine → None, or the error of writing.
        unseen: machine → the machines whose files it does not see, or the error of reading.
    """
    failed = {name: str(error) for name, error in written.items() if error is not None}
    if failed:
        remedy = "check path, permissions and credentials there; a bucket must exist"
        return Finding("storage", f"cannot be written: {_by(failed, written)}", remedy)
    failed = {name: str(found) for name, found in unseen.items() if isinstance(found, Exception)}
    if failed:
        return Finding(
            "storage", f"cannot be read: {_by(failed, written)}", "check permissions and credentials there"
        )
    blind = [f"{name} does not see what {_list(others)} wrote" for name, others in unseen.items() if others]  # type: ignore[arg-type]
    if blind:
        remedy = "give a bucket, or a file system that all nodes share under the same path"
        return Finding("storage", f"{location}: {'; '.join(blind)}", remedy)
    return Finding("storage", f"{location} written and read back{_everywhere(written)}")


def clocks(offsets: Mapping[str, tuple[float, float]]) -> Finding:
    """Whether the clocks agree.

    Args:
        offsets: machine → (seconds that its clock is ahead of this process's, uncertainty in seconds).
    """
    ahead = [offset for offset, _ in offsets.values()]
    skew, unsure = max(ahead) - min(ahead), 2 * max(error for _, error in offsets.values())
    if skew - unsure > LARGEST_SKEW_S:
        found = {name: f"{offset:+.1f} s" for name, (offset, _) in offsets.items()}
        remedy = "synchronise the clocks by NTP (`chronyc makestep`, or restart systemd-timesyncd)"
        return Finding("clocks", f"{skew:.1f} s apart: {_by(found, offsets)}", remedy)
    return Finding("clocks", f"at most {1000 * (skew + unsure):.0f} ms apart")


def placement(run: Run, nodes: Sequence[Resources]) -> Finding:
    """Whether the workers fit on the cluster when it is idle, or would wait for nodes to start."""
    try:
        check_placement(run, nodes)
    except LaunchError as error:
        return Finding("workers", error.finding, error.remedy)
    asked = worker_resources(run, gpu=takes_gpus(run, nodes))
    fitting = sum(workers_in(node, asked) for node in nodes)
    if fitting >= run.workers.min:
        return Finding("workers", f"{describe_request(run, asked)}: they fit")
    waiting = f"on the nodes that are there {fitting or 'none'} would fit; the run would wait for more nodes"
    return Finding(
        "workers", f"{describe_request(run, asked)}: {waiting}, {run.node_timeout:g} seconds at most"
    )


def silent(failures: Mapping[str, Exception]) -> list[Finding]:
    """One finding for each machine that did not answer."""
    found = []
    for name, error in failures.items():
        missing = "No module named" in str(error)
        remedy = (
            "install the package and its dependencies there, or submit with clusters/runtime_env.yaml"
            if missing
            else "look at the node's raylet.out in Ray's log folder, and restart the node"
        )
        found.append(Finding("node", f"{name} did not answer: {_last_line(error)}", remedy))
    return found


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if "No module named" in line]
    return (missing or lines or [type(error).__name__])[-1][:300]


def _by(found: Mapping[str, object], machines: Mapping[str, object]) -> str:
    """``2.14.1 on a, b; 2.13.0 on c``; a value that all machines share is given without their names."""
    return "; ".join(
        f"{value}" if len(names) == len(machines) else f"{value} on {_list(names)}"
        for value, names in _groups(found).items()
    )


def _groups(found: Mapping[str, object]) -> dict[object, list[str]]:
    groups: dict[object, list[str]] = {}
    for name, value in found.items():
        groups.setdefault(value, []).append(name)
    return groups


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _everywhere(machines: Mapping[str, object]) -> str:
    return f" from {len(machines)} nodes" if len(machines) > 1 else ""
