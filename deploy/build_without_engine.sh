#!/bin/sh
# Builds the Dockerfile and starts what it built, on a machine without a container engine.
#
# Needs root on Debian or Ubuntu, `apt-get install buildah debootstrap`, 3 GB of disk, and a way to the
# machine's own package mirrors. From the top of the project, as root: make image
#
#   1. The base image python:3.13-slim is made from Debian 13, which is what it is made from, with
#      Debian's own Python 3.13. Debian's packages come from MIRROR; unset, from where this machine's
#      apt has its own, and where that is not Debian, from debootstrap's default.
#   2. buildah builds the Dockerfile over it, with chroot in place of a container. pip and uv see
#      this machine's configuration (files, environment, certificates); none of it is kept.
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
MIRROR=${MIRROR:-}
BASE=localhost/python:3.13-slim
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

# Where this machine's apt gets Debian from; nothing on another distribution.
apt_mirror() {
    # shellcheck disable=SC2016 # apt puts the value in
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' \
        2>/dev/null | head -n 1
}

# apt's proxy, for debootstrap, which knows the environment's only.
use_apt_proxy() {
    proxy=
    eval "$(apt-config shell proxy Acquire::http::Proxy 2>/dev/null)"
    [ -n "$proxy" ] && [ -z "${http_proxy:-}" ] || return 0
    export http_proxy="$proxy"
}

make_base() {
    mirror=${MIRROR:-$(apt_mirror)}
    use_apt_proxy
    echo "mirror: ${mirror:-the default of debootstrap}"
    # shellcheck disable=SC2086 # no mirror is no argument
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        trixie "$WORK/base" $mirror >"$WORK/debootstrap.log" 2>&1 ||
        { tail -n 5 "$WORK/debootstrap.log" >&2; die "debootstrap failed"; }
    # The names that the official image has, and its leave to install with pip.
    ln -s python3 "$WORK/base/usr/bin/python"
    rm -f "$WORK"/base/usr/lib/python3*/EXTERNALLY-MANAGED
    rm -rf "$WORK"/base/var/cache/apt/archives/*.deb "$WORK"/base/var/lib/apt/lists/*

    container=$(b from scratch)
    b add --quiet "$container" "$WORK/base" / >/dev/null
    b config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        --env LANG=C.UTF-8 --cmd python3 "$container"
    b commit --quiet --rm "$container" "$BASE" >/dev/null
    rm -rf "$WORK/base"
}

# Where this machine's pip gets packages from, if it is told where.
pip_index() {
    echo "${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null)}"
}

# This machine's indexes and certificates as options of the build, one word each: files are visible
# to its commands and no part of the image; the Dockerfile's ARGs end with the builder.
machine_options() {
    certificates=/etc/ssl/certs/ca-certificates.crt
    if [ -f "$certificates" ]; then
        echo "--volume=$certificates:$certificates:ro"
        echo "--build-arg=SSL_CERT_FILE=$certificates"
    fi
    for pair in /etc/uv/uv.toml:/etc/uv/uv.toml "$HOME/.config/uv/uv.toml:/root/.config/uv/uv.toml" \
        "$HOME/.netrc:/root/.netrc"; do
        [ ! -f "${pair%%:*}" ] || echo "--volume=$pair:ro"
    done
    for pair in "PIP_INDEX_URL=$(pip_index)" "UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-}"; do
        [ -z "${pair#*=}" ] || echo "--build-arg=$pair"
    done
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
# shellcheck disable=SC2046 # the options are words
b bud --isolation=chroot --network=host --format=docker --pull-never \
    --build-arg BASE="$BASE" $(machine_options) \
    --file "$project/Dockerfile" --tag "$IMAGE" "$project"

container=$(b from --pull-never "$IMAGE")
root=$(b mount "$container")
# Environment, command and health check as the image has them, on our port.
environment=$(b inspect --type image --format '{{range .Docker.Config.Env}}{{.}} {{end}}' "$IMAGE")
command=$(b inspect --type image --format '{{range .Docker.Config.Cmd}}{{.}} {{end}}' "$IMAGE" |
    sed "s/8000/$PORT/")
probe=$(b inspect --type image --format '{{range .Docker.Config.Healthcheck.Test}}{{.}} {{end}}' "$IMAGE" |
    sed "s/^CMD //; s/8000/$PORT/")

say "start: $command"
# shellcheck disable=SC2086 # the command is words
setsid buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver vfs \
    run --isolation=chroot "$container" -- $command >"$WORK/log" 2>&1 &
started=$!
# shellcheck disable=SC2086 # the probe is words
check $probe
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
# shellcheck disable=SC2086 # the probe is words
check $probe
grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' "/proc/$started/status"
if nsenter --mount --target "$started" chroot "$root" touch /app/written 2>/dev/null; then
    die "the file system could be written"
fi
stop || die "SIGTERM did not end it in 30 seconds"

say "it builds, starts, answers and stops"
