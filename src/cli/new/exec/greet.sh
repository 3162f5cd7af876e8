#!/bin/sh
# The payload comes on stdin, what goes to stdout is published, and the exit code is the verdict:
# 0 done, 65 a dead letter, anything else is tried again.
set -eu
name=$(sed -n 's/.*"name": *"\([^"\\]*\)".*/\1/p')
[ -n "$name" ] || { echo "nobody to greet" >&2; exit 65; }
echo "greeting $name, attempt $PELTON_EVENT_ATTEMPT" >&2
printf '{"greeting": "Hello, %s!"}' "$name"
