#!/bin/sh
# deploy.sh APP: the kind of script that fails half-way.
set -eu
app=$1

echo "1/3 copy files"
cp -R new/. "$app/"
rm -f "$app/lib/legacy.pl"

echo "2/3 edit the configuration"
sed -i 's/^version = .*/version = 2/; s/^port = .*/port = 80801/' "$app/shop.conf"
chmod 600 "$app/shop.conf"

echo "3/3 restart"
port=$(sed -n 's/^port = //p' "$app/shop.conf")
if [ "$port" -gt 65535 ]; then
	echo "shop: cannot listen on port $port" >&2
	exit 1
fi
