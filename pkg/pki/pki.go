// Package pki is the cluster's identity: the CA, the certificates of nodes and clients, what they say about their holder,
// and the TLS configurations that believe nobody else.
//
//	CA ──Issue──► certificate ──files──► Source ──ServerConfig, ClientConfig──► handshake ──► Info of the peer, or a Refusal
//	                                       └────Sign──► ballot ──Verify──► anyone who knows the public key
//
// A certificate carries seven extensions below OID 1.2.3.4.5.6.7.8, never critical, because verifiers refuse critical ones
// that they don't know:
//
//	.1 shardId UTF8String   .2 datacenter UTF8String   .3 rack UTF8String   .4 tokenRangeStart INTEGER
//	.5 tokenRangeEnd INTEGER   .6 capabilities UTF8String, comma separated   .7 role UTF8String
//
// and names its holder by URI: urn:themis:node:<cluster>:<node> or urn:themis:client:<cluster>:<name>, never both; with
// urn:themis:shard:<cluster>:<shard> where it is bound to one shard and urn:themis:cluster:<cluster id> where the id was
// known. Certificates made by the OpenSSL script have only the shard's URI; their node is the first label of the common name.
//
// What the room promises:
//   - Every connection is TLS 1.3, verified on both sides at each handshake (chain, times, usage, cluster, revocation, host or
//     node); nothing is resumed. Each refusal is reported with one Reason, a text, and what to do.
//   - A Source follows its files: it looks at most once a second, when it is used, and swaps certificate, key and CAs as one.
//     A set that doesn't fit together is reported by Status and never used; the last good one goes on. A broken certificate
//     does not hold back a new CRL, nor the other way round.
//   - A private key is written with mode 0600 and refused when others may read it.
//   - Files are replaced, never edited.
//
// A Source may be used by any number of goroutines and starts none. A CA is for one goroutine at a time. Times come from the
// clock that is passed in. Errors that operators see are *themis.Error with the field or file, the reason and the next step.
package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// The capabilities (PKI-11).
const (
	Read      = "read"
	Write     = "write"
	Replicate = "replicate"
	Admin     = "admin"
)

// The roles that a certificate can be issued for. Primary and replica are the words of older tools; who is primary is decided
// by the control plane alone, never by a certificate.
const (
	RolePrimary    = "primary"
	RoleReplica    = "replica"
	RoleActive     = "active"
	RoleHotSpare   = "hot_spare"
	RoleController = "controller"
	RoleClient     = "client"
)

// AnyShard is the shardId of a certificate that is not bound to one shard. Nodes serve many.
const AnyShard = "*"

// The default DNS zones of nodes.
const (
	localZone    = "themis.local"
	internalZone = "internal"
)

// NodeName is the DNS name that every node of the cluster carries in its certificate and no client does. A listener that is
// for nodes only, such as the control plane's, demands it.
func NodeName(cluster string) string { return "node." + cluster + ".themis.internal" }

// Fingerprint identifies the key of a certificate: "sha256:" and the hexadecimal SHA-256 of its public key (SPKI). A
// certificate that is renewed with the same key keeps it.
func Fingerprint(cert *x509.Certificate) string { return FingerprintKey(cert.RawSubjectPublicKeyInfo) }

// FingerprintKey is the fingerprint of a public key in PKIX DER.
func FingerprintKey(spki []byte) string {
	sum := sha256.Sum256(spki)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Pin is what a newcomer compares the cluster's CA with at the first contact: the fingerprint of its key.
func Pin(ca *x509.Certificate) string { return Fingerprint(ca) }

var (
	label      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	lowerLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	clientName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)
	roleName   = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	clusterID  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// CheckCluster says why name can't be a cluster's name, or nil. It is a DNS label, because certificates name it.
func CheckCluster(name string) error {
	if !lowerLabel.MatchString(name) {
		return themis.Errorf(themis.InvalidArgument, "cluster %q: want a DNS label: lower-case letters, digits and dashes, at most 63", name)
	}
	return nil
}

func checkClient(name string) error {
	if !clientName.MatchString(name) {
		return themis.Errorf(themis.InvalidArgument, "client %q: want up to 63 letters, digits, dots, dashes, underscores or @, beginning with a letter or digit", name)
	}
	return nil
}

// checkDNS refuses what is no plain host name. Wildcards are no names: one could stand for NodeName.
func checkDNS(name string) error {
	if len(name) > 253 {
		return themis.Errorf(themis.InvalidArgument, "dns name %.64q…: longer than 253 bytes", name)
	}
	for l := range strings.SplitSeq(name, ".") {
		if !label.MatchString(l) {
			return themis.Errorf(themis.InvalidArgument, "dns name %q: want labels of letters, digits and dashes with dots between; no wildcard", name)
		}
	}
	return nil
}
