# Sourced by run.sh: a PostgreSQL server of the example's own on a free port,
# installed from the system's packages where it is missing. Sets DATABASE_URL.
PG_BIN=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -1 || true)
if [[ -z $PG_BIN ]]; then
	[[ $EUID -eq 0 ]] || fail "PostgreSQL is not installed: apt-get install postgresql"
	# Only the programs are wanted: no cluster, no service of the system's.
	mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
	apt-get update -q > apt.log 2>&1
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql >> apt.log 2>&1 || fail "apt-get install postgresql: see apt.log"
	PG_BIN=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -1)
fi
PG_DIR=$(mktemp -d /tmp/backstay-postgres.XXXXXX) # a socket's path is short
# PostgreSQL does not run as root.
pg() { if [[ $EUID -eq 0 ]]; then (cd "$PG_DIR" && setpriv --reuid postgres --regid postgres --init-groups "$PG_BIN/$@"); else "$PG_BIN/$@"; fi; }
[[ $EUID -ne 0 ]] || chown postgres "$PG_DIR"
pg initdb -D "$PG_DIR/data" -U shop -A trust -E UTF8 --locale=C.UTF-8 --no-sync > initdb.log
PG_PORT=$(free_port)
pg pg_ctl -D "$PG_DIR/data" -w -l "$PG_DIR/log" -o "-p $PG_PORT -h 127.0.0.1 -k $PG_DIR" start > pg_ctl.log
end_database() {
	pg pg_ctl -D "$PG_DIR/data" -m fast stop > pg_ctl.log 2>&1 || true
	rm -rf "$PG_DIR"
}
export DATABASE_URL="postgres://shop@127.0.0.1:$PG_PORT/shop?sslmode=disable"
pg createdb -h 127.0.0.1 -p "$PG_PORT" -U shop shop

# ask SQL: one value. schema: the dump by PostgreSQL's own tool, without Backstay's
# tables and the random line that it begins and ends with.
ask() { pg psql -XAtq "$DATABASE_URL" -c "$1"; }
schema() { pg pg_dump --schema-only -T 'backstay_*' "$DATABASE_URL" | grep -vE '^\\(un)?restrict '; }
