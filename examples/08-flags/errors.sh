#!/bin/sh
# Answers a gate: the error rate of the new checkout. Exit status 2: no data yet.
rate=$(curl -fsS --max-time 5 "$1/errors") || exit 1
[ -n "$rate" ] || { echo "too few requests of the new checkout"; exit 2; }
echo "$rate"
