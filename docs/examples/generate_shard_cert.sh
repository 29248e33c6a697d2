#!/usr/bin/env bash
# Makes key, certificate request and signed certificate of one shard's node with openssl alone.
# `themis-cli pki issue` does the same without it.
set -euo pipefail

usage() {
	cat <<'USAGE'
usage: generate_shard_cert.sh [flags] SHARD_ID DATACENTER RACK TOKEN_START TOKEN_END

Writes shard-<id>.key, .conf, .csr and .crt into the output directory, signed by ca.crt and ca.key there.
SHARD_ID may be 001, 1, shard-001 or shard_001; the certificate carries it as it was given.

  --cluster NAME         cluster the certificate is for (default: prod-cluster)
  --node NAME            node id (default: shard-<id>)
  --capabilities LIST    of read,write,replicate,admin (default: all four)
  --role ROLE            primary, replica, active, hot_spare or controller (default: primary)
  --ip ADDRESS           IP address of the node; may be repeated
  --dns NAME             further host name; may be repeated
  --days N               validity in days (default: 365)
  --organization TEXT    subject O (default: ThemisDB Cluster)
  --unit TEXT            subject OU (default: Sharding)
  --bits N               size of the RSA key (default: 4096, at least 2048)
  --out DIR              output directory (default: .)
  --ca-cert FILE         default: <output directory>/ca.crt
  --ca-key FILE          default: <output directory>/ca.key

example: generate_shard_cert.sh --ip 10.0.1.10 001 dc1 rack01 0 4294967295
USAGE
}

die() {
	echo "generate_shard_cert.sh: $*" >&2
	exit 2
}

lower() { printf '%s' "$1" | tr '[:upper:]' '[:lower:]'; }

# want FIELD TEXT REGEX: the text goes into an openssl configuration, so nothing is let through that could end its line.
want() {
	[[ $2 =~ ^($3)$ ]] || die "$1 '$2': want $4"
}

cluster=prod-cluster node='' capabilities=read,write,replicate,admin role=primary
days=365 organization='ThemisDB Cluster' unit=Sharding bits=4096 out=. ca_cert='' ca_key=''
ips=() names=() args=()

while (($#)); do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--)
		shift
		args+=("$@")
		break
		;;
	--*)
		(($# > 1)) || die "$1: needs a value; see --help"
		case $1 in
		--cluster) cluster=$2 ;;
		--node) node=$2 ;;
		--capabilities) capabilities=$2 ;;
		--role) role=$2 ;;
		--ip) ips+=("$2") ;;
		--dns) names+=("$2") ;;
		--days) days=$2 ;;
		--organization) organization=$2 ;;
		--unit) unit=$2 ;;
		--bits) bits=$2 ;;
		--out) out=$2 ;;
		--ca-cert) ca_cert=$2 ;;
		--ca-key) ca_key=$2 ;;
		*) die "unknown flag $1; see --help" ;;
		esac
		shift 2
		;;
	*)
		args+=("$1")
		shift
		;;
	esac
done

if ((${#args[@]} != 5)); then
	usage >&2
	die "want 5 arguments, got ${#args[@]}"
fi
shard=${args[0]} datacenter=${args[1]} rack=${args[2]} token_start=${args[3]} token_end=${args[4]}

dns_label='[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
want SHARD_ID "$shard" '(shard)?[-_]?0*[1-9][0-9]{0,8}' 'shard-N, shard_N or N, with N at least 1'
want DATACENTER "$datacenter" "$dns_label" 'a DNS label'
want RACK "$rack" '[A-Za-z0-9._-]{1,64}' 'letters, digits, dots, dashes and underscores'
want TOKEN_START "$token_start" '0|[1-9][0-9]{0,9}' 'a number from 0 to 4294967295'
want TOKEN_END "$token_end" '0|[1-9][0-9]{0,9}' 'a number from 0 to 4294967295'
((token_end <= 4294967295)) || die "TOKEN_END $token_end: at most 4294967295"
((token_start <= token_end)) || die "TOKEN_START $token_start: above TOKEN_END $token_end"
id=${shard#shard}
id=${id#[-_]}
node=${node:-shard-$id}
one='(read|write|replicate|admin)'
want --cluster "$cluster" '[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?' 'a DNS label in lower case'
want --node "$node" '[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?' 'a DNS label in lower case'
want --capabilities "$capabilities" "$one(,$one)*" 'some of read,write,replicate,admin with commas between'
want --role "$role" 'primary|replica|active|hot_spare|controller' 'primary, replica, active, hot_spare or controller'
want --days "$days" '[1-9][0-9]{0,4}' 'a number of days'
want --organization "$organization" '[A-Za-z0-9 ._-]{1,64}' 'letters, digits, blanks, dots, dashes and underscores'
want --unit "$unit" '[A-Za-z0-9 ._-]{1,64}' 'letters, digits, blanks, dots, dashes and underscores'
want --bits "$bits" '[1-9][0-9]{3}|1[0-9]{4}' 'a number of bits, at least 2048'
((bits >= 2048)) || die "--bits $bits: at least 2048"
for ip in ${ips[@]+"${ips[@]}"}; do want --ip "$ip" '[0-9A-Fa-f.:]{2,45}' 'an IP address'; done
for name in ${names[@]+"${names[@]}"}; do
	want --dns "$name" "$dns_label(\\.$dns_label)*" 'a host name'
	[[ $(lower "$name") != *.themis.internal ]] || die "--dns '$name': names below themis.internal are made from the cluster's name"
done

ca_cert=${ca_cert:-$out/ca.crt} ca_key=${ca_key:-$out/ca.key} base=shard-$id
[[ $ca_cert == /* ]] || ca_cert=$PWD/$ca_cert
[[ $ca_key == /* ]] || ca_key=$PWD/$ca_key
cd -- "$out"
for file in "$ca_cert" "$ca_key"; do
	[[ -r $file ]] || die "$file: not there or not readable; make the CA first: themis-cli pki ca"
done
zone=$(lower "$datacenter")
common_name=$node.$zone.themis.local
((${#common_name} <= 64)) || common_name=$node

{
	cat <<CONF
[ req ]
default_bits = $bits
prompt = no
default_md = sha256
string_mask = utf8only
distinguished_name = dn
req_extensions = v3_req

[ dn ]
CN = $common_name
O = $organization
OU = $unit

[ v3_req ]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = @alt_names
1.2.3.4.5.6.7.8.1 = ASN1:FORMAT:UTF8,UTF8String:$shard
1.2.3.4.5.6.7.8.2 = ASN1:FORMAT:UTF8,UTF8String:$datacenter
1.2.3.4.5.6.7.8.3 = ASN1:FORMAT:UTF8,UTF8String:$rack
1.2.3.4.5.6.7.8.4 = ASN1:INTEGER:$token_start
1.2.3.4.5.6.7.8.5 = ASN1:INTEGER:$token_end
1.2.3.4.5.6.7.8.6 = ASN1:FORMAT:UTF8,UTF8String:$capabilities
1.2.3.4.5.6.7.8.7 = ASN1:FORMAT:UTF8,UTF8String:$role

[ alt_names ]
DNS.1 = $node
DNS.2 = $node.$zone.themis.local
DNS.3 = $node.$zone.internal
DNS.4 = node.$cluster.themis.internal
URI.1 = urn:themis:shard:$cluster:$id
URI.2 = urn:themis:node:$cluster:$node
CONF
	n=4
	for name in ${names[@]+"${names[@]}"}; do echo "DNS.$((++n)) = $name"; done
	n=0
	for ip in ${ips[@]+"${ips[@]}"}; do echo "IP.$((++n)) = $ip"; done
} >"$base.conf"

run() {
	openssl "$@" 2>"$base.err" || {
		cat "$base.err" >&2
		rm -f "$base.err"
		echo "generate_shard_cert.sh: openssl $1 failed" >&2
		exit 1
	}
	rm -f "$base.err"
}

(umask 077 && run genrsa -out "$base.key" "$bits")
run req -new -key "$base.key" -out "$base.csr" -config "$base.conf"
run x509 -req -in "$base.csr" -CA "$ca_cert" -CAkey "$ca_key" -CAcreateserial -out "$base.crt" \
	-days "$days" -sha256 -extfile "$base.conf" -extensions v3_req

echo "Generated certificate: $base.crt"
