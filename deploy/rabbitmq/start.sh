#!/bin/sh
# Starts the broker of compose.yml: creates its users from the secret files, then execs the given
# command.
#
# RabbitMQ applies the definitions in $DEFINITIONS_DIR at every start, in the order of their names:
# users first, then topology and the rights of the service's user. A changed
# password file takes effect at the next start. Only salted hashes are written, and only into memory.
set -eu

secrets=${SECRETS_DIR:-/run/secrets}
definitions=${DEFINITIONS_DIR:-/run/orders}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# RabbitMQ's own hash: base64 of four bytes of salt and the SHA-256 of salt and password.
hash() {
    password=$(cat "$secrets/$1")
    if [ -z "$password" ]; then
        echo "$secrets/$1: a password is needed" >&2
        return 1
    fi
    salt=$(openssl rand -base64 3)
    {
        printf %s "$salt"
        printf %s "$salt$password" | openssl dgst -sha256 -binary
    } | openssl base64 -A
}

service=$(hash mq_password)
admin=$(hash mq_admin_password)
algorithm='"hashing_algorithm": "rabbit_password_hashing_sha256"'

cat >"$definitions/10-users.json" <<USERS
{
  "vhosts": [{"name": "/"}],
  "users": [
    {"name": "orders_service", "password_hash": "$service", $algorithm, "tags": []},
    {"name": "admin", "password_hash": "$admin", $algorithm, "tags": ["administrator"]}
  ],
  "permissions": [
    {"user": "admin", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
  ]
}
USERS
cp "$here/definitions.json" "$definitions/20-topology.json"
cp "$here/service_user.json" "$definitions/30-rights.json"

exec "$@"
