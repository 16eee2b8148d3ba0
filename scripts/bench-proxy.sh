#!/usr/bin/env bash
# Measures `backstay proxy` beside others: one machine, one run, one backend,
# the same connections and payload. Needs wrk, nginx, haproxy and caddy from
# Debian; what is missing is left out and named. Everything is on loopback.
#
#   scripts/bench-proxy.sh [SECONDS [ROUNDS]]     of each measurement (5) and how many of each (3)
#   SECTIONS="throughput idle" …                  only these
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-5} rounds=${2:-3} sections=${SECTIONS:-throughput idle}
work=$(mktemp -d)
pids=()
finish() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
have() { command -v "$1" >/dev/null; }
have wrk || { echo "bench-proxy: wrk is missing (apt-get install wrk)" >&2; exit 1; }
have nginx || { echo "bench-proxy: nginx is missing (apt-get install nginx-light)" >&2; exit 1; }
ulimit -n "$(ulimit -Hn)"

go build -o "$work/backstay" ./cmd/backstay
go test -c -o "$work/peer" ./internal/proxy

start() { # start NAME COMMAND…
	local name=$1
	shift
	"$@" >"$work/$name.log" 2>&1 </dev/null &
	pids+=($!)
	pid_of[$name]=$!
}
declare -A pid_of port_of
wait_for() { # wait_for PORT NAME
	for _ in $(seq 400); do
		curl -sf -o "$work/body" -H 'Host: shop.test' "http://127.0.0.1:$1/" 2>/dev/null && return
		sleep 0.05
	done
	echo "bench-proxy: $2 does not serve:" >&2
	tail -5 "$work/$2.log" >&2
	exit 1
}

base=$((20000 + RANDOM % 20000))
backend=$base
mkdir -p "$work/nginx"
payload=$(printf 'x%.0s' $(seq 1024))
nginx_conf() { # nginx_conf HTTP-BLOCK
	cat <<-CONF
		daemon off; worker_processes 2; worker_rlimit_nofile 65536; pid $work/nginx/$RANDOM.pid; error_log stderr crit;
		events { worker_connections 20000; }
		http { access_log off; keepalive_requests 10000000; keepalive_timeout 600s; client_body_temp_path $work/nginx/b; proxy_temp_path $work/nginx/p;
		fastcgi_temp_path $work/nginx/f; uwsgi_temp_path $work/nginx/u; scgi_temp_path $work/nginx/s; $1 }
	CONF
}
nginx_conf "server { listen 127.0.0.1:$backend; location / { default_type text/plain; return 200 '$payload'; } }" >"$work/backend.conf"
start backend nginx -c "$work/backend.conf" -p "$work/nginx"
wait_for "$backend" backend

names=()
peer() { # peer NAME PORT COMMAND…
	names+=("$1")
	port_of[$1]=$2
	start "$1" "${@:3}"
	wait_for "$2" "$1"
}
cat >"$work/proxy.yaml" <<CONF
backstay_proxy: v1
listen: [{address: "127.0.0.1:$((base + 1))"}]
limits: {idle: 10m}
routes:
  - name: shop
    match: {hosts: [shop.test]}
    sides:
      - {name: green, weight: 50, instances: [{url: "http://127.0.0.1:$backend"}]}
      - {name: blue, weight: 50, instances: [{url: "http://127.0.0.1:$backend"}]}
CONF
peer backstay $((base + 1)) "$work/backstay" proxy --config "$work/proxy.yaml" --state "$work/state"
peer bare-go $((base + 2)) env BACKSTAY_PROXY_HELPER=bare "$work/peer" "127.0.0.1:$((base + 2))" "http://127.0.0.1:$backend"
nginx_conf "upstream b { server 127.0.0.1:$backend; keepalive 512; } server { listen 127.0.0.1:$((base + 3)); location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host \$host; } }" >"$work/front.conf"
peer nginx $((base + 3)) nginx -c "$work/front.conf" -p "$work/nginx"
if have haproxy; then
	cat >"$work/haproxy.cfg" <<-CONF
		global
		  maxconn 9600
		defaults
		  mode http
		  timeout connect 2s
		  timeout client 10m
		  timeout server 60s
		  timeout http-keep-alive 10m
		listen shop
		  bind 127.0.0.1:$((base + 4))
		  option forwardfor
		  http-reuse always
		  server a 127.0.0.1:$backend weight 50
		  server b 127.0.0.1:$backend weight 50
	CONF
	peer haproxy $((base + 4)) haproxy -f "$work/haproxy.cfg"
else echo "haproxy is missing and left out" >&2; fi
if have caddy; then
	printf '{\n admin off\n auto_https off\n}\nhttp://:%s {\n bind 127.0.0.1\n reverse_proxy 127.0.0.1:%s {\n transport http {\n keepalive_idle_conns_per_host 1024\n }\n }\n}\n' $((base + 5)) "$backend" >"$work/Caddyfile"
	peer caddy $((base + 5)) env HOME="$work" XDG_CONFIG_HOME="$work" XDG_DATA_HOME="$work" caddy run --config "$work/Caddyfile" --adapter caddyfile
else echo "caddy is missing and left out" >&2; fi

if [[ $sections == *throughput* ]]; then
	echo "throughput: wrk, 1 thread, 64 connections, 1 KiB, $rounds rounds of $seconds s in turn; the medians"
	for round in $(seq "$rounds"); do
		for name in "${names[@]}"; do
			wrk -t1 -c64 "-d${seconds}s" --latency -H 'Host: shop.test' "http://127.0.0.1:${port_of[$name]}/" >"$work/wrk.out"
			awk -v name="$name" '
				/Requests\/sec/ { rps = $2 }
				$1 == "50%" { p50 = $2 } $1 == "99%" { p99 = $2 }
				/Non-2xx/ { bad = $NF } /Socket errors/ { bad = $0 }
				END { print name, rps, p50, p99, (bad == "" ? "0" : bad) }' "$work/wrk.out" >>"$work/results"
		done
	done
	ms() { awk '{ v = $1 + 0; if ($1 ~ /us$/) v /= 1000; else if ($1 ~ /[0-9]s$/) v *= 1000; printf "%.2f\n", v }'; }
	median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }
	best=$(awk '$1 == "bare-go" { print $2 }' "$work/results" | median)
	printf '%-10s %12s %14s %10s %10s %8s\n' proxy requests/s x-bare-go p50-ms p99-ms failed
	for name in "${names[@]}"; do
		of() { awk -v n="$name" -v c="$1" '$1 == n { print $c }' "$work/results"; }
		rps=$(of 2 | median)
		printf '%-10s %12.0f %14.2f %10s %10s %8s\n' "$name" "$rps" "$(awk "BEGIN { print $rps / $best }")" "$(of 3 | ms | median)" "$(of 4 | ms | median)" "$(of 5 | median)"
	done
fi

rss() { # of a process and its children, in KiB
	local sum=0 pid
	for pid in "$1" $(pgrep -P "$1" || true); do
		sum=$((sum + $(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status" 2>/dev/null || echo 0)))
	done
	echo "$sum"
}
if [[ $sections == *idle* ]]; then
	echo "idle: 9,000 connections that each made one request; memory (RSS) per connection"
	for name in "${names[@]}"; do
		before=$(rss "${pid_of[$name]}")
		coproc holder { BACKSTAY_PROXY_HELPER=idle "$work/peer" "127.0.0.1:${port_of[$name]}" 9000 2>"$work/idle.log"; }
		holder_pid=$!
		if read -r line <&"${holder[0]}"; then
			after=$(rss "${pid_of[$name]}")
			printf '%-10s %8.1f KiB a connection, %6.1f MiB in all\n' "$name" "$(awk "BEGIN { print ($after - $before) / 9000 }")" "$(awk "BEGIN { print $after / 1024 }")"
		else
			echo "$name: ${line:-} $(tail -1 "$work/idle.log")"
		fi
		kill "$holder_pid" 2>/dev/null || true
		wait "$holder_pid" 2>/dev/null || true
	done
fi
