#!/bin/sh
# Reloads the nginx of a folder. Where it does not run there is nothing to
# reload: so it is in the sandboxes of a drill.
set -eu
kill -0 "$(cat "$1/nginx.pid")" 2>/dev/null || { echo "nginx does not run"; exit 0; }
exec nginx -p "$1" -c nginx.conf -s reload
