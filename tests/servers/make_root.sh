#!/bin/sh
# Makes a folder with MySQL 9.7 and RabbitMQ 4.3 in it (Debian sid), the versions of compose.yml,
# for tests on a machine without a container engine. Nothing is installed outside the folder.
#
# Needs root, debootstrap (apt-get install debootstrap), 1 GB and about 90 seconds. Then, as root:
#
#     sh tests/servers/make_root.sh FOLDER
#     TEST_SERVERS_ROOT=FOLDER python -m pytest
#
# The tests start the servers under chroot in mount namespaces of their own and keep their data in
# FOLDER/tmp while they run. To be rid of it all, remove the folder.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
folder=$1

if [ "$(id -u)" -ne 0 ]; then
    echo "$0: debootstrap and chroot need root" >&2
    exit 1
fi
if ! command -v debootstrap >/dev/null; then
    echo "$0: debootstrap is missing: apt-get install debootstrap" >&2
    exit 1
fi
if [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
    echo "$0: $folder is not empty" >&2
    exit 1
fi

debootstrap --variant=minbase --include=mysql-server,rabbitmq-server sid "$folder"
