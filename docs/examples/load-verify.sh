#!/usr/bin/env bash
# Loads a file of documents and compares what the cluster then has with the file, byte for byte. With --kill-all it does so
# once more after every process was killed and started again.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

usage() {
	cat <<'USAGE'
usage: load-verify.sh [flags] DIR FILE

Loads FILE, one JSON object a line, each key once, and compares. DIR is a playground or a directory of deploy.sh. FILE - is stdin.

  --collection NAME   the collection (default: the name of the file up to its first dot, or "documents" for stdin)
  --key-field NAME    the field with the key (default: _key)
  --debian            FILE is a Debian package list; each package becomes a document with the key name_version_architecture
  --kill-all          after that: kill -9 every process, start them all, compare again
  --wait SECONDS      how long to wait for HEALTHY (default: 120)
  --help              this text

example: apt-cache dumpavail | load-verify.sh --debian --collection packages --kill-all DIR -

CLI is the path of themis-cli.

Exit code: 0 all equal, 1 a difference, 2 wrong usage, 7 lines that could not be written, 9 gave up waiting;
otherwise the one of themis-cli.
USAGE
}

collection='' key_field=_key debian='' kill_all='' wait=120 args=()
while (($#)); do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--debian) debian=yes ;;
	--kill-all) kill_all=yes ;;
	--*)
		(($# > 1)) || die 2 "$1: needs a value; see --help"
		case $1 in
		--collection) collection=$2 ;;
		--key-field) key_field=$2 ;;
		--wait) wait=$2 ;;
		*) die 2 "unknown flag $1; see --help" ;;
		esac
		shift
		;;
	*) args+=("$1") ;;
	esac
	shift
done
((${#args[@]} == 2)) || {
	usage >&2
	die 2 "want a directory and a file, got ${#args[@]} arguments"
}
dir=${args[0]} file=${args[1]}
need --wait "$wait" 1 86400
if [[ ! $collection ]]; then
	collection=documents
	[[ $file == - ]] || collection=$(basename -- "$file")
	collection=${collection%%.*}
fi
[[ $collection =~ ^[A-Za-z][A-Za-z0-9_.-]{0,127}$ ]] || die 2 "collection '$collection': want a letter, then letters, digits, '_', '.' and '-'; name one with --collection"
have_cli
[[ -d $dir ]] || die 2 "$dir: no such directory"
dir=$(cd -- "$dir" && pwd)
[[ $file == - || -r $file ]] || die 2 "$file: not there or not readable"
use_cluster "$dir"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
lines=$work/$collection.ndjson

# from_debian turns stanzas of "Field: text", separated by empty lines, into JSON objects. A stanza that came already is left out.
from_debian() {
	LC_ALL=C awk '
		function quote(s) {
			gsub(/[\\"]/, "\\\\&", s); gsub(/\t/, "\\t", s); gsub(/\n/, "\\n", s); gsub(/[\001-\037\177]/, " ", s)
			return "\"" s "\""
		}
		function close_field() {
			if (name != "") { body = body "," quote(name) ":" quote(text); value[name] = text }
			name = ""
		}
		function close_stanza(key) {
			close_field()
			if (body != "" && value["Package"] != "") {
				key = value["Package"] "_" value["Version"] "_" value["Architecture"]
				if (!(key in seen)) print "{\"_key\":" quote(key) body "}"
				seen[key] = 1
			}
			body = ""; split("", value)
		}
		/^[ \t]*$/ { close_stanza(); next }
		/^[ \t]/ { text = text "\n" substr($0, 2); next }
		{ close_field(); at = index($0, ":"); if (at > 1) { name = substr($0, 1, at - 1); text = substr($0, at + 1); sub(/^ +/, "", text) } }
		END { close_stanza() }'
}

# stored writes the documents of the collection, a line each, in an order of their bytes. A scan writes key, tab, document, and the
# bytes of a document hold no tab that could come before the key's.
stored() { "$cli" doc scan "$collection" | cut -f 2- | LC_ALL=C sort; }

# compare WHEN ends the script where the collection and the file differ.
compare() {
	local began=$1
	began=$(now_ms)
	stored >"$work/stored"
	if ! cmp -s "$work/wanted" "$work/stored"; then
		LC_ALL=C comm -23 "$work/wanted" "$work/stored" >"$work/missing"
		LC_ALL=C comm -13 "$work/wanted" "$work/stored" >"$work/strange"
		note "only in the file: $(count "$work/missing") lines; the first: $(head -n 1 "$work/missing" | cut -c 1-200)"
		note "only in $collection: $(count "$work/strange") documents; the first: $(head -n 1 "$work/strange" | cut -c 1-200)"
		die 1 "$collection and the file differ $1"
	fi
	echo "$1: $(count "$work/stored") documents equal, byte for byte; read in $(seconds $(($(now_ms) - began)))"
}

count() { wc -l <"$1" | tr -d ' '; }

if [[ $debian ]]; then
	if [[ $file == - ]]; then from_debian; else from_debian <"$file"; fi
else
	if [[ $file == - ]]; then cat; else cat -- "$file"; fi
fi | grep -v '^[[:space:]]*$' >"$lines" || die 2 "$file holds no line"
LC_ALL=C sort "$lines" >"$work/wanted"

code=0
began=$(now_ms)
"$cli" load "$lines" --collection "$collection" --key-field "$key_field" -o json >"$work/loaded" || code=$?
((code == 0)) || {
	cat "$work/loaded" >&2
	exit "$code"
}
echo "loaded: $(count "$lines") documents, $(wc -c <"$lines" | tr -d ' ') bytes, in $(seconds $(($(now_ms) - began)))"
compare "after the load"
if [[ $kill_all ]]; then
	# shellcheck disable=SC2046 # node ids are DNS labels
	kill_hard "$dir" $(node_ids "$dir")
	began=$(now_ms)
	start_again "$dir"
	wait_healthy "$wait"
	echo "started: HEALTHY after $(seconds $(($(now_ms) - began)))"
	compare "after the crash"
fi
