#!/usr/bin/env bash
set -euo pipefail
command -v nginx > /dev/null || { echo "03-nginx: nginx is not installed: apt-get install nginx-light" >&2; exit 1; }
export BACKSTAY_STATE=$PWD/state
port=$(comm -23 <(seq 20000 30000 | sort) <(ss -tan 2>/dev/null | grep -o ':[0-9]*' | tr -d : | sort -u) | shuf -n 1)
get() { curl -sS -o "$1" -w '%{http_code}' --max-time 5 "http://127.0.0.1:$port$2"; }

# nginx's workers are another user: they must be able to reach the folder.
www=$(mktemp -d /tmp/backstay-nginx.XXXXXX)
chmod 755 "$www"
mkdir -p "$www/html" "$www/tmp"
cp site/v1/index.html "$www/html/"
sed "s/{{.port}}/$port/" config/v1.conf > "$www/nginx.conf"
nginx -p "$www" -c nginx.conf
trap 'nginx -p "$www" -c nginx.conf -s quit 2> /dev/null; rm -rf "$www"' EXIT
picture() { (cd "$www" && find html nginx.conf -printf '%p %y %m %T@ %s\n' | sort && sha256sum nginx.conf html/*); }
deploy() { backstay deploy -f backstay.yaml --set WWW="$www" --set PORT="$port" --set VERSION="$1"; }

echo "== a drill of v2: what would rollback restore?"
drill() { backstay drill -f backstay.yaml --set WWW="$www" --set PORT="$port" --set VERSION=v2 -o drill.txt "$@"; }
drill --level D2 || { [[ $? -eq 5 ]] && drill; } # real steps in sandboxes; on models where they cannot be made

echo "== v1 to v2: good"
deploy v2
for _ in $(seq 50); do [[ $(get body /) == 200 && $(cat body) == "<h1>edge 2</h1>" ]] && break; sleep 0.1; done
[[ $(cat body) == "<h1>edge 2</h1>" ]] || { echo "v2 is not served" >&2; exit 1; }

before=$(picture)
for bad in v3 v4; do
	echo "== v2 to $bad: rolled back"
	code=0
	deploy "$bad" || code=$?
	[[ $code -eq 2 ]] || { echo "exit code $code, want 2 (rolled back)" >&2; exit 1; }
	[[ $(picture) == "$before" ]] || { echo "the files are not as before" >&2; diff <(echo "$before") <(picture) >&2; exit 1; }
	# A reload returns before the old workers stopped answering: ask until v2
	# answers five times in a row.
	row=0
	for _ in $(seq 100); do
		if [[ $(get body /healthz) == 200 && $(get body /) == 200 && $(cat body) == "<h1>edge 2</h1>" ]]; then row=$((row + 1)); else row=0; fi
		[[ $row -ge 5 ]] && break
		sleep 0.1
	done
	[[ $row -ge 5 ]] || { echo "v2 is not served any more" >&2; exit 1; }
done
backstay drift
backstay audit verify
