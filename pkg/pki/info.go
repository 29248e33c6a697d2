package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Kind tells nodes from clients.
type Kind string

// The kinds of holders.
const (
	KindNode   Kind = "node"
	KindClient Kind = "client"
)

// Info is what a certificate says about its holder. It is only worth the chain that was verified with it.
type Info struct {
	Kind         Kind             `json:"kind"`
	Node         themis.NodeID    `json:"node,omitempty"`   // nodes only: a client never has one, whatever its name is
	Client       string           `json:"client,omitempty"` // clients only
	Cluster      string           `json:"cluster"`
	ClusterID    themis.ClusterID `json:"cluster_id,omitempty"` // empty where it wasn't known when the certificate was made
	Shard        themis.ShardID   `json:"shard,omitempty"`      // canonical; empty: not bound to one shard
	ShardText    string           `json:"shard_text"`           // as it stands in the certificate: 001, shard_001, *
	Datacenter   string           `json:"datacenter"`
	Rack         string           `json:"rack"`
	TokenStart   themis.Token     `json:"token_range_start"`
	TokenEnd     themis.Token     `json:"token_range_end"` // inclusive
	Capabilities []string         `json:"capabilities"`
	Role         string           `json:"role"`
	Serial       string           `json:"serial"` // hexadecimal, upper case, as openssl prints it
	NotBefore    time.Time        `json:"not_before"`
	NotAfter     time.Time        `json:"not_after"`
	Fingerprint  string           `json:"fingerprint"` // of the key, see Fingerprint
}

// Name is the node or the client.
func (i Info) Name() string {
	if i.Kind == KindClient {
		return i.Client
	}
	return string(i.Node)
}

func (i Info) String() string { return string(i.Kind) + " " + i.Name() + " of cluster " + i.Cluster }

// Has answers whether the certificate grants the capability.
func (i Info) Has(capability string) bool { return slices.Contains(i.Capabilities, capability) }

// operations lists, for each operation, the capabilities of which one is enough (PKI-11). An empty list: any certificate of the
// cluster. Rpcs that replicate ask for Has(Replicate) instead of this table's "replicate", which lets write do (C-06).
var operations = map[string][]string{
	"read":    {Read},
	"write":   {Write},
	"migrate": {Admin},

	"replicate":      {Replicate, Write},
	"append_entries": {Replicate},
	"request_vote":   {Replicate},

	"prepare": {Write},
	"commit":  {Write},
	"abort":   {Write},

	"status": {},
	"health": {},
	"gossip": {},
}

// May answers whether the certificate allows the operation. One that is not in the table is denied.
func (i Info) May(operation string) bool {
	enough, known := operations[operation]
	return known && (len(enough) == 0 || slices.ContainsFunc(enough, i.Has))
}

// ParseInfo reads the seven extensions and the names of a certificate. A missing or malformed extension is an ErrExtension
// that names it. It does not verify the certificate.
func ParseInfo(cert *x509.Certificate) (Info, error) {
	id, err := decodeIdentity(cert.Extensions)
	if err != nil {
		return Info{}, err
	}
	info := Info{
		ShardText: id.shard, Datacenter: id.datacenter, Rack: id.rack, TokenStart: id.start, TokenEnd: id.end,
		Capabilities: id.capabilities, Role: id.role,
		Serial: serialText(cert), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Fingerprint: Fingerprint(cert),
	}
	if id.shard != AnyShard {
		if info.Shard, err = themis.ParseShardID(id.shard); err != nil {
			return Info{}, extensionError(1, "%v", err)
		}
	}
	urns, err := parseURNs(cert.URIs)
	if err != nil {
		return Info{}, err
	}
	if err := info.named(urns, cert); err != nil {
		return Info{}, fmt.Errorf("certificate names: %w", err)
	}
	return info, nil
}

// named fills in who the holder is.
func (i *Info) named(u urns, cert *x509.Certificate) error {
	if u.cluster == "" {
		return fmt.Errorf("no URI urn:themis:node:<cluster>:<node>, urn:themis:client:<cluster>:<name> or urn:themis:shard:<cluster>:<shard>: it names no cluster")
	}
	if u.shard != "" && u.shard != i.Shard {
		return fmt.Errorf("the URI is of %s, the extension shardId says %q", u.shard, i.ShardText)
	}
	i.Cluster, i.ClusterID = u.cluster, u.clusterID
	switch {
	case u.node != "" && u.client != "":
		return fmt.Errorf("both node %s and client %s", u.node, u.client)
	case u.client != "":
		i.Kind, i.Client = KindClient, u.client
	case u.node != "":
		i.Kind, i.Node = KindNode, u.node
	default:
		node, rest, _ := strings.Cut(cert.Subject.CommonName, ".")
		if themis.CheckNode(node) != nil || rest != i.Datacenter+"."+localZone {
			return fmt.Errorf("no URI urn:themis:node:%s:<node>, and common name %q is not <node>.%s.%s", i.Cluster, cert.Subject.CommonName, i.Datacenter, localZone)
		}
		i.Kind, i.Node = KindNode, themis.NodeID(node)
	}
	return nil
}

// urns is what the URIs of a certificate say.
type urns struct {
	cluster   string
	clusterID themis.ClusterID
	node      themis.NodeID
	client    string
	shard     themis.ShardID
}

// parseURNs reads the urn:themis URIs; others are passed over, and so are kinds that later versions may add.
func parseURNs(uris []*url.URL) (u urns, err error) {
	seen := map[string]bool{}
	for _, uri := range uris {
		if uri.Scheme != "urn" || !strings.HasPrefix(uri.Opaque, "themis:") {
			continue
		}
		parts := strings.Split(uri.Opaque, ":")
		want := 4
		switch parts[1] {
		case "node", "client", "shard":
		case "cluster":
			want = 3
		default:
			continue
		}
		if len(parts) != want || uri.RawQuery != "" || uri.Fragment != "" || uri.ForceQuery {
			return u, fmt.Errorf("certificate URI %q: want %d parts with colons between", uri, want+1)
		}
		if seen[parts[1]] {
			return u, fmt.Errorf("certificate URI %q: a second one of its kind", uri)
		}
		seen[parts[1]] = true
		if err := u.set(parts); err != nil {
			return u, fmt.Errorf("certificate URI %q: %w", uri, err)
		}
	}
	return u, nil
}

func (u *urns) set(parts []string) error {
	if parts[1] == "cluster" {
		if !clusterID.MatchString(parts[2]) {
			return fmt.Errorf("not a cluster id")
		}
		u.clusterID = themis.ClusterID(parts[2])
		return nil
	}
	if err := CheckCluster(parts[2]); err != nil {
		return err
	}
	if u.cluster != "" && u.cluster != parts[2] {
		return fmt.Errorf("cluster %s, another URI says %s", parts[2], u.cluster)
	}
	u.cluster = parts[2]
	var err error
	switch name := parts[3]; parts[1] {
	case "node":
		u.node, err = themis.NodeID(name), themis.CheckNode(name)
	case "client":
		u.client, err = name, checkClient(name)
	case "shard":
		u.shard, err = themis.ParseShardID(name)
	}
	return err
}

// PeerInfo is the Info of the other side of a connection that one of this room's configurations has verified.
// Without a certificate it is UNAUTHENTICATED.
func PeerInfo(cs tls.ConnectionState) (Info, error) {
	if len(cs.PeerCertificates) == 0 {
		return Info{}, themis.Errorf(themis.Unauthenticated, "Client certificate required").
			Do("present a certificate of this cluster's CA: --cacert, --cert, --key")
	}
	return ParseInfo(cs.PeerCertificates[0])
}

func serialText(cert *x509.Certificate) string {
	if cert.SerialNumber == nil {
		return ""
	}
	return fmt.Sprintf("%X", cert.SerialNumber.Bytes())
}
