"""Breaks the deployment one way at a time: each check of deploy_check must notice its own."""

import copy
import tempfile
import unittest
from pathlib import Path

import yaml

from running import ROOT, deploy_check

import dockerfile
from deploy_check import Rendered

OBJECTS = deploy_check.render("overlays/keda")
MANIFEST = yaml.safe_load(deploy_check.MANIFEST.read_text())


def parts(objects):
    """The runner's pod, its container, and every object by kind, the runner's own of each kind."""
    by_kind = {item["kind"]: item for item in reversed(objects) if item["metadata"]["name"].startswith("pelton")}
    by_kind |= {"StatefulSet": next(item for item in objects if item["kind"] == "StatefulSet")}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    by_kind |= {"nats.conf": next(item for item in objects if "nats.conf" in item.get("data", {}))}
    return pod, pod["containers"][0], by_kind


class Notices(unittest.TestCase):
    """On the overlay that holds most: production, and what KEDA needs."""

    def notices(self, check, breakage, *more):
        self.assertEqual(list(check(Rendered(OBJECTS), *more)), [], "the deployment as it is")
        objects = copy.deepcopy(OBJECTS)
        breakage(*parts(objects))
        self.assertNotEqual(list(check(Rendered(objects), *more)), [])

    def test_an_unknown_field(self):
        self.notices(deploy_check.schema, lambda pod, box, kinds: pod.update(restartPolcy="Always"))

    def test_a_wrong_type(self):
        self.notices(deploy_check.schema, lambda pod, box, kinds: kinds["Deployment"]["spec"].update(replicas="two"))

    def test_what_restricted_forbids(self):
        breakages = {
            "host network": lambda pod, box, kinds: pod.update(hostNetwork=True),
            "host path": lambda pod, box, kinds: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
            "root": lambda pod, box, kinds: box["securityContext"].update(runAsUser=0),
            "non-root unchecked": lambda pod, box, kinds: pod["securityContext"].pop("runAsNonRoot"),
            "seccomp": lambda pod, box, kinds: pod["securityContext"].pop("seccompProfile"),
            "escalation": lambda pod, box, kinds: box["securityContext"].pop("allowPrivilegeEscalation"),
            "writable root": lambda pod, box, kinds: box["securityContext"].pop("readOnlyRootFilesystem"),
            "capabilities": lambda pod, box, kinds: box["securityContext"].pop("capabilities"),
            "no limits": lambda pod, box, kinds: box["resources"].pop("limits"),
            "token in the pod": lambda pod, box, kinds: pod.pop("automountServiceAccountToken"),
            "token in the account": lambda pod, box, kinds: kinds["ServiceAccount"].pop("automountServiceAccountToken"),
            "unknown account": lambda pod, box, kinds: pod.update(serviceAccountName="other"),
            "init container": lambda pod, box, kinds: pod["initContainers"][0].pop("securityContext"),
            "server as root": lambda pod, box, kinds: server(kinds)["securityContext"].update(runAsUser=0),
            "server with a token": lambda pod, box, kinds: server(kinds).pop("automountServiceAccountToken"),
        }
        for name, breakage in breakages.items():
            with self.subTest(name):
                self.notices(deploy_check.restricted, breakage)

    def test_loose_wires(self):
        breakages = {
            "selector": lambda pod, box, kinds: kinds["Service"]["spec"]["selector"].update(x="y"),
            "disruptions": lambda pod, box, kinds: kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].update(x="y"),
            "policy": lambda pod, box, kinds: kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].update(x="y"),
            "port of a policy": lambda pod, box, kinds: kinds["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0].update(port="x"),
            "spread": lambda pod, box, kinds: pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(x="y"),
            "target port": lambda pod, box, kinds: kinds["Service"]["spec"]["ports"][0].update(targetPort="http"),
            "probe port": lambda pod, box, kinds: box["livenessProbe"]["httpGet"].update(port=1),
            "probe path": lambda pod, box, kinds: box["livenessProbe"]["httpGet"].update(path="/readyz"),
            "no probe": lambda pod, box, kinds: box.pop("readinessProbe"),
            "labels": lambda pod, box, kinds: kinds["ConfigMap"]["metadata"].pop("labels"),
            "scrape port": lambda pod, box, kinds: box["ports"][0].update(containerPort=1),
        }
        for name, breakage in breakages.items():
            with self.subTest(name):
                self.notices(deploy_check.wiring, breakage)

    def test_missing_keys(self):
        breakages = {
            "function": lambda pod, box, kinds: kinds["ConfigMap"]["data"].pop("receipt.mjs"),
            "manifest": lambda pod, box, kinds: kinds["ConfigMap"]["data"].pop("pelton.yaml"),
            "map": lambda pod, box, kinds: kinds["ConfigMap"]["metadata"].update(name="other"),
            "mount": lambda pod, box, kinds: box.pop("volumeMounts"),
            "a mount of the init container": lambda pod, box, kinds: pod["initContainers"][0]["volumeMounts"].pop(0),
            "file of a Secret": lambda pod, box, kinds: box["env"].append({"name": "X", "value": "/run/secrets/x/y"}),
            "configuration of the server": lambda pod, box, kinds: server(kinds)["containers"][0].pop("volumeMounts"),
            "command": lambda pod, box, kinds: box.pop("command"),
        }
        for name, breakage in breakages.items():
            with self.subTest(name):
                self.notices(deploy_check.config_keys, breakage, MANIFEST)

    def test_a_pod_killed_while_it_drains(self):
        shorten = lambda pod, box, kinds: pod.update(terminationGracePeriodSeconds=25)
        self.notices(deploy_check.agreement, shorten, MANIFEST)

    def test_a_port_nobody_listens_on(self):
        self.notices(deploy_check.agreement, lambda pod, box, kinds: box["ports"][0].update(containerPort=1), MANIFEST)

    def test_a_variable_that_nobody_reads(self):
        unread = lambda pod, box, kinds: box["env"].append({"name": "NATS_KREDS", "value": "x"})
        self.notices(deploy_check.agreement, unread, MANIFEST)

    def test_an_image_of_another_version(self):
        breakages = {
            "runner": lambda pod, box, kinds: box.update(image="pelton-full:0.0.1"),
            "init container": lambda pod, box, kinds: pod["initContainers"][0].update(image="pelton-full"),
            "server": lambda pod, box, kinds: server(kinds)["containers"][0].update(image="nats:latest"),
        }
        _, box, kinds = parts(OBJECTS)
        version = box["image"].split(":")[1]
        server_version = server(kinds)["containers"][0]["image"].split(":")[1].removesuffix("-alpine")
        for name, breakage in breakages.items():
            with self.subTest(name):
                self.notices(deploy_check.image_tags, breakage, version, server_version)

    def test_custom_resources(self):
        breakages = {
            "unknown field": lambda pod, box, kinds: kinds["ScaledObject"]["spec"].update(minReplicas=1),
            "wrong type": lambda pod, box, kinds: kinds["ScaledObject"]["spec"].update(pollingInterval="15"),
            "field that must be there": lambda pod, box, kinds: kinds["ScaledObject"]["spec"].pop("triggers"),
            "unknown version": lambda pod, box, kinds: kinds["ScaledObject"].update(apiVersion="keda.sh/v9"),
        }
        for name, breakage in breakages.items():
            with self.subTest(name):
                self.notices(deploy_check.schema, breakage)

    def test_a_configuration_that_the_server_does_not_take(self):
        def misspell(pod, box, kinds):
            data = kinds["nats.conf"]["data"]
            data["nats.conf"] = data["nats.conf"].replace("sync_interval", "sync_intervall")

        self.notices(deploy_check.server_configuration, misspell)


def server(kinds):
    return kinds["StatefulSet"]["spec"]["template"]["spec"]


class Dockerfile(unittest.TestCase):
    def test_breakages(self):
        text = (ROOT / "deploy" / "Dockerfile").read_text()
        breakages = {
            "copied file is gone": ("COPY LICENSE", "COPY LICENCE"),
            "copied file is ignored": ("COPY LICENSE", "COPY deny.toml"),
            "copied stage is gone": ("COPY --from=build /out", "COPY --from=built /out"),
            "target renamed": ("AS pelton-full", "AS full"),
            "root": ("USER 65532:65532", "USER 0:0"),
            "shell entry point": ('ENTRYPOINT ["pelton"]', "ENTRYPOINT pelton"),
            "health check": ("EXPOSE", "HEALTHCHECK NONE\nEXPOSE"),
            "no roots": ("ca-certificates.crt", "roots.crt"),
        }
        self.assertEqual(self.problems(text), [])
        for name, (old, new) in breakages.items():
            with self.subTest(name):
                broken = text.replace(old, new)
                self.assertNotEqual(broken, text)
                self.assertNotEqual(self.problems(broken), [])

    def problems(self, text):
        with tempfile.TemporaryDirectory(dir=ROOT / ".tools") as folder:
            path = Path(folder) / "Dockerfile"
            path.write_text(text)
            return list(dockerfile.problems(ROOT, path.relative_to(ROOT)))


if __name__ == "__main__":
    unittest.main()
