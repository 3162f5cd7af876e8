"""A nats-server, a runner with the example of deploy/base and a Prometheus, all real, on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import deploy_check  # noqa: E402

PELTON = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "pelton"
NATS_SERVER = os.environ.get("PELTON_NATS_SERVER", str(ROOT / ".tools" / "nats-server"))
PATIENCE = 90  # seconds until what is waited for fails its test


def eventually(what, look):
    """What `look` returns once that is not None; it may also fail to connect meanwhile."""
    until, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < until:
        try:
            if (found := look()) is not None:
                return found
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {PATIENCE} s (last error: {last})")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def get(port, path):
    """Status and JSON (or text) of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            status, body = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read().decode()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body


class Process:
    """A program with its log, ended with its test."""

    def __init__(self, test, name, *command, **env):
        self.log = test.folder / f"{name}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=test.folder, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        test.addClassCleanup(self.end)

    def end(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def must_run(self):
        if (status := self.process.poll()) is not None:
            raise AssertionError(f"ended with {status}:\n{self.log.read_text()}")


def start_shop(test):
    """The server and a runner of what the rendered ConfigMap holds; fills in `test`."""
    scratch = tempfile.TemporaryDirectory()
    test.addClassCleanup(scratch.cleanup)
    test.folder = Path(scratch.name)
    test.app = test.folder / "app"
    unpack(test.app)
    test.nats, test.admin = free_port(), free_port()
    config = test.folder / "nats.conf"
    config.write_text(f'listen: 127.0.0.1:{test.nats}\njetstream {{ store_dir: "{test.folder}/store" }}\n')
    Process(test, "nats-server", NATS_SERVER, "--config", config)
    eventually("nats-server listens", lambda: socket.create_connection(("127.0.0.1", test.nats)).close() or True)
    test.url = f"nats://127.0.0.1:{test.nats}"
    test.runner = Process(
        test, "runner", PELTON, "run", test.app / "pelton.yaml", NATS_URL=test.url, PELTON_ADMIN_LISTEN=f"127.0.0.1:{test.admin}"
    )

    def ready():
        test.runner.must_run()
        return get(test.admin, "/readyz")[0] == 200 or None

    try:
        eventually("the runner is ready", ready)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{test.runner.log.read_text()}") from None


def unpack(folder):
    """Writes the files of the rendered ConfigMap as a pod would see them."""
    folder.mkdir()
    maps = deploy_check.Rendered(deploy_check.render("base")).config_maps()
    (files,) = maps.values()
    for name, text in files.items():
        (folder / name).write_text(text)


def send(test, subject, *events):
    for event in events:
        subprocess.run([PELTON, "send", "--server", test.url, subject, json.dumps(event)], check=True, capture_output=True)


class Subscription:
    """What is published on a subject, in NATS' own words; no client is needed for that."""

    def __init__(self, test, subject, tls=None, **who):
        self.socket = socket.create_connection(("127.0.0.1", test.nats), timeout=PATIENCE)
        while not self.socket.recv(4096).endswith(b"\r\n"):
            pass
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="nats")
        self.file = self.socket.makefile("rb")
        hello = json.dumps({"verbose": False, "headers": True, **who})
        self.socket.sendall(f"CONNECT {hello}\r\nSUB {subject} 1\r\nPING\r\n".encode())
        while (line := self.file.readline()) != b"PONG\r\n":
            assert line, "the server hung up"

    def publish(self, subject, data):
        self.socket.sendall(f"PUB {subject} {len(data)}\r\n{data}\r\n".encode())

    def next(self):
        while line := self.file.readline():
            word, *rest = line.decode().split()
            if word == "PING":
                self.socket.sendall(b"PONG\r\n")
            elif word in ("MSG", "HMSG"):
                head = int(rest[-2]) if word == "HMSG" else 0
                payload = self.file.read(int(rest[-1]) + 2)
                return payload[head:-2]
        raise AssertionError("the server hung up")

    def close(self):
        self.file.close()
        self.socket.close()


def start_prometheus(test):
    """A Prometheus that scrapes the runner every second and evaluates the rules."""
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yaml").read_text())["spec"]
    (test.folder / "rules.yml").write_text(yaml.safe_dump(rules))
    # The labels that the PodMonitor gives.
    target = {"targets": [f"127.0.0.1:{test.admin}"], "labels": {"namespace": "shop", "pod": "pelton-0"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "pelton", "static_configs": [target]}],
    }
    (test.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    test.prometheus = free_port()
    process = Process(
        test,
        "prometheus",
        "prometheus",
        f"--config.file={test.folder}/prometheus.yml",
        f"--storage.tsdb.path={test.folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{test.prometheus}",
    )

    def scraped():
        process.must_run()
        # It listens before it can be asked.
        if get(test.prometheus, "/-/ready")[0] != 200:
            return None
        return query(test, 'up{job="pelton"} == 1') or None

    eventually("Prometheus has scraped the runner", scraped)


def query(test, expression):
    """The samples of an instant query that are numbers."""
    status, answer = get(test.prometheus, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    assert status == 200, (expression, answer)
    return [found for found in answer["data"]["result"] if found["value"][1] != "NaN"]
