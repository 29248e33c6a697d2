# shellcheck shell=bash
# What the example scripts share: messages, time, and the processes of a cluster below one directory. It is sourced, not run.
#
# A directory is a playground's (themis-cli playground --data-dir DIR) or one that deploy.sh made.

cli=${CLI:-themis-cli}

note() { printf '%s\n' "$*" >&2; }

# die CODE TEXT …: 1 failed, 2 wrong usage, 5 unreachable, 9 gave up waiting; the codes of themis-cli.
die() {
	local code=$1
	shift
	note "${0##*/}: $*"
	exit "$code"
}

# need NAME VALUE LOW HIGH: a whole number in that range.
need() {
	[[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] && (($2 >= $3 && $2 <= $4)) || die 2 "$1 '$2': want a number from $3 to $4"
}

have_cli() {
	command -v -- "$cli" >/dev/null || die 2 "$cli: no such program; set CLI to the path of themis-cli"
}

# now_ms is the time in milliseconds; in whole seconds before bash 5.
now_ms() {
	local us=${EPOCHREALTIME:-}
	if [[ $us ]]; then
		us=${us//[!0-9]/}
		echo $((us / 1000))
	else
		echo $(($(date +%s) * 1000))
	fi
}

# seconds MS writes milliseconds as seconds.
seconds() { printf '%d.%02d s' $(($1 / 1000)) $(($1 % 1000 / 10)); }

# pause waits a moment between two tries.
pause() { sleep 0.2 2>/dev/null || sleep 1; }

# use_cluster DIR makes every call of the CLI speak to the cluster below DIR.
use_cluster() {
	unset THEMIS_ENDPOINT THEMIS_CACERT THEMIS_CERT THEMIS_KEY THEMIS_CONTEXT THEMIS_PLAYGROUND
	if [[ -f $1/playground.json ]]; then
		export THEMIS_PLAYGROUND=$1
	elif [[ -f $1/cluster.env ]]; then
		# shellcheck source=/dev/null
		. "$1/cluster.env"
	else
		die 2 "$1: neither a playground nor a directory of deploy.sh; make one: $cli playground --data-dir $1 --detach"
	fi
}

# objects writes every innermost object of a JSON text on a line of its own, so that grep can look into one.
objects() { tr -d '\n' | tr '{}' '\n\n'; }

# field NAME reads text and writes the first value of that name, without quotes.
field() { sed -n 's/.*"'"$1"'"[[:space:]]*:[[:space:]]*"\{0,1\}\([^",}]*\).*/\1/p' | head -n 1; }

# node_ids DIR lists the nodes that are processes below DIR.
node_ids() {
	if [[ -f $1/playground.json ]]; then
		objects <"$1/playground.json" | grep '"grpc_addr"' | sed 's/.*"id"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/'
	else
		local file
		for file in "$1"/*/themisd.yaml; do basename -- "$(dirname -- "$file")"; done
	fi
}

# pid_of DIR NODE writes the process id of a node that runs, else nothing.
pid_of() {
	local pid='' args
	if [[ -f $1/playground.json ]]; then
		pid=$(objects <"$1/playground.json" | grep "\"id\"[[:space:]]*:[[:space:]]*\"$2\"" | field pid || true)
	elif [[ -f $1/$2/pid ]]; then
		pid=$(<"$1/$2/pid")
	fi
	[[ $pid =~ ^[1-9][0-9]*$ ]] || return 0
	# The number of a process that ended may belong to a stranger by now.
	args=$(ps -ww -o args= -p "$pid" 2>/dev/null) || return 0
	if [[ $args == *"$1/$2/"* ]]; then echo "$pid"; fi
}

# kill_hard DIR NODE … ends nodes with kill -9, all at the same time, and waits until they are gone: till then they hold their ports.
kill_hard() {
	local dir=$1 id pid pids=()
	shift
	for id; do
		pid=$(pid_of "$dir" "$id")
		[[ ! $pid ]] || pids+=("$pid")
	done
	((${#pids[@]})) || die 1 "no process of $* runs below $dir"
	kill -9 "${pids[@]}"
	killed_at=$(now_ms)
	for id; do
		while [[ $(pid_of "$dir" "$id") ]]; do pause; done
	done
	note "killed: $*"
}

# start_again DIR starts what doesn't run and leaves the rest alone.
start_again() {
	if [[ -f $1/playground.json ]]; then
		"$cli" playground start --data-dir "$1" >/dev/null
	else
		"$here/deploy.sh" "$1" >/dev/null
	fi
}

# wait_healthy SECONDS asks until the exit code says HEALTHY. A wrong question or a missing right doesn't get better by waiting.
wait_healthy() {
	local deadline code
	deadline=$(($(now_ms) + $1 * 1000))
	while :; do
		code=0
		"$cli" cluster health --timeout 5s >/dev/null 2>&1 || code=$?
		case $code in
		0) return 0 ;;
		2 | 4 | 70 | 130)
			"$cli" cluster health --timeout 5s >&2 || true
			exit "$code"
			;;
		esac
		if (($(now_ms) >= deadline)); then
			"$cli" cluster health --timeout 5s >&2 || true
			die 9 "not HEALTHY after $1 s; look again: $cli cluster health"
		fi
		pause
	done
}
