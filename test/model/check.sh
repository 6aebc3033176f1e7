#!/bin/sh
# Checks the model of the lease with spin, and that each protection is needed: with one
# switched off, spin must find two masters. `make model` calls it.
set -eu
cd "$(dirname "$0")"
if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then
	if [ "$(id -u)" = 0 ]; then
		echo "installing spin and gcc (apt-get)"
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q spin gcc libc6-dev >/dev/null 2>&1 || { apt-get update -q >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q spin gcc libc6-dev >/dev/null 2>&1; } || true
	fi
	if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then
		echo "SKIPPED: the model needs spin and gcc (sudo apt install spin gcc)"
		exit 0
	fi
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp lease.pml "$dir"
cd "$dir"

# verify FLAGS...: prints the number of states and of errors.
verify() {
	spin "$@" -a lease.pml >spin.log 2>&1 || { cat spin.log; exit 1; }
	gcc -O2 -DSAFETY -DMEMLIM=3500 -DCOLLAPSE -o pan pan.c 2>gcc.log || { cat gcc.log; exit 1; }
	./pan -m1000000 >pan.log
	states=$(awk '/states, stored/ {printf "%d", $1}' pan.log)
	errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log)
	if grep -q 'not completed\|max search depth too small\|out of memory\|reached -DMEMLIM' pan.log; then
		cat pan.log
		echo "FAILED: the search was cut off"
		exit 1
	fi
}

PLAIN="-DMAXT=10 -DMAXTERM=3 -DMAXRAFT=2"
PAUSE="-DMAXT=10 -DMAXTERM=2 -DMAXRAFT=1 -DMAXEPOCH=2"
total=0
for v in "$PLAIN" "$PAUSE"; do
	verify $v
	echo "ok    $v: $states states, $errors errors"
	[ "$errors" = 0 ] || { echo "FAILED: the model makes two masters"; exit 1; }
	total=$((total + states))
done
red=0
for c in NO_S3_WAIT NO_DEADLINE NO_FENCE NO_CONFIRM NO_FIRSTACK NO_CONDITION NO_RESUMING; do
	v=$PLAIN
	[ $c = NO_RESUMING ] && v=$PAUSE
	verify $v -D$c
	if [ "$errors" = 0 ]; then
		echo "FAILED: $c: switched off, and $states states are without an error"
		exit 1
	fi
	echo "red   $c, as it must be (after $states states)"
	red=$((red + 1))
done
echo "model: $total states without two masters, and $red of 7 protections shown to be needed"
