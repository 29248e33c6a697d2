#!/usr/bin/env bash
# Kills the process that leads a shard, measures until reads and writes work again, starts it again, and checks that no
# acknowledged document was lost.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

usage() {
	cat <<'USAGE'
usage: failover-drill.sh [flags] DIR

Ends the primary of a shard with kill -9 and prints a report. DIR is a playground or a directory of deploy.sh; the cluster must be
HEALTHY. Documents are written to the collection "drill".

  --shard ID       the shard whose primary is killed (default: shard-1)
  --documents N    documents written before the kill, and as many again during it (default: 500)
  --wait SECONDS   how long to wait for reads and writes, and again for HEALTHY (default: 60)
  --help           this text

CLI is the path of themis-cli.

Exit code: 0 all went well, 1 a document is missing or differs, or the cluster was not HEALTHY before, 2 wrong usage,
9 gave up waiting; otherwise the one of themis-cli.
USAGE
}

shard=shard-1 documents=500 wait=60 dir=''
while (($#)); do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--*)
		(($# > 1)) || die 2 "$1: needs a value; see --help"
		case $1 in
		--shard) shard=$2 ;;
		--documents) documents=$2 ;;
		--wait) wait=$2 ;;
		*) die 2 "unknown flag $1; see --help" ;;
		esac
		shift
		;;
	*)
		[[ ! $dir ]] || die 2 "one directory, not '$dir' and '$1'; see --help"
		dir=$1
		;;
	esac
	shift
done
[[ $dir ]] || {
	usage >&2
	die 2 "which directory?"
}
[[ $shard =~ ^shard-[1-9][0-9]{0,4}$ ]] || die 2 "--shard '$shard': want shard-N"
need --documents "$documents" 1 100000
need --wait "$wait" 1 86400
have_cli
[[ -d $dir ]] || die 2 "$dir: no such directory"
dir=$(cd -- "$dir" && pwd)
use_cluster "$dir"

work=$(mktemp -d)
loader=''
cleanup() {
	[[ ! $loader ]] || kill "$loader" 2>/dev/null || true
	rm -rf -- "$work"
}
trap cleanup EXIT

run=$(now_ms)

# lines FROM TO writes documents whose keys no other run has.
lines() {
	local n
	for ((n = $1; n <= $2; n++)); do
		printf '{"_key":"%s-%d","run":%s,"number":%d}\n' "$run" "$n" "$run" "$n"
	done
}

primary() { "$cli" shard show "$shard" -o json | objects | field primary; }

# marker finds a key of the shard: it writes until an answer names the shard.
marker() {
	local n answer
	for ((n = 1; n <= 500; n++)); do
		answer=$("$cli" doc put drill "$run-marker-$n" "{\"run\":$run}" -o json)
		if [[ $(objects <<<"$answer" | field shard) == "$shard" ]]; then
			echo "$run-marker-$n"
			return 0
		fi
	done
	die 1 "no key of $shard among 500"
}

# until_works FILE COMMAND … repeats a command until it exits 0 and writes the time since the kill.
until_works() {
	local file=$1 code
	shift
	while :; do
		code=0
		"$@" >"$file.out" 2>"$file.err" || code=$?
		if ((code == 0)); then
			echo $(($(now_ms) - killed_at)) >"$file"
			return 0
		fi
		# Wrong input and missing rights don't get better by waiting.
		if ((code == 2 || code == 4 || $(now_ms) - killed_at >= wait * 1000)); then
			return "$code"
		fi
		pause
	done
}

# compare NAME reads every document back; $work/NAME says what came of it.
compare() { "$cli" load "$work/all.ndjson" --collection drill --verify-only -o json >"$work/$1" || lost=$?; }

equal() { objects <"$work/$1" | field verified; }

code=0
"$cli" cluster health --timeout 10s >"$work/health" 2>&1 || code=$?
((code == 0)) || {
	cat "$work/health" >&2
	note "failover-drill.sh: the cluster is not HEALTHY; a drill would do harm"
	exit "$code"
}
victim=$(primary)
[[ $victim ]] || die 1 "$shard has no primary; look: $cli shard show $shard"
pid=$(pid_of "$dir" "$victim")
[[ $pid ]] || die 1 "$victim leads $shard and is no process below $dir"
key=$(marker)
lines 1 "$documents" >"$work/before.ndjson"
lines $((documents + 1)) $((2 * documents)) >"$work/during.ndjson"
"$cli" load "$work/before.ndjson" --collection drill -o json >"$work/loaded"

"$cli" load "$work/during.ndjson" --collection drill --workers 8 --timeout "${wait}s" -o json >"$work/load.out" 2>"$work/load.err" &
loader=$!
kill_hard "$dir" "$victim" # sets killed_at

# One request id for all tries: however many of them arrive, the write has one effect.
until_works "$work/write" "$cli" doc put drill "$key" "{\"run\":$run,\"after\":true}" --request-id "drill-$run" --timeout 5s &
writer=$!
failed=0
until_works "$work/read" "$cli" doc get drill "$key" --timeout 5s || failed=$?
wait "$writer" || failed=$?
wait "$loader" || failed=$?
loader=''
if ((failed)); then
	cat "$work"/*.err >&2
	note "failover-drill.sh: $shard doesn't serve $(seconds $(($(now_ms) - killed_at))) after the kill (exit code $failed); $victim is still down"
	((failed == 1 || failed == 5)) && failed=9
	exit "$failed"
fi
heir=$(primary)
cat "$work/before.ndjson" "$work/during.ndjson" >"$work/all.ndjson"
lost=0
compare without

started_at=$(now_ms)
start_again "$dir"
wait_healthy "$wait"
healthy_at=$(now_ms)
compare with
"$cli" doc get drill "$key" >"$work/marker"
printf '{"run":%s,"after":true}' "$run" | cmp -s - "$work/marker" || lost=1

cat <<REPORT
failover drill of $shard
  killed              $victim, pid $pid
  reads again after   $(seconds "$(<"$work/read")")
  writes again after  $(seconds "$(<"$work/write")")
  primary now         $heir
  documents           $((2 * documents)) acknowledged, half of them during the kill; $(equal without) equal without $victim, $(equal with) with it again
  HEALTHY again       $(seconds $((healthy_at - started_at))) after $victim was started
REPORT
if ((lost)); then
	cat "$work/without" "$work/with" >&2
	die 1 "documents are missing or differ"
fi
