"""Breaks the deployment one way at a time: each check of deploy_check must notice its own."""

import copy
import tempfile
import unittest
from pathlib import Path

import yaml

import deploy_check
import dockerfile
from deploy_check import ROOT, Rendered

OBJECTS = deploy_check.render()
MANIFEST = yaml.safe_load(deploy_check.MANIFEST.read_text())


def parts(objects):
    """The pod, its container, and every object by kind."""
    by_kind = {item["kind"]: item for item in objects}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    return pod, pod["containers"][0], by_kind


class Notices(unittest.TestCase):
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
            "init container": lambda pod, box, kinds: pod.update(initContainers=[{"name": "x", "image": "x"}]),
        }
        for name, breakage in breakages.items():
            with self.subTest(name):
                self.notices(deploy_check.restricted, breakage)

    def test_loose_wires(self):
        breakages = {
            "selector": lambda pod, box, kinds: kinds["Service"]["spec"]["selector"].update(x="y"),
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
        reference = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "pelton-app", "key": "absent"}}}
        breakages = {
            "function": lambda pod, box, kinds: kinds["ConfigMap"]["data"].pop("receipt.mjs"),
            "manifest": lambda pod, box, kinds: kinds["ConfigMap"]["data"].pop("pelton.yaml"),
            "map": lambda pod, box, kinds: kinds["ConfigMap"]["metadata"].update(name="other"),
            "item": lambda pod, box, kinds: pod["volumes"][0]["configMap"].update(items=[{"key": "x", "path": "x"}]),
            "mount": lambda pod, box, kinds: box.pop("volumeMounts"),
            "env": lambda pod, box, kinds: box["env"].append(reference),
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

    def test_an_image_of_another_version(self):
        cargo_toml = (ROOT / "Cargo.toml").read_text()
        self.notices(deploy_check.image_tags, lambda pod, box, kinds: box.update(image="pelton-full:0.0.1"), cargo_toml)


class Dockerfile(unittest.TestCase):
    def test_breakages(self):
        text = (ROOT / "deploy" / "Dockerfile").read_text()
        breakages = {
            "copied file is gone": ("COPY LICENSE", "COPY LICENCE"),
            "copied file is ignored": ("COPY LICENSE", "COPY deny.toml"),
            "copied stage is gone": ("COPY --from=build /out", "COPY --from=built /out"),
            "target renamed": ("AS pelton-full", "AS full"),
            "root at the end": ("lists/*\nUSER 65532:65532", "lists/*"),
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
