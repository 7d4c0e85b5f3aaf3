#!/bin/sh
# Builds the Dockerfile and starts what it built, on a machine without a container engine.
#
# Needs root on Debian or Ubuntu, `apt-get install buildah debootstrap`, 3 GB of disk, and a way to a
# Debian mirror and to PyPI. From the top of the project, as root:
#
#     sh deploy/build_without_engine.sh
#
#   1. The base image python:3.13-slim is made from Debian 13, which is what it is made from, with
#      Debian's own Python 3.13. This machine's certificates go into it, for networks that need
#      them to reach PyPI.
#   2. buildah builds the Dockerfile over it, with chroot in place of a container.
#   3. The image's own command is started on its embedded default, as its own user, and the image's
#      own health check must succeed and /health answer.
#   4. The same once more as compose.yml runs it: read-only file system but for /tmp, no
#      capabilities, no new privileges.
#
# Everything is kept below WORK and removed at the end; with KEEP=1 it stays, and the next run takes
# the base image from there. While it is tried out, the service listens on PORT, on every address.
set -eu

WORK=${WORK:-/var/tmp/order-service-build}
PORT=${PORT:-18000}
KEEP=${KEEP:-0}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
BASE=docker.io/library/python:3.13-slim
IMAGE=localhost/order-service:local

project=$(cd "$(dirname "$0")/.." && pwd)
started=

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "$0" "$*" >&2; exit 1; }

# Storage and state of its own: nothing that other tools keep on this machine is touched.
b() { buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver vfs "$@"; }

clean_up() {
    status=$?
    trap - EXIT
    stop || true
    b rm --all >/dev/null 2>&1 || true
    [ "$KEEP" = 1 ] || rm -rf --one-file-system "$WORK"
    exit "$status"
}

# End the service as an engine does: SIGTERM, half a minute to drain, SIGKILL. True if it drained.
# No -- before the group: dash's kill does not know it.
stop() {
    [ -n "$started" ] || return 0
    group=$started
    started=
    # setsid made it the leader of a group in which nobody else is.
    kill -TERM "-$group" 2>/dev/null || true
    for _ in $(seq 30); do
        kill -0 "-$group" 2>/dev/null || return 0
        sleep 1
    done
    kill -KILL "-$group" 2>/dev/null || true
    return 1
}

# Ask the image's own health check from inside, up to a minute long, then show /health.
check() {
    tries=0
    # shellcheck disable=SC2086 # the environment is words
    until chroot "$root" /usr/bin/env -i $environment "$@" 2>/dev/null; do
        tries=$((tries + 1))
        kill -0 "$started" 2>/dev/null || { cat "$WORK/log"; die "the service ended by itself"; }
        [ "$tries" -lt 60 ] || { cat "$WORK/log"; die "not healthy after a minute"; }
        sleep 1
    done
    chroot "$root" /app/.venv/bin/python -c "
from urllib.request import ProxyHandler, build_opener
with build_opener(ProxyHandler({})).open('http://127.0.0.1:$PORT/health', timeout=5) as answer:
    print(answer.status, answer.read().decode())"
}

make_base() {
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        trixie "$WORK/base" "$MIRROR" >"$WORK/debootstrap.log" 2>&1 ||
        die "debootstrap failed, see $WORK/debootstrap.log (kept with KEEP=1)"
    # The names that the official image has, and its leave to install with pip.
    ln -s python3 "$WORK/base/usr/bin/python"
    rm -f "$WORK"/base/usr/lib/python3*/EXTERNALLY-MANAGED
    rm -rf "$WORK"/base/var/cache/apt/archives/*.deb "$WORK"/base/var/lib/apt/lists/*
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        cat /etc/ssl/certs/ca-certificates.crt >"$WORK/base/etc/ssl/certs/ca-certificates.crt"
    fi

    container=$(b from scratch)
    b add --quiet "$container" "$WORK/base" / >/dev/null
    b config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        --env LANG=C.UTF-8 --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
        --cmd python3 "$container"
    # An index of your own, where this machine is told to use one.
    for name in PIP_INDEX_URL UV_DEFAULT_INDEX; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || b config --env "$name=$value" "$container"
    done
    b commit --quiet --rm "$container" "$BASE" >/dev/null
    rm -rf "$WORK/base"
}

[ "$(id -u)" -eq 0 ] || die "chroot needs root"
for tool in buildah debootstrap nsenter python3 setsid unshare; do
    command -v "$tool" >/dev/null || die "$tool is missing: apt-get install buildah debootstrap util-linux"
done

# Who listens there would pass our checks in the service's place.
python3 -c "import socket; socket.create_server(('0.0.0.0', $PORT))" 2>/dev/null ||
    die "port $PORT is taken: give another one in PORT"

if [ -n "$(ls -A "$WORK" 2>/dev/null)" ] && [ ! -d "$WORK/storage" ]; then
    die "$WORK holds something else, and would be removed: give another folder in WORK"
fi
mkdir -p "$WORK"
trap clean_up EXIT
trap 'exit 130' INT TERM

if b inspect --type image "$BASE" >/dev/null 2>&1; then
    say "base image: kept from before"
else
    say "base image: $BASE from Debian 13"
    make_base
fi

say "build: $IMAGE"
# docker is the format that knows HEALTHCHECK; without layers nothing in between is stored.
b bud --isolation=chroot --network=host --format=docker --pull-never \
    --file "$project/Dockerfile" --tag "$IMAGE" "$project"

container=$(b from --pull-never "$IMAGE")
root=$(b mount "$container")
# Environment, command and health check as the image has them, on our port.
environment=$(b inspect --type image --format '{{range .Docker.Config.Env}}{{.}} {{end}}' "$IMAGE")
command=$(b inspect --type image --format '{{range .Docker.Config.Cmd}}{{.}} {{end}}' "$IMAGE" |
    sed "s/8000/$PORT/")
probe=$(b inspect --type image --format '{{index .Docker.Config.Healthcheck.Test 3}}' "$IMAGE" |
    sed "s/8000/$PORT/")

say "start: $command"
# shellcheck disable=SC2086 # the command is words
setsid buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver vfs \
    run --isolation=chroot "$container" -- $command >"$WORK/log" 2>&1 &
started=$!
check python -c "$probe"
stop || die "SIGTERM did not end it in 30 seconds"

say "start: the same, read-only and without capabilities"
cat >"$WORK/confine.sh" <<'CONFINE'
# In a mount namespace of its own: $1 is the image's root, $2 its environment, the rest the command.
set -eu
root=$1
environment=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
cd "$root"
exec chroot "$root" /usr/bin/env -i HOME=/tmp $environment \
    setpriv --reuid=10001 --regid=10001 --clear-groups --inh-caps=-all --bounding-set=-all \
    --no-new-privs "$@"
CONFINE
# shellcheck disable=SC2086 # the command is words
setsid unshare --mount sh "$WORK/confine.sh" "$root" "$environment" $command >"$WORK/log" 2>&1 &
started=$!
check python -c "$probe"
grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' "/proc/$started/status"
if nsenter --mount --target "$started" chroot "$root" touch /app/written 2>/dev/null; then
    die "the file system could be written"
fi
stop || die "SIGTERM did not end it in 30 seconds"

say "it builds, starts, answers and stops"
