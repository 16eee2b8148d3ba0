#!/usr/bin/env bash
# Measures whole processes of the built binary. Prints one figure a line with
# the command that gives it. Absolute times are this machine's; the ratios are
# what docs/benchmarks.md quotes. Needs strace for the count of fsyncs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -x bin/backstay ]] || { echo "bench: bin/backstay is not built: make build" >&2; exit 1; }
backstay=$PWD/bin/backstay
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# spec STEPS: a plan of commands that do nothing.
spec() {
	printf 'backstay: v1\nrelease: bench\nversion: "1"\nsteps:\n'
	for ((i = 0; i < $1; i++)); do printf '  - {name: s%d, run: [/bin/true], undo: [/bin/true]}\n' "$i"; done
}
now() { date +%s%N; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

echo "# binary"
printf 'size: %.1f MB stripped\n' "$(stat -c %s "$backstay" | awk '{ print $1 / 1e6 }')"
for _ in 1 2 3 4 5 6 7; do a=$(now); "$backstay" version > /dev/null; b=$(now); echo $(((b - a) / 1000)); done | median | sed 's/$/ µs: backstay version, whole process, median of 7/'

echo "# ten commands: backstay deploy beside sh"
spec 10 > ten.yaml
for ((i = 0; i < 10; i++)); do echo /bin/true; done > ten.sh
ratios=()
for n in 1 2 3 4 5; do
	a=$(now); sh ten.sh; b=$(now)
	"$backstay" deploy -f ten.yaml --state "$work/ten-$n" > /dev/null 2>&1
	c=$(now)
	echo $(((c - b) * 100 / (b - a)))
done | median | awk '{ printf "deploy / sh: %.1f (10 × /bin/true, a new ledger each, median of 5 pairs)\n", $1 / 100 }'

echo "# 5,000 steps"
spec 5000 > many.yaml
/usr/bin/env time -f '%e s, %M KiB: backstay lint, 5,000 steps' "$backstay" lint -f many.yaml > /dev/null
/usr/bin/env time -f '%e s, %M KiB: backstay plan, 5,000 steps' "$backstay" plan -f many.yaml --state "$work/many" > /dev/null

echo "# drill of 20 steps"
{
	printf 'backstay: v1\nrelease: drilled\nversion: "1"\nsteps:\n'
	for ((i = 0; i < 20; i++)); do printf '  - {name: s%d, file: {path: %s/drilled-%d, content: new}}\n' "$i" "$work" "$i"; done
} > drilled.yaml
for level in D1 D2; do
	[[ $level == D1 || $(id -u) -eq 0 ]] || continue
	/usr/bin/env time -f "%e s, %M KiB: backstay drill --level $level, 20 file steps" "$backstay" drill -f drilled.yaml --level "$level" --state "$work/drilled" -o "$level.txt" 2>&1 | tail -1
	grep -E '^  D[12], ' "$level.txt"
done

echo "# fsyncs"
if command -v strace > /dev/null; then
	# A plan of 120 steps less one of 20: what start and end cost drops out.
	count() {
		strace -f -qq -e trace=fsync,fdatasync -o "$work/trace" "$backstay" deploy -f "$1" --state "$2" > /dev/null 2>&1
		grep -cE 'f(data)?sync\(' "$work/trace"
	}
	spec 20 > twenty.yaml
	spec 120 > hundred.yaml
	few=$(count twenty.yaml "$work/f20")
	many=$(count hundred.yaml "$work/f120")
	awk -v a="$few" -v b="$many" 'BEGIN { printf "%.2f fsyncs a step in steady state (%d for 120 run steps, %d for 20)\n", (b - a) / 100, b, a }'
else
	echo "fsyncs a step: not measured, strace is not installed"
fi

echo "# take-over after kill -9"
cat > slow.yaml <<'Y'
backstay: v1
release: slow
version: "1"
steps:
  - {name: s, run: sleep 60, undo: "true"}
Y
for lease in 2 5; do
	for n in 1 2 3; do
		state=$work/take-$lease-$n
		"$backstay" deploy -f slow.yaml --state "$state" --lease "${lease}s" > /dev/null 2>&1 &
		deploy=$!
		until "$backstay" status --state "$state" 2> /dev/null | grep -q running; do :; done
		"$backstay" agent --state "$state" --lease "${lease}s" > /dev/null 2>&1 &
		agent=$!
		sleep 1
		a=$(now)
		kill -9 "$deploy"
		wait "$deploy" 2> /dev/null || true
		until "$backstay" audit log --state "$state" 2> /dev/null | grep -q 'rolled_back\|rolled back'; do :; done
		b=$(now)
		echo $(((b - a) / 1000000))
		kill "$agent"
		wait "$agent" || true
	done | median | awk -v l="$lease" '{ printf "%.2f leases (%.1f s): kill -9 of the driver until an agent has rolled back, lease %d s, median of 3\n", $1 / 1000 / l, $1 / 1000, l }'
done

echo "# ledgers of 10 thousand and 1 million entries"
cd "$OLDPWD"
for entries in 10000 1000000; do
	state=$work/grown-$entries
	go test -count=1 -timeout 20m -run '^TestGrow$' ./internal/sim/grow -grow.dir="$state" -grow.entries=$entries > /dev/null
	"$backstay" audit checkpoint --state "$state" > /dev/null
	for verb in version status history 'audit verify'; do
		# shellcheck disable=SC2086 # a verb of two words
		/usr/bin/env time -f "%e s, %M KiB: $verb, $entries entries" "$backstay" $verb --state "$state" > /dev/null
	done
	du -m "$state/ledger.db" | awk '{ print $1 " MB on disk" }'
done
