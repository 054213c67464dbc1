"""Check that this machine, or every node of a cluster, has what a run needs."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pixelcontrast.cluster.connect import connect, names_cluster
from pixelcontrast.cluster.doctor import findings
from pixelcontrast.cluster.doctor.findings import Finding
from pixelcontrast.cluster.doctor.probe import Facts, Probe
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.paths import check_job_path
from pixelcontrast.cluster.placement import Resources
from pixelcontrast.cluster.ray_internals import draining_nodes
from pixelcontrast.config import ClassOrder, Layout, Run, absolute_path

ANSWER_S = 120.0
"""How long a node may take to answer; the first answer includes the start of a process that loads torch."""
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run would ask for.

    Attributes:
        storage: a folder or URI; None: not checked.
        data: the data set's folder; None: not checked.
        layout: its layout; None: check only that the folder is there, with the same entries everywhere.
        class_order: of PASCAL-Context's classes; None: as the data tell.
        run: workers and what each of them reserves.
    """

    storage: str | None
    data: str | None
    layout: Layout | None
    class_order: ClassOrder | None = None
    run: Run


def diagnose(wanted: Wanted) -> list[Finding]:
    """Check the cluster in RAY_ADDRESS, or this machine if none is named; starts no Ray.

    Returns:
        One finding per check.

    Raises:
        ValueError: a relative path in a job.
    """
    storage, data = wanted.storage, wanted.data
    check_job_path("storage", storage or "/", "a URI (s3://bucket/runs) or an absolute path")
    check_job_path("data", data or "/", "an absolute path")
    wanted = replace(wanted, storage=storage and absolute_path(storage), data=data and absolute_path(data))
    if not names_cluster():
        return _diagnose_machine(wanted)
    try:
        with connect():
            return _diagnose_cluster(wanted)
    except LaunchError as error:
        return [Finding("cluster", error.finding, error.remedy or "look at what RAY_ADDRESS names")]


class _Asked(Protocol):
    """Machines that are asked all at once."""

    def ask(self, method: str, *args: Any) -> dict[str, Any]:
        """Machine → its answer, or the exception that came instead."""
        ...


class _ThisMachine:
    def __init__(self) -> None:
        self._probe = Probe("this machine")

    def ask(self, method: str, *args: Any) -> dict[str, Any]:
        try:
            return {"this machine": getattr(self._probe, method)(*args)}
        except Exception as error:
            return {"this machine": error}


class _Nodes:
    """A probe on every node, as an actor that reserves nothing."""

    def __init__(self, ids: Mapping[str, str]):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor: Any = ray.remote(Probe)
        self._probes = {
            name: actor.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(name)
            for name, node in ids.items()
        }

    def ask(self, method: str, *args: Any) -> dict[str, Any]:
        import ray
        from ray.exceptions import GetTimeoutError, RayError, RayTaskError

        answers = {name: getattr(probe, method).remote(*args) for name, probe in self._probes.items()}
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=ANSWER_S)
        found: dict[str, Any] = {}
        for name, answer in answers.items():
            try:
                found[name] = ray.get(answer, timeout=0.1)
            except RayTaskError as error:
                found[name] = error.cause if isinstance(error.cause, Exception) else error
            except GetTimeoutError:
                found[name] = TimeoutError(f"no answer in {ANSWER_S:g} seconds")
            except RayError as error:
                found[name] = error
        return found

    def drop(self, names: set[str]) -> None:
        """Do not ask these machines any more."""
        self._probes = {name: probe for name, probe in self._probes.items() if name not in names}


def _diagnose_machine(wanted: Wanted) -> list[Finding]:
    here = _ThisMachine()
    facts: Facts = here.ask("look", *_look(wanted))["this machine"]
    if isinstance(facts, Exception):
        raise facts
    machines = {"this machine": facts}
    # A local instance offers as many CPUs as the workers ask for.
    cpus = max(facts.cores, wanted.run.workers.max * wanted.run.cpus_per_worker)
    resources = {"CPU": float(cpus), "GPU": float(len(facts.gpus))}
    workers = findings.placement(wanted.run, [resources])
    if cpus > facts.cores:
        workers = workers._replace(text=f"{workers.text}, and share {facts.cores} cores")
    return [*_judge(machines, {}, here, wanted), workers]


def _diagnose_cluster(wanted: Wanted) -> list[Finding]:
    import ray

    from pixelcontrast.cluster import nodes

    alive = {_name(node): node for node in ray.nodes() if node["Alive"]}
    asked = _Nodes({name: node["NodeID"] for name, node in alive.items()})
    answers = asked.ask("look", *_look(wanted))
    failed = {name: answer for name, answer in answers.items() if isinstance(answer, Exception)}
    asked.drop(set(failed))
    machines = {name: facts for name, facts in answers.items() if name not in failed}
    resources = {name: node["Resources"] for name, node in alive.items()}
    found = [_describe_nodes(resources, len(ray.nodes()) - len(alive)), *findings.silent(failed)]
    if machines:
        found += [*_judge(machines, resources, asked, wanted), findings.clocks(_offsets(asked))]
    if machines and len({node["NodeManagerAddress"] for node in alive.values()}) > 1:
        found.append(findings.gloo(machines))
    return [*found, findings.placement(wanted.run, nodes.cluster_resources())]


def _describe_nodes(resources: Mapping[str, Resources], gone: int) -> Finding:
    from pixelcontrast.cluster import nodes

    parts = [f"{len(resources)} alive" + (f", {gone} gone" if gone else "")]
    draining = len(draining_nodes())
    parts += [f"{draining} being drained"] if draining else []
    free = nodes.free_resources()
    for kind in ("CPU", "GPU"):
        total = sum(node.get(kind, 0) for node in resources.values())
        parts.append(f"{sum(node.get(kind, 0) for node in free):g} of {total:g} {kind}s free")
    return Finding("nodes", ", ".join(parts))


def _judge(
    machines: Mapping[str, Facts], resources: Mapping[str, Resources], asked: _Asked, wanted: Wanted
) -> list[Finding]:
    found = [
        findings.versions(machines),
        findings.token(machines),
        findings.processors(machines),
        *findings.gpus(machines, resources),
        findings.disk(machines),
    ]
    if wanted.data is not None:
        found.append(findings.data(machines, wanted.data))
    if wanted.storage is not None:
        found.append(_try_storage(wanted.storage, list(machines), asked))
    return found


def _try_storage(location: str, names: list[str], asked: _Asked) -> Finding:
    """Let every machine write a file, then let every machine read all files."""
    from pixelcontrast.storage import Storage

    folder = (Storage(location, option="--storage") / f".doctor-{secrets.token_hex(4)}").location
    written = asked.ask("write", folder)
    unseen: dict[str, Any] = {}
    if not any(isinstance(answer, Exception) for answer in written.values()):
        unseen = asked.ask("read", folder, names)
    asked.ask("clean", folder)
    return findings.storage(location, written, unseen)


def _offsets(asked: _Asked) -> dict[str, tuple[float, float]]:
    """Machine → (seconds ahead of this process's clock, half the time that the question took)."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(_ROUNDS):
        before = time.time()
        answers = asked.ask("clock")
        after = time.time()
        for name, answer in answers.items():
            if not isinstance(answer, Exception):
                estimate = answer - (before + after) / 2, (after - before) / 2
                best[name] = min(best.get(name, estimate), estimate, key=lambda found: found[1])
    return best


def _look(wanted: Wanted) -> tuple[str | None, Layout | None, ClassOrder | None, list[str]]:
    """Arguments of ``Probe.look``."""
    return wanted.data, wanted.layout, wanted.class_order, _folders(wanted)


def _folders(wanted: Wanted) -> list[str]:
    """Folders whose free space matters, besides that of temporary files."""
    return [] if wanted.storage is None or "://" in wanted.storage else [wanted.storage]


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
