#!/bin/sh
# Makes the secrets of a fleet, once: the pepper and Redis's password for Tollgate, and Redis's list of users. What is there
# stays. Tollgate and Redis get a folder each, so that Redis never sees the pepper.
#
#   secrets.sh FOLDER-OF-TOLLGATE FOLDER-OF-REDIS
set -eu
umask 077
tollgate=$1 redis=$2

random() { od -An -tx1 -N32 /dev/urandom | tr -d ' \n'; }

# From standard input, whole or not at all. As root it is given to the user of the image that reads it.
put() {
    cat > "$1.new"
    chmod 0400 "$1.new"
    [ "$(id -u)" != 0 ] || chown "$2" "$1.new"
    mv "$1.new" "$1"
}

[ -e "$tollgate/pepper.1" ] || random | put "$tollgate/pepper.1" 65532
[ -e "$tollgate/redis" ] || random | put "$tollgate/redis" 65532
password=$(cat "$tollgate/redis")
# A password as its hash, which lets nobody in.
hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
# Nobody can log in as the default user; it may do everything, since Redis replays its append-only file as this user, and passes
# over each transaction that it may not do.
default='user default off resetpass ~* &* +@all'
cluster='+cluster|slots +cluster|shards'
# What Tollgate asks since: whether a failover may have lost something, and whether a restart would.
since='+cluster|info +acl|dryrun'
[ -e "$redis/users.acl" ] || put "$redis/users.acl" 999 << END
$default
user tollgate on #$hash resetkeys ~tg:* resetchannels -@all +@read +@write +@scripting +@connection -@dangerous +role +info +wait +config|get $cluster $since
END
# The lines of an older release: with its default user Redis came back from a restart without any key, and its user of Tollgate could not
# ask whether it would.
old_user="^user tollgate on #[0-9a-f]* resetkeys ~tg:\\* .* $cluster\$"
if grep -qx 'user default off' "$redis/users.acl" || grep -q "$old_user" "$redis/users.acl"; then
    mended=$(sed -e "/^user default off\$/c\\
$default" -e "/$old_user/s/\$/ $since/" "$redis/users.acl")
    printf '%s\n' "$mended" | put "$redis/users.acl" 999
    echo "secrets.sh: mended the users in $redis/users.acl: restart Redis now (see docs/fleet.md)" >&2
fi
