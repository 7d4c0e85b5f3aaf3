#!/bin/sh
# Makes the passwords of compose.yml as files in secrets/ (or FOLDER); those that are there are kept.
#
#     deploy/make_secrets.sh [FOLDER]
#
# The folder is closed to others on this machine. The files in it are readable, because a container
# sees them with the owner and mode they have here, and its users are others than you.
set -eu

folder=${1:-$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in db_root_password db_migrations_password db_password mq_admin_password mq_password; do
    [ ! -s "$folder/$name" ] || continue
    # 24 random bytes in hexadecimal.
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
    chmod 644 "$folder/$name"
    echo "made $folder/$name"
done
