#!/usr/bin/env python3
"""Builds the images of deploy/Dockerfile without a registry and runs the example shop in them.

Needs root, buildah and debootstrap. The two bases that the Dockerfile names are made here: Debian by
debootstrap, and Rust as this machine has it on top of that. Steps run with chroot isolation, which works
where no container may be started. The images run as what they say, from a root that cannot be written to.
Everything is kept in .tools/image, so that the next time is quicker: dependencies are not built again.
"""

import json
import os
import re
import shutil
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


# Arguments: root, app, user, group, the folder to start in, command. Each of them replaces the one before it,
# so that its process id is that of the command. What a container runtime mounts is mounted.
IN_ROOT = """
path=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1 app=$2 user=$3 group=$4 folder=$5
shift 5
mount --bind "$root" "$root"
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/app"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount --bind "$app" "$root/app"
mount -o remount,bind,ro "$root/app"
mount -o remount,bind,ro "$root"
exec env PATH="$path" "$(command -v unshare)" --root "$root" --wd "$folder" --setgid "$group" --setuid "$user" -- "$@"
"""


def go(target, box, app, nats, admin):
    tree = buildah("mount", box)
    config = json.loads(buildah("inspect", "--type", "image", f"localhost/{target}"))["OCIv1"]["config"]
    assert config["User"] == f"{UID}:{UID}", f"the image runs as {config['User']}"
    url = f"nats://127.0.0.1:{nats}"
    env = dict(pair.split("=", 1) for pair in config["Env"])
    env |= {"NATS_URL": url, "PELTON_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
    command = [shutil.which("unshare"), "--mount", "/bin/sh", "-euc", IN_ROOT, "sh", tree, app, *config["User"].split(":"), config["WorkingDir"]]
    command += config["Entrypoint"]
    log = app.parent / "runner.log"
    with open(log, "w") as said:
        output = {"stdout": said, "stderr": said}
        runner = subprocess.Popen([*command, *config["Cmd"]], env=env, **output)
        with ended(runner, log):
            eventually(lambda: get(admin, "/readyz") is not None)
            sent = [*command, "send", SENT[target], json.dumps(ORDER)]
            subprocess.run(sent, check=True, env=env, **output)
            for binding, count in OUTPUTS[target].items():
                wanted = f'pelton_published_events_total{{binding="{binding}",outcome="stored"}} '
                eventually(lambda: value(get(admin, "/metrics"), wanted) >= count)
            for process in family(runner.pid):
                confined(process)
            runner.terminate()
            assert runner.wait(PATIENCE) == 0, "the runner did not drain"
    buildah("umount", box)


def family(runner):
    """A process and what it started, as folders in /proc."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)[1]
        except OSError:
            continue
        parents[process.name] = parent
    found = [str(runner)]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [Path("/proc") / pid for pid in found]


def confined(process):
    """Not root, without capabilities, and with nowhere to write but to /tmp."""
    status = (process / "status").read_text()
    for ids in re.findall(r"^[UG]id:\s+(.*)$", status, re.MULTILINE):
        assert set(ids.split()) == {str(UID)}, f"{process} runs as {ids}"
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), f"{process} has capabilities"
    assert re.search(r"^Groups:\s*$", status, re.MULTILINE), f"{process} is in more groups"
    mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    writable = {fields[4] for fields in mounts if "rw" in fields[5].split(",")}
    writable = {path for path in writable if not path.startswith("/dev/")}
    assert writable == {"/proc", "/tmp"}, f"{process} may write to {sorted(writable)}"


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
