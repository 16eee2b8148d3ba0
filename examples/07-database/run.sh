#!/usr/bin/env bash
set -euo pipefail
source ../shop/start.sh
source ../shop/proxy.sh
PG_DIR=
trap 'end_shop; [[ -z $PG_DIR ]] || end_database' EXIT
source ./setup.sh

# The code of the three versions is one; the build says what each can do.
build() { (cd shop && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$1 ${*:2}" -o "../dist/shop-$1" .); }
build v1
build v2 -X main.gifts=yes -X main.failing=3
build v3 -X main.gifts=yes
release() { backstay deploy -f backstay.yaml --set VERSION="$1" --set SCHEMA="$2" --set SHOP="$SHOP" --set PROXY="$PROXY"; }

# customers_start FIRST and customers_end: who order all the time, and count.
customers_start() {
	dist/shop-v1 -customers "$SHOP" -first "$1" > customers.txt &
	CUSTOMERS=$!
	SHOP_PIDS+=("$CUSTOMERS")
}
customers_end() {
	local code=0
	kill -TERM "$CUSTOMERS"
	wait "$CUSTOMERS" || code=$?
	cat customers.txt
	[[ $code -eq 0 ]] || fail "customers noticed how it was deployed"
	# Every order that the shop took is there, and no other.
	ask 'SELECT id FROM orders ORDER BY id' > rows.txt
	sort -n taken.txt | cmp - rows.txt || fail "the orders in the database are not those that customers were told"
	echo "orders: $(wc -l < rows.txt) taken, $(wc -l < rows.txt) in the database"
}

echo "== v1: the first release makes the schema"
release v1 1
serves v1
schema > before.sql

customers_start 1
until_true test -s taken.txt
echo "== v2 needs a column and a table; a third of its orders fail: back, schema and all"
code=0
release v2 2 || code=$?
[[ $code -eq 2 ]] || fail "exit code $code, want 2 (rolled back)"
serves v1
customers_end
schema | cmp - before.sql || fail "the schema is not as it was"
echo "schema: $(wc -c < before.sql) bytes of pg_dump, equal to those before v2"
[[ $(grep -c 'v2 took' customers.txt) -eq 1 ]] || fail "v2 took no order: nothing was shown"

echo "== v3 is right; what v2 wrote into the new column comes back with it"
kept=$(ask "SELECT count(*) FROM $(ask "SELECT id FROM backstay_kept WHERE source LIKE '%gift%'")")
customers_start 1000001
release v3 2
serves v3
customers_end
found=$(ask 'SELECT count(*) FROM orders WHERE gift IS NOT NULL AND id <= 1000000')
[[ $kept -gt 0 && $found -eq $kept ]] || fail "$kept gifts were kept, $found came back"
echo "gifts: $kept written by v2, kept while v1 was back, there again with v3"
backstay drift
backstay audit verify
