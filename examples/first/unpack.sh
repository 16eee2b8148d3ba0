#!/bin/sh
# A deploy script as people have them: it knows nothing of Backstay and writes
# no undo. It changes a page, deletes a file and adds a directory.
set -eu
cd "$1/www"
printf '<h1>shop 2</h1>\n' > index.html
rm old.css
mkdir assets
printf 'body { color: green }\n' > assets/new.css
