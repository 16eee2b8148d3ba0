#!/usr/bin/env bash
# Installs the Debian packages that tests and examples talk to, where they are
# missing. Running it again does nothing. Services do not start: the tests start
# their own, on free ports.
#
#   scripts/install-parts.sh           install what is missing
#   scripts/install-parts.sh --check   name what is missing, exit 1 if anything is
#
# Where it cannot install it says so and exits 0, and the tests that need the
# parts are skipped; with CI=true that is an error.
set -euo pipefail

# package | a file (a pattern) or command that shows it is there
parts='
postgresql|/usr/lib/postgresql/*/bin/initdb
mariadb-server|/usr/sbin/mariadbd
nginx-light|/usr/sbin/nginx
prometheus|prometheus
prometheus-alertmanager|prometheus-alertmanager
haproxy|/usr/sbin/haproxy
curl|curl
nodejs|node
npm|npm
strace|strace
'

present() { # present PATTERN-OR-COMMAND
	case $1 in
	/*) compgen -G "$1" >/dev/null ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing() {
	local package shows
	while IFS='|' read -r package shows; do
		[[ -z $package ]] || present "$shows" || echo "$package"
	done <<<"$parts"
}

cannot() {
	echo "install-parts: $1" >&2
	echo "install-parts: missing: $need" >&2
	if [[ ${CI:-} == true ]]; then
		echo "install-parts: in CI every part must be there" >&2
		exit 1
	fi
	echo "install-parts: tests that need them will be skipped; as root: apt-get install $need" >&2
	exit 0
}

need=$(missing | paste -sd ' ')
if [[ ${1:-} == --check ]]; then
	[[ -z $need ]] || { echo "missing: $need"; exit 1; }
	exit 0
fi
[[ -n $need ]] || exit 0
command -v apt-get >/dev/null || cannot "this machine has no apt-get"
if [[ $EUID -ne 0 ]]; then
	if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		exec sudo -n -- env CI="${CI:-}" bash "$0"
	fi
	cannot "not root, and sudo wants a password"
fi

# A package must not start its service. A policy that is there already stays.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy && ! -L $policy ]]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 0755 "$policy"
fi

echo "install-parts: installing $need"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
# shellcheck disable=SC2086 # a list of package names
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends $need; } </dev/null >&2; then
	cannot "apt-get did not succeed"
fi
need=$(missing | paste -sd ' ')
[[ -z $need ]] || cannot "installed, but not found where expected"
