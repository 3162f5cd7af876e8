#!/usr/bin/env python3
"""Builds the images of deploy/Dockerfile without a registry and runs the example shop in them.

Needs root, buildah and debootstrap. The two bases that the Dockerfile names are made here: Debian by
debootstrap, and Rust as this machine has it on top of that. Steps run with chroot isolation, which works
where no container may be started. Everything is kept in .tools/image, so that the next time is quicker.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".tools" / "image"
SUITE = "trixie"
DEBIAN = f"docker.io/library/debian:{SUITE}-slim"
UID = 65532
PATIENCE = 120
# What the slim images of Debian leave out, too.
SLIMMED = ("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*", "var/cache/apt/*.bin", "var/lib/apt/lists/*")


def main():
    if os.geteuid() != 0:
        return "buildah makes root file systems: run this as root"
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        return check()
    finally:
        # What stays mounted would keep `make clean` from removing it.
        buildah("rm", "--all")


def check():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    version = re.search(r"^ARG RUST=(\S+)", text, re.MULTILINE)[1]
    here = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    if not here.startswith(f"{version}."):
        return f"the Dockerfile builds with Rust {version}, this machine has {here}"
    rust = f"docker.io/library/rust:{version}-slim-{SUITE}"
    if not exists(DEBIAN):
        step(f"{DEBIAN}, by debootstrap", make_debian)
    if not exists(rust):
        step(f"{rust}, of this machine's Rust", lambda: make_rust(rust))
    for target in ("pelton", "pelton-full"):
        step(f"target {target}", lambda: build(target))
    for target in ("pelton", "pelton-full"):
        step(f"{target} runs", lambda: run(target))
        print(f"   {size(target)}")
    return 0


def step(title, work):
    print(f"== {title}", flush=True)
    began = time.monotonic()
    work()
    print(f"   {time.monotonic() - began:.0f} s", flush=True)


def buildah(*arguments, **options):
    store = ["--root", HOME / "storage", "--runroot", HOME / "run"]
    return subprocess.run(["buildah", *store, *arguments], check=True, stdout=subprocess.PIPE, text=True, **options).stdout.strip()


def exists(image):
    images = json.loads(buildah("images", "--json") or "[]") or []
    return any(image in (known.get("names") or []) for known in images)


def working(image):
    return buildah("from", "--pull-never", image)


def make_debian():
    tree = HOME / "debian"
    shutil.rmtree(tree, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", SUITE, tree, "http://deb.debian.org/debian"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["chroot", tree, "apt-get", "clean"], check=True)
    for pattern in SLIMMED:
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    box = buildah("from", "scratch")
    buildah("add", "--quiet", box, tree, "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", box)
    buildah("commit", "--quiet", "--rm", box, DEBIAN)
    shutil.rmtree(tree)


def make_rust(image):
    box = working(DEBIAN)
    wanted = "apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev ca-certificates"
    buildah("run", "--isolation", "chroot", "--env", "DEBIAN_FRONTEND=noninteractive", box, "--", "sh", "-c", wanted)
    root = Path(subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip())
    for part in ("bin", "lib"):
        buildah("add", "--quiet", box, root / part, f"/usr/local/{part}")
    # A proxy of this machine may sign what crates.io sends.
    buildah("add", "--quiet", box, "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt")
    buildah("config", "--env", "CARGO_HOME=/usr/local/cargo", box)
    buildah("commit", "--quiet", "--rm", box, image)


def build(target):
    options = ["--isolation", "chroot", "--layers", "--pull-never", "--ignorefile", ROOT / ".dockerignore"]
    command = ["build", *options, "--file", ROOT / "deploy" / "Dockerfile", "--target", target, "--tag", f"localhost/{target}", ROOT]
    with open(HOME / f"{target}.log", "w") as log:
        try:
            buildah(*command, stderr=log)
        except subprocess.CalledProcessError:
            sys.stderr.write((HOME / f"{target}.log").read_text()[-4000:])
            raise


def size(target):
    (image,) = json.loads(buildah("images", "--json", f"localhost/{target}"))
    return image["size"]


# What each image is to run, what is sent to it and what must come out of it.
SHOPS = {
    "pelton": """
version: 1
name: small
nats: { servers: ["${NATS_URL}"] }
streams:
  SMALL: { subjects: ["payments.>", "invoices.>"] }
functions:
  invoice: { run: invoice/invoice.wasm, env: { VAT_PERCENT: "19" } }
bindings:
  - { subject: payments.succeeded, function: invoice, publish: invoices.issued }
""",
    "pelton-full": (ROOT / "functions" / "pelton.yaml").read_text(),
}
SENT = {"pelton": "payments.succeeded", "pelton-full": "orders.placed"}
OUTPUTS = {"pelton": {"invoice": 1}, "pelton-full": {"payment": 1, "inventory": 1, "shipping": 1, "invoice": 1, "notify": 1}}
ORDER = {"orderId": "o-1", "customer": "Ada", "item": "wheel", "quantity": 1, "total": 890, "card": "good", "amount": 890}


def run(target):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        scratch.chmod(0o755)
        app = scratch / "app"
        shutil.copytree(ROOT / "functions", app)
        (app / "pelton.yaml").write_text(SHOPS[target])
        nats, admin = free_port(), free_port()
        (scratch / "nats.conf").write_text(f'listen: 127.0.0.1:{nats}\njetstream {{ store_dir: "{scratch}/store" }}\n')
        server = os.environ.get("PELTON_NATS_SERVER", str(ROOT / ".tools" / "nats-server"))
        box = working(f"localhost/{target}")
        try:
            with ended(subprocess.Popen([server, "--config", scratch / "nats.conf"], stderr=subprocess.DEVNULL)):
                go(target, box, app, nats, admin)
        finally:
            buildah("rm", box)


def go(target, box, app, nats, admin):
    tree = Path(buildah("mount", box))
    before = listing(tree)
    url = f"nats://127.0.0.1:{nats}"
    env = [f"NATS_URL={url}", f"PELTON_ADMIN_LISTEN=127.0.0.1:{admin}", "HOME=/tmp"]
    options = [word for pair in env for word in ("--env", pair)]
    options += ["--isolation", "chroot", "--user", f"{UID}:{UID}", "--volume", f"{app}:/app:ro", "--workingdir", "/app"]
    command = ["buildah", "--root", HOME / "storage", "--runroot", HOME / "run", "run", *options, box, "--"]
    log = app.parent / "runner.log"
    with open(log, "w") as said:
        runner = subprocess.Popen([*command, "pelton", "run", "/app/pelton.yaml"], stdout=said, stderr=said)
    with ended(runner, log):
        eventually(lambda: get(admin, "/readyz") is not None)
        subprocess.run([*command, "pelton", "send", "--server", url, SENT[target], json.dumps(ORDER)], check=True, stdout=subprocess.DEVNULL)
        for binding, count in OUTPUTS[target].items():
            wanted = f'pelton_published_events_total{{binding="{binding}",outcome="stored"}} '
            eventually(lambda: value(get(admin, "/metrics"), wanted) >= count)
        for process in processes(admin):
            status = (process / "status").read_text()
            for ids in re.findall(r"^[UG]id:\s+(.*)$", status, re.MULTILINE):
                assert set(ids.split()) == {str(UID)}, f"{process} runs as {ids}"
            assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), f"{process} has capabilities"
        os.kill(int(processes(admin)[0].name), signal.SIGTERM)
        assert runner.wait(PATIENCE) == 0, "the runner did not drain"
    written = {path for path in listing(tree) ^ before if path[0].split("/")[0] not in ("tmp", "app")}
    assert not written, f"written outside /tmp: {sorted(written)[:10]}"
    buildah("umount", box)


def processes(admin):
    """The runner, known by where it listens, and what it started."""
    mark, found = f"PELTON_ADMIN_LISTEN=127.0.0.1:{admin}".encode(), {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)[1]
            command = [*(process / "cmdline").read_bytes().split(b"\0"), b""]
            marked = mark in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found[process.name] = (parent, marked and command[0].endswith(b"/pelton") and command[1] == b"run")
    (runner,) = [pid for pid, (_, is_runner) in found.items() if is_runner]
    family = [runner]
    for pid in family:
        family += [child for child, (parent, _) in found.items() if parent == pid]
    return [Path("/proc") / pid for pid in family]


def listing(tree):
    """Files and folders with their times, but for what the run mounts."""
    mounted = {"proc", "dev", "sys", "run", "etc/hosts", "etc/resolv.conf", "etc/hostname"}
    found = set()
    for folder, _, files in os.walk(tree):
        for name in [*files, "."]:
            path = Path(folder) / name
            short = str(path.relative_to(tree))
            if not any(short == skip or short.startswith(f"{skip}/") for skip in mounted | {".", "etc"}):
                found.add((short, path.lstat().st_mtime_ns))
    return found


def value(text, series):
    return sum(float(line.removeprefix(series)) for line in (text or "").splitlines() if line.startswith(series))


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def eventually(look):
    until = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class ended:
    """A process that does not outlive its block; when that fails, its log is shown."""

    def __init__(self, process, log=None):
        self.process, self.log = process, log

    def __enter__(self):
        return self.process

    def __exit__(self, failed, *_):
        if failed and self.log:
            sys.stderr.write(self.log.read_text()[-4000:])
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)


if __name__ == "__main__":
    sys.exit(main())
