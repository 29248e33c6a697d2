#!/usr/bin/env bash
# Makes a cluster out of nothing as an operator would: a CA, certificates, a configuration and a process for each node,
# then the cluster, its settings, and health by exit code. Repeated, it starts what doesn't run and brings the settings into force.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

usage() {
	cat <<'USAGE'
usage: deploy.sh [flags] DIR
       deploy.sh --stop DIR

Makes a cluster of processes on this machine; everything it has is below DIR. DIR/cluster.env names it for themis-cli:
  . DIR/cluster.env && themis-cli cluster health

  --nodes N                nodes (default: 3)
  --shards N               shards (default: 4)
  --replication-factor N   copies of each shard (default: 2)
  --cluster NAME           name of the cluster (default: demo)
  --host ADDRESS           IP address the nodes listen on (default: 127.0.0.1)
  --base-port PORT         first of 5 ports for each node (default: free ones are looked for)
  --settings FILE          settings of the cluster; DIR/settings.yaml becomes a copy of them, which every later run applies
                           (default: DIR/settings.yaml, at first config/sharding/shard-router.yaml beside this script)
  --wait SECONDS           how long to wait for HEALTHY (default: 60)
  --stop                   end the processes of DIR; the data stays
  --help                   this text

CLI is the path of themis-cli and THEMISD that of themisd. Without THEMISD the daemon inside themis-cli runs.

Exit code: 0 HEALTHY, 1 failed, 2 wrong usage or invalid settings, 9 not HEALTHY in time; otherwise the one of themis-cli.
USAGE
}

nodes='' shards='' factor='' cluster=demo host=127.0.0.1 base=0 wait=60 stop='' dir='' settings=''
while (($#)); do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--stop) stop=yes ;;
	--*)
		(($# > 1)) || die 2 "$1: needs a value; see --help"
		case $1 in
		--nodes) nodes=$2 ;;
		--shards) shards=$2 ;;
		--replication-factor) factor=$2 ;;
		--cluster) cluster=$2 ;;
		--host) host=$2 ;;
		--base-port) base=$2 ;;
		--settings) settings=$2 ;;
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
need --nodes "${nodes:-3}" 1 99
need --shards "${shards:-4}" 1 4096
need --replication-factor "${factor:-2}" 1 99
need --base-port "$base" 0 65000
need --wait "$wait" 1 86400
[[ $cluster =~ ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || die 2 "--cluster '$cluster': want a DNS label in lower case"
[[ $host =~ ^[0-9A-Fa-f.:]+$ ]] || die 2 "--host '$host': want an IP address"
if [[ ! $settings ]]; then
	settings=$dir/settings.yaml
	[[ -e $settings ]] || settings=$here/config/sharding/shard-router.yaml
fi
[[ -r $settings ]] || die 2 "--settings $settings: not there or not readable"
[[ ! -e $dir/playground.json ]] || die 2 "$dir is a playground's; choose another directory"

ports_of_node=5

# free PORT: nobody listens there.
free() { ! (exec 3<>"/dev/tcp/$host/$1") 2>/dev/null; }

# find_ports sets base to the first of enough free ports, below those that systems hand out by themselves.
find_ports() {
	local tries port count=$((nodes * ports_of_node))
	for ((tries = 0; tries < 100; tries++)); do
		base=$((20000 + RANDOM % (12000 - count)))
		for ((port = base; port < base + count; port++)); do
			free "$port" || continue 2
		done
		return 0
	done
	die 1 "no $count free ports in a row; name some with --base-port"
}

# address N I is that of port I of node N, counted from 1 and 0.
address() {
	local port=$((base + ($1 - 1) * ports_of_node + $2))
	if [[ $host == *:* ]]; then echo "[$host]:$port"; else echo "$host:$port"; fi
}

# validate FILE ends the script where a file of settings has faults, and shows them.
validate() {
	local faults code=0
	faults=$("$cli" config validate "$1" 2>&1) || code=$?
	((code == 0)) || {
		note "$faults"
		exit "$code"
	}
}

write_config() {
	local id=node-$1
	mkdir -p -- "$dir/$id"
	cat >"$dir/$id/themisd.yaml" <<CONFIG
node:
  id: $id
  data_dir: "$dir/$id/data"
  grpc_listen: "$(address "$1" 0)"
  http_listen: "$(address "$1" 1)"
  metrics_listen: "$(address "$1" 2)"
control:
  mode: embedded
  peer_listen: "$(address "$1" 3)"
  client_listen: "$(address "$1" 4)"
pki:
  cert: "$dir/pki/$id.crt"
  key: "$dir/pki/$id.key"
  ca: "$dir/pki/ca.crt"
CONFIG
	validate "$dir/$id/themisd.yaml"
}

# prepare makes what a cluster needs before its first process: certificates, configurations, and the file that names it.
prepare() {
	local n endpoints=''
	mkdir -p -- "$dir/pki"
	chmod 700 "$dir"
	if ((base == 0)); then find_ports; fi
	[[ -f $dir/pki/ca.key ]] || "$cli" pki init --cluster "$cluster" --dir "$dir/pki" >/dev/null
	[[ -f $dir/pki/operator.key ]] || "$cli" pki issue --client operator --capabilities read,write,admin --dir "$dir/pki" >/dev/null
	for ((n = 1; n <= nodes; n++)); do
		[[ -f $dir/pki/node-$n.key ]] || "$cli" pki issue --node "node-$n" --ip "$host" --dir "$dir/pki" >/dev/null
		write_config "$n"
		endpoints+=${endpoints:+,}$(address "$n" 0)
	done
	{
		printf 'export THEMIS_ENDPOINT=%q THEMIS_CACERT=%q' "$endpoints" "$dir/pki/ca.crt"
		printf ' THEMIS_CERT=%q THEMIS_KEY=%q\n' "$dir/pki/operator.crt" "$dir/pki/operator.key"
		printf 'DEPLOY_NODES=%q DEPLOY_SHARDS=%q DEPLOY_FACTOR=%q\n' "$nodes" "$shards" "$factor"
	} >"$dir/cluster.env.new"
	mv -- "$dir/cluster.env.new" "$dir/cluster.env"
	note "certificates and configurations of $nodes nodes are in $dir"
}

start_node() {
	local id=$1 pid run=("$cli" node-run)
	if [[ ${THEMISD:-} ]]; then run=("$THEMISD"); fi
	# The daemon takes THEMIS_* for its own settings; those that name a cluster to the CLI are not its business.
	(
		unset THEMIS_ENDPOINT THEMIS_CACERT THEMIS_CERT THEMIS_KEY
		exec nohup "${run[@]}" --config "$dir/$id/themisd.yaml" </dev/null >>"$dir/$id/themisd.log" 2>&1
	) &
	pid=$!
	echo "$pid" >"$dir/$id/pid"
	note "$id started (pid $pid)"
}

# wait_nodes waits until every node answers, and tells which one ended and why.
wait_nodes() {
	local deadline id
	deadline=$(($(now_ms) + wait * 1000))
	until "$cli" node describe --timeout 5s >/dev/null 2>&1; do
		for id in $(node_ids "$dir"); do
			if ! kill -0 "$(<"$dir/$id/pid")" 2>/dev/null; then
				tail -n 5 "$dir/$id/themisd.log" >&2
				die 1 "$id ended; its log: $dir/$id/themisd.log"
			fi
		done
		(($(now_ms) < deadline)) || die 9 "the nodes don't answer after $wait s; their logs: $dir/*/themisd.log"
		pause
	done
}

# stop_all asks every process to end, and waits for it.
stop_all() {
	local id pid deadline
	deadline=$(($(now_ms) + wait * 1000))
	for id in $(node_ids "$dir"); do
		pid=$(pid_of "$dir" "$id")
		[[ $pid ]] || continue
		kill -TERM "$pid"
		while kill -0 "$pid" 2>/dev/null && [[ $(pid_of "$dir" "$id") ]]; do
			(($(now_ms) < deadline)) || die 9 "$id (pid $pid) doesn't end"
			pause
		done
		note "$id stopped"
	done
}

have_cli
if [[ $stop ]]; then
	[[ -f $dir/cluster.env ]] || die 2 "$dir/cluster.env: not there; nothing was deployed here"
	dir=$(cd -- "$dir" && pwd)
	stop_all
	exit 0
fi
# The settings are looked at before anything is made.
validate "$settings"
umask 077
mkdir -p -- "$dir"
dir=$(cd -- "$dir" && pwd)
[[ -f $dir/cluster.env ]] || {
	nodes=${nodes:-3} shards=${shards:-4} factor=${factor:-2}
	prepare
}
use_cluster "$dir"
# A deployment that was begun keeps its size; a repeat need not say it again.
[[ ${nodes:-$DEPLOY_NODES} == "$DEPLOY_NODES" ]] || die 2 "$dir has $DEPLOY_NODES nodes; nothing was changed"
shards=${shards:-$DEPLOY_SHARDS} factor=${factor:-$DEPLOY_FACTOR}
for id in $(node_ids "$dir"); do
	[[ $(pid_of "$dir" "$id") ]] || start_node "$id"
done
wait_nodes
"$cli" cluster init --nodes "$THEMIS_ENDPOINT" --shards "$shards" --replication-factor "$factor" --no-context
"$cli" cluster apply-config "$settings"
[[ $settings -ef $dir/settings.yaml ]] || cp -- "$settings" "$dir/settings.yaml" # what the cluster took
wait_healthy "$wait"
echo "HEALTHY: $("$cli" node list -o json | grep -c '"grpc_addr"') nodes; to use it: . $dir/cluster.env"
