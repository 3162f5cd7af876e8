"""What the text of a Dockerfile shows without building it: stages, copied sources, users."""

import json
import posixpath
import re
from fnmatch import fnmatch

TARGETS = ("pelton", "pelton-full")


def problems(root, path):
    """Yields what is wrong with the Dockerfile at `path` below `root`, the build's context."""
    stages = parse((root / path).read_text())
    ignored = ignore_patterns(root / ".dockerignore")
    for index, stage in enumerate(stages):
        earlier = {known["name"] for known in stages[:index]}
        yield from copies(stage, earlier, root, ignored)
        if any(word == "HEALTHCHECK" for word, _ in stage["instructions"]):
            yield f"stage {stage['name']}: HEALTHCHECK; the probes are the Deployment's"
    names = {stage["name"]: stage for stage in stages}
    for target in TARGETS:
        if target not in names:
            yield f"no stage named {target}"
        else:
            yield from image(target, inherited(target, names))


def parse(text):
    """The stages in order, each with its name, its base and its instructions as (word, rest)."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages = []
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append({"name": name or str(len(stages)), "base": base, "instructions": []})
        elif word and stages:
            stages[-1]["instructions"].append((word, rest.strip()))
    return stages


def copies(stage, earlier, root, ignored):
    for word, rest in stage["instructions"]:
        if word not in ("COPY", "ADD"):
            continue
        flags = dict(part[2:].partition("=")[::2] for part in rest.split() if part.startswith("--"))
        sources = [part for part in rest.split() if not part.startswith("--")][:-1]
        if "from" in flags:
            if flags["from"] not in earlier:
                yield f"stage {stage['name']}: COPY from {flags['from']}, which is no earlier stage"
            continue
        for source in sources:
            if source != "." and not list(root.glob(source)):
                yield f"stage {stage['name']}: COPY {source}, which does not exist"
            if any(fnmatch(posixpath.normpath(source), pattern) for pattern in ignored):
                yield f"stage {stage['name']}: COPY {source}, which .dockerignore leaves out"


def ignore_patterns(path):
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def inherited(name, stages):
    """The instructions of a stage, those of the stages it builds on first."""
    stage = stages[name]
    before = inherited(stage["base"], stages) if stage["base"] in stages else []
    return before + stage["instructions"]


def image(target, instructions):
    last = dict(instructions)
    uid = last.get("USER", "0").partition(":")[0]
    if uid != "65532":
        yield f"{target} runs as {uid}, not as 65532"
    try:
        entrypoint = json.loads(last.get("ENTRYPOINT", "null"))
    except ValueError:
        entrypoint = None
    if entrypoint != ["pelton"]:
        yield f'{target}: ENTRYPOINT is not ["pelton"], the form that signals reach'
    if not any(word == "COPY" and rest.endswith(" /usr/local/bin/pelton") for word, rest in instructions):
        yield f"{target}: no binary at /usr/local/bin/pelton"
    if not any(word == "COPY" and "ca-certificates.crt" in rest for word, rest in instructions):
        yield f"{target}: no CA roots"
    if not any(word == "LABEL" for word, _ in instructions):
        yield f"{target}: no labels"
