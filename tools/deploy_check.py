#!/usr/bin/env python3
"""Checks deploy/ without a cluster and without a container engine.

Renders deploy/base with kubectl, then holds the result to the Kubernetes schemas, to the restricted
Pod Security profile, to itself (labels, ports, ConfigMap keys) and to the example manifest, which
`pelton lint` reads too. Of the Dockerfile it checks what can be read off its text; that the image
builds and runs is not shown here.
"""

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
BASE = ROOT / "deploy" / "base"
MANIFEST = BASE / "app" / "pelton.yaml"


class Rendered:
    """The objects that kubectl rendered, and the one Deployment among them."""

    def __init__(self, objects):
        self.objects = objects
        self.deployment = self.only("Deployment")
        self.pod = self.deployment["spec"]["template"]["spec"]
        self.pod_labels = self.deployment["spec"]["template"]["metadata"]["labels"]
        self.containers = self.pod.get("initContainers", []) + self.pod["containers"]

    def all(self, kind):
        return [item for item in self.objects if item["kind"] == kind]

    def only(self, kind):
        (found,) = self.all(kind)
        return found

    def config_maps(self):
        return {item["metadata"]["name"]: item.get("data", {}) for item in self.all("ConfigMap")}

    def ports(self):
        return {port["name"]: port["containerPort"] for item in self.containers for port in item.get("ports", [])}


def main():
    rendered = Rendered(render())
    manifest = yaml.safe_load(MANIFEST.read_text())
    checks = {
        f"schemas of Kubernetes {kubernetes_validate.latest_version()}, strict": schema(rendered),
        "restricted Pod Security, and what goes with it": restricted(rendered),
        "labels, selectors, ports": wiring(rendered),
        "ConfigMap keys": config_keys(rendered, manifest),
        "manifest and Deployment agree": agreement(rendered, manifest),
        "image tag is the crate's version": image_tags(rendered, (ROOT / "Cargo.toml").read_text()),
        "pelton lint of the example manifest": lint(),
        "deploy/Dockerfile, by its text alone (not built here)": dockerfile.problems(ROOT, "deploy/Dockerfile"),
    }
    failed = False
    for title, found in checks.items():
        found = list(found)
        failed = failed or bool(found)
        print(f"{'FAILED' if found else 'ok':7} {title}")
        for problem in found:
            print(f"        {problem}")
    return 1 if failed else 0


def render():
    text = subprocess.run(["kubectl", "kustomize", str(BASE)], check=True, capture_output=True, text=True).stdout
    return [item for item in yaml.safe_load_all(text) if item]


def schema(rendered):
    for item in rendered.objects:
        try:
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{item['kind']} {item['metadata']['name']}: {error}"


def restricted(rendered):
    pod = rendered.pod
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is set"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}:
            yield f"volume {volume['name']} is of a forbidden kind: {sorted(kinds)}"
    for account in (pod, *rendered.all("ServiceAccount")):
        if account.get("automountServiceAccountToken") is not False:
            yield "a service account token is mounted"
    accounts = {item["metadata"]["name"] for item in rendered.all("ServiceAccount")}
    if pod.get("serviceAccountName") not in accounts:
        yield f"no ServiceAccount named {pod.get('serviceAccountName')}"
    for container in rendered.containers:
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
    pod_labels = rendered.pod_labels.items()
    if not rendered.deployment["spec"]["selector"]["matchLabels"].items() <= pod_labels:
        yield "the Deployment's selector does not match its pods"
    for item in rendered.objects:
        missing = {"name", "instance", "component"} - {
            key.removeprefix("app.kubernetes.io/") for key in item["metadata"].get("labels", {})
        }
        if missing:
            yield f"{item['kind']} {item['metadata']['name']} lacks app.kubernetes.io/ {sorted(missing)}"

    ports = rendered.ports()
    known = {*ports, *ports.values()}
    for service in rendered.all("Service"):
        if not service["spec"]["selector"].items() <= pod_labels:
            yield f"Service {service['metadata']['name']} selects no pod of the Deployment"
        for port in service["spec"]["ports"]:
            if port.get("targetPort", port["port"]) not in known:
                yield f"Service {service['metadata']['name']}: no container port {port.get('targetPort')}"
    paths = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for probe, path in paths.items():
        action = rendered.pod["containers"][0].get(probe, {}).get("httpGet", {})
        if action.get("path") != path or action.get("port") not in known:
            yield f"{probe} is not GET {path} on a container port"
    annotations = rendered.deployment["spec"]["template"]["metadata"].get("annotations", {})
    if annotations.get("prometheus.io/port") not in {str(port) for port in ports.values()}:
        yield "prometheus.io/port is no container port"


def config_keys(rendered, manifest):
    """Every ConfigMap and key that the pod or the manifest points at is there."""
    maps = rendered.config_maps()
    folders = {}
    for volume in rendered.pod.get("volumes", []):
        if "configMap" not in volume:
            continue
        source = volume["configMap"]
        if source["name"] not in maps:
            yield f"volume {volume['name']}: no ConfigMap {source['name']}"
            continue
        keys = maps[source["name"]]
        items = source.get("items") or [{"key": key, "path": key} for key in keys]
        yield from (f"volume {volume['name']}: no key {item['key']}" for item in items if item["key"] not in keys)
        folders[volume["name"]] = {item["path"] for item in items}
    for container in rendered.containers:
        for entry in container.get("env", []):
            wanted = entry.get("valueFrom", {}).get("configMapKeyRef")
            if wanted and wanted["key"] not in maps.get(wanted["name"], {}):
                yield f"env {entry['name']}: no key {wanted['key']} in {wanted['name']}"

    files = {
        str(Path(mount["mountPath"]) / path)
        for mount in rendered.pod["containers"][0].get("volumeMounts", [])
        for path in folders.get(mount["name"], ())
    }
    started = rendered.pod["containers"][0].get("command", [])
    named = [argument for argument in started if argument.endswith(".yaml")]
    if not named:
        yield f"the command names no manifest: {started}"
    for path in named:
        wanted = [path] + [
            str(Path(path).parent / function["run"]) for function in manifest["functions"].values() if "run" in function
        ]
        yield from (f"{item} is in no mounted ConfigMap" for item in wanted if item not in files)


def agreement(rendered, manifest):
    address, _, port = manifest["admin"]["listen"].rpartition(":")
    if address in ("127.0.0.1", "localhost", "[::1]"):
        yield "admin.listen is on loopback: no probe reaches it"
    if int(port) not in rendered.ports().values():
        yield f"admin.listen has port {port}, the container has {rendered.ports()}"
    grace = rendered.pod.get("terminationGracePeriodSeconds", 30)
    drain = re.fullmatch(r"(\d+)s", manifest["drain"])
    if not drain or int(drain[1]) >= grace:
        yield f"terminationGracePeriodSeconds {grace} is not longer than drain {manifest['drain']}"


def image_tags(rendered, cargo_toml):
    version = re.search(r'^version = "(.+)"', cargo_toml, re.MULTILINE)[1]
    for container in rendered.containers:
        if container["image"] != f"pelton-full:{version}":
            yield f"{container['image']} is not pelton-full:{version}"


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
