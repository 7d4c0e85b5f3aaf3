#!/bin/sh
# Creates the service's two MySQL users if missing, sets their passwords from the secret files, and
# grants their rights, as root over the server's socket.
#
# compose.yml runs it before each migration, for the accounts, and after it, for the rights: they can
# be granted only on existing tables. Idempotent.
set -eu

# Named, never a default: root may be let in by another server on this machine without a password.
socket=${DB_SOCKET:?the socket of the server}
secrets=${SECRETS_DIR:-/run/secrets}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# The password in a file. Letters and digits only: it passes through SQL and a configuration file.
secret() {
    password=$(cat "$secrets/$1")
    case $password in
    '' | *[!A-Za-z0-9]*)
        echo "$secrets/$1: a password of letters and digits is needed" >&2
        return 1
        ;;
    esac
    echo "$password"
}

# Statements from standard input, as root. The password is in no command line and no environment.
as_root() {
    mysql --defaults-file=/dev/fd/3 --protocol=socket --socket="$socket" --user=root --batch \
        --skip-column-names 3<<OPTIONS
[client]
password="$root"
OPTIONS
}

account() {
    echo "CREATE USER IF NOT EXISTS '$1'@'%' IDENTIFIED BY '$2';"
    echo "ALTER USER '$1'@'%' IDENTIFIED BY '$2';"
}

root=$(secret db_root_password)
migrations=$(secret db_migrations_password)
service=$(secret db_password)

{
    account orders_migrations "$migrations"
    account orders_service "$service"
    cat "$here/migrations_user.sql"
} | as_root

migrated="SELECT COUNT(*) FROM information_schema.tables
    WHERE table_schema = 'order_db' AND table_name = 'order_service_version'"
if [ "$(echo "$migrated" | as_root)" = 1 ]; then
    as_root <"$here/service_user.sql"
    echo "users: accounts and rights are as they should be"
else
    echo "users: accounts are as they should be; no table to give rights on yet"
fi
