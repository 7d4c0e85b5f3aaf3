#!/bin/sh
# Generates the passwords of compose.yml as files in secrets/ (or FOLDER); keeps existing ones.
#
#     deploy/make_secrets.sh [FOLDER]
#
# The folder is closed to other users of this machine. The files in it are readable by all, because a
# container sees them with their owner and mode here, and runs as other users than you.
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
