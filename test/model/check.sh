#!/bin/bash
# Checks lease.pml with spin: what must hold, each protection switched off, and
# witnesses that the model does what it is about. Ends with one plain line.
set -eu -o pipefail
cd "$(dirname "$0")"

if ! command -v spin > /dev/null || ! command -v gcc > /dev/null; then
	if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
		echo "model: installing spin and gcc ..."
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends spin gcc libc6-dev; } > /dev/null 2>&1 || true
	fi
	if ! command -v spin > /dev/null || ! command -v gcc > /dev/null; then
		echo "model: SKIPPED, NOTHING WAS CHECKED: spin and gcc are needed (apt-get install spin gcc)"
		exit 0
	fi
fi

dir=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$dir"' EXIT

# build NAME "GCC FLAGS" -DFLAG...: the checker, in $dir/NAME
build() {
	local name=$1 how=$2
	shift 2
	mkdir "$dir/$name"
	(cd "$dir/$name" && cp "$OLDPWD/lease.pml" . && spin -a "$@" lease.pml > spin.out && gcc -w -DSAFETY -DNOREDUCE -DMEMLIM=1900 $how -o pan pan.c) ||
		{ echo "model: $name does not build"; cat "$dir/$name/spin.out"; exit 1; }
}
value() { sed -n "s/^ *\([0-9]*\) $2.*/\1/p" "$dir/$1/pan.out"; }

# holds NAME WHAT -DFLAG...: every reachable state is visited, and none breaks a promise.
total=0
holds() {
	local name=$1 what=$2
	shift 2
	build "$name" -O3 "$@"
	(cd "$dir/$name" && ./pan -m100000 -w25 > pan.out 2>&1) || true
	if ! grep -q "errors: 0" "$dir/$name/pan.out" || grep -qE "max search depth too small|reached -DMEMLIM|Search not completed" "$dir/$name/pan.out"; then
		echo "model: BROKEN: $what ($*)"
		grep -E "errors:|assertion|depth|MEMLIM" "$dir/$name/pan.out"
		(cd "$dir/$name" && [ ! -e lease.pml.trail ] || spin -t -p -g "$@" lease.pml | tail -150)
		exit 1
	fi
	local states
	states=$(value "$name" "states, stored")
	total=$((total + states))
	echo "model: holds  $what: $states states, all of them ($*)"
}

# red FLAGS: switched off, a broken promise must be found (breadth first, so the
# shortest way to it).
red() {
	local name=$1
	shift
	build "$name" -DBFS "$@"
	(cd "$dir/$name" && ./pan -w20 > pan.out 2>&1) || true
	grep -q "assertion violated" "$dir/$name/pan.out" || { echo "model: GREEN: $* was not noticed"; touch "$dir/green"; return; }
	echo "model: red    $name after $(sed -n 's/.*(at depth \([0-9]*\)).*/\1/p' "$dir/$name/pan.out") steps"
	touch "$dir/$name.red"
}

off="NO_S3_WAIT NO_DRIFT_MARGIN NO_FENCE NO_STOP_AT NO_TERM_CHECK NO_FIRST_ACK NO_CONFIRM NO_RAFT_TERM ACK_WHILE_PROPOSED FORGET_RELEASE NO_EXEC_CONDITION NO_NOTE_START"
(
	for f in $off; do red "$f" -DMAXTERM=2 "-D$f"; done
	red GRANT_WHILE_PAUSED -DMAXTERM=2 -DMAXEPOCH=3 -DTTL=3 -DGRANT_WHILE_PAUSED
	red SEE_FAILOVER -DMAXTERM=2 -DSEE_FAILOVER
	red SEE_RETURN -DMAXTERM=3 -DTTL=3 -DSEE_RETURN
	red SEE_RESUME -DMAXTERM=2 -DMAXEPOCH=3 -DTTL=3 -DSEE_RESUME
) &
controls=$!
holds two "a failover, and terms given back" -DMAXTERM=2
holds three "three terms" -DMAXTERM=3 -DTTL=3 -DSTEPDOWN=0
holds pause "pause and resume" -DMAXTERM=2 -DMAXEPOCH=3 -DTTL=3 -DSTEPDOWN=0
wait $controls || { echo "model: the controls did not run"; exit 1; }
[ ! -e "$dir/green" ] || { echo "model: FAILED: a protection can be switched off and nobody notices"; exit 1; }
n=$(ls "$dir"/*.red | wc -l)
[ "$n" = 16 ] || { echo "model: FAILED: $n of 16 controls ran"; exit 1; }
echo "model: ok: $total states, at most one live control plane in each; red, as they must be: $off GRANT_WHILE_PAUSED; reached: a failover, the way back, a resume"
