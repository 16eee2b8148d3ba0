#!/bin/sh
# The new version cannot start: somebody else has the port.
echo "shop: cannot bind 127.0.0.1:8080: address already in use" >&2
exit 1
