"""The production overlay as it runs: three servers with its nats.conf, its init container, its runner."""

import json
import os
import ssl
import subprocess
import tempfile
import unittest
from pathlib import Path

import running
from running import Process, Subscription, deploy_check, eventually, free_port, get

AUTH = 'authorization { user: shop, password: "s3cret" }\n'  # in place of an operator's accounts
NAMES = ("nats-0", "nats-1", "nats-2")


def certificates(folder):
    """A CA, and one certificate for the servers and for the runner."""

    def openssl(*arguments):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        subprocess.run(["openssl", "req", "-x509", *key, *arguments], cwd=folder, check=True, capture_output=True)

    openssl("-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    extensions = ["subjectAltName=DNS:nats,DNS:localhost,IP:127.0.0.1", "basicConstraints=critical,CA:false", "extendedKeyUsage=serverAuth,clientAuth"]
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-subj", "/CN=nats", "-keyout", "tls.key", "-out", "tls.crt"]
    openssl(*signed, *(word for extension in extensions for word in ("-addext", extension)))


class Production(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        cls.rendered = deploy_check.Rendered(deploy_check.render("overlays/production"))
        certificates(cls.folder)
        (cls.folder / "auth").mkdir()
        (cls.folder / "auth" / "auth.conf").write_text(AUTH)
        cls.app = cls.folder / "app"
        running.unpack(cls.app)
        cls.ports = {name: {port: free_port() for port in ("4222", "6222", "8222")} for name in NAMES}
        for name in NAMES:
            cls.start_server(name)
        cls.nats = cls.ports["nats-0"]["4222"]

    @classmethod
    def start_server(cls, name):
        (text,) = [keys["nats.conf"] for keys in cls.rendered.config_maps().values() if "nats.conf" in keys]
        for other in NAMES:
            text = text.replace(f"{other}.nats-peers:6222", f"127.0.0.1:{cls.ports[other]['6222']}")
        for port, here in cls.ports[name].items():
            text = text.replace(f"0.0.0.0:{port}", f"127.0.0.1:{here}")
        text = text.replace("/etc/nats-tls/", f"{cls.folder}/").replace("store_dir: /data", f'store_dir: "{cls.folder}/{name}"')
        path = cls.folder / f"{name}.conf"
        path.write_text(text)
        Process(cls, name, running.NATS_SERVER, "--config", path, POD_NAME=name)

    def container(self, kind, position):
        """Command and environment of a container, with files where this test has them."""
        container = self.rendered.runner.pod[kind][position]
        env = {entry["name"]: entry["value"].replace("/run/secrets/nats-tls", str(self.folder)) for entry in container["env"]}
        env |= {"NATS_URL": f"tls://shop:s3cret@localhost:{self.nats}", "NATS_CREDS": ""}
        program, *arguments = [word.replace("/app/", f"{self.app}/") for word in container["command"]]
        self.assertEqual(program, "pelton")
        return [running.PELTON, *arguments], env

    def test_it_runs(self):
        admin = free_port()
        apply, env = self.container("initContainers", 0)
        run, run_env = self.container("containers", 0)
        self.assertIn("--no-provision", run)
        said = []

        def applied():
            done = subprocess.run(apply, env={**os.environ, **env}, capture_output=True, text=True)
            said.append(done.stdout + done.stderr)
            return done.returncode == 0 or None

        # Again and again, as the kubelet does, until the servers have found each other.
        try:
            eventually("apply succeeds", applied)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{said[-1]}\n{(self.folder / 'nats-0.log').read_text()[-2000:]}") from None
        runner = Process(self, "runner", *run, **run_env, PELTON_ADMIN_LISTEN=f"127.0.0.1:{admin}")

        def ready():
            runner.must_run()
            return get(admin, "/readyz")[0] == 200 or None

        eventually("the runner is ready", ready)
        tls = ssl.create_default_context(cafile=self.folder / "ca.crt")
        tls.load_cert_chain(self.folder / "tls.crt", self.folder / "tls.key")
        receipts = Subscription(self, "receipts.issued", tls, user="shop", **{"pass": "s3cret"})
        self.addCleanup(receipts.close)
        receipts.publish("orders.placed", json.dumps({"orderId": "1", "total": 5}))
        self.assertEqual(json.loads(receipts.next())["receipt"], "R-1")
        self.assertEqual(runner.end(), 0)

        _, state = get(self.ports["nats-0"]["8222"], "/jsz?streams=true&config=true")
        self.assertIs(state["config"]["sync_always"], True)
        replicas = {
            stream["config"]["name"]: stream["config"]["num_replicas"]
            for account in state["account_details"]
            for stream in account.get("stream_detail", [])
        }
        self.assertLessEqual({"ORDERS", "SHOP", "SHOP_DLQ", "KV_SHOP_ATTEMPTS"}, set(replicas))
        self.assertEqual(set(replicas.values()), {3}, replicas)


if __name__ == "__main__":
    unittest.main()
