#!/usr/bin/env bash
# Runs README's first command as a reader would: the first ```sh block of
# README.md, in a fresh copy of the repository, with an empty home. Lines before
# the block say what it does: "<!-- exit: N -->" the code it ends with (0 if there
# is none; a deployment that is rolled back ends with 2), "<!-- shows: TEXT -->"
# what it prints. A code other than 0 needs such a text, since a build that fails
# may end with the same code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f README.md ]] || { echo "readme: README.md is not there" >&2; exit 1; }

block=$(awk '/^```sh$/ { inside = 1; next } /^```/ && inside { exit } inside { sub(/^\$ /, ""); print }' README.md)
want=$(awk '/^```sh$/ { exit } match($0, /^<!-- exit: [0-9]+ -->$/) { code = $3 } END { print code + 0 }' README.md)
mapfile -t shows < <(awk '/^```sh$/ { exit } sub(/^<!-- shows: /, "") { sub(/ -->$/, ""); print }' README.md)
[[ -n $block ]] || { echo 'readme: README.md has no ```sh block' >&2; exit 1; }
if [[ $want -ne 0 && ${#shows[@]} -eq 0 ]]; then
	echo "readme: README.md says exit $want and not what is shown" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/home" "$work/tmp" "$work/backstay"
# A clone as it would be now: tracked and new files, nothing that was built.
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do
	[[ -e $f || -L $f ]] && printf '%s\0' "$f"
done | tar --null -T - -cf - | tar -xf - -C "$work/backstay"

echo "readme: running: $block"
code=0
(
	cd "$work/backstay"
	GOMODCACHE=$(go env GOMODCACHE) GOCACHE=$(go env GOCACHE) GOFLAGS=${GOFLAGS:--buildvcs=false} \
		HOME=$work/home TMPDIR=$work/tmp XDG_STATE_HOME='' XDG_DATA_HOME='' XDG_CONFIG_HOME='' XDG_CACHE_HOME='' \
		timeout --kill-after=10 "${README_LIMIT:-300}" bash -eu -o pipefail -c "$block" </dev/null
) 2>&1 | tee "$work/output" || code=$?
if [[ $code -ne $want ]]; then
	echo "readme: the first command ended with exit code $code, README says $want" >&2
	exit 1
fi
for text in "${shows[@]}"; do
	grep -qF -- "$text" "$work/output" || { echo "readme: the first command did not show \"$text\"" >&2; exit 1; }
done
