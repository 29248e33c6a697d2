package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Request says what a certificate is to say. Exactly one of Node and Client is set; that makes it a node's or a client's.
type Request struct {
	Node   themis.NodeID
	Client string

	Cluster   string           // default: the CA's
	ClusterID themis.ClusterID // optional; peers whose ids differ refuse each other

	Shard        string       // any form ParseShardID takes; default AnyShard
	Datacenter   string       // a DNS label; required for a node
	Rack         string       // optional
	TokenStart   themis.Token // with TokenEnd 0: the whole ring
	TokenEnd     themis.Token
	Capabilities []string // of Read, Write, Replicate, Admin
	Role         string   // of the Role constants; default active for a node, client for a client

	DNS      []string     // further host names; nodes only
	IPs      []netip.Addr // nodes only
	Loopback bool         // localhost, 127.0.0.1 and ::1 as well; nodes only

	Valid     time.Duration    // default one year, or less where the CA ends before
	Algorithm Algorithm        // of the key that Issue makes; default ECDSAP256
	PublicKey crypto.PublicKey // where the holder made its key itself: no private key is returned
}

// Issued is a new certificate.
type Issued struct {
	Cert    *x509.Certificate
	Info    Info
	CertPEM []byte
	KeyPEM  []byte // nil where the request brought its public key
	CAPEM   []byte
}

// Issue signs a certificate for the request, and makes its key unless the request has one.
func (c *CA) Issue(r Request) (*Issued, error) {
	now := c.Now()
	r, err := r.complete(c, now)
	if err != nil {
		return nil, err
	}
	out := &Issued{CAPEM: c.CertPEM()}
	if r.PublicKey == nil {
		key, err := newKey(r.Algorithm)
		if err != nil {
			return nil, err
		}
		if out.KeyPEM, err = encodeKey(key); err != nil {
			return nil, err
		}
		r.PublicKey = key.Public()
	}
	if err := checkKey(r.PublicKey); err != nil {
		return nil, err
	}
	template, err := r.template(now)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.Cert, r.PublicKey, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.name(), err)
	}
	if out.Cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("read back certificate of %s: %w", r.name(), err)
	}
	if out.Info, err = ParseInfo(out.Cert); err != nil {
		return nil, fmt.Errorf("read back certificate of %s: %w", r.name(), err)
	}
	out.CertPEM = encodeCert(out.Cert)
	return out, nil
}

// Save replaces the files that f names; CRL is not touched. The key comes first: a Source that looks in between sees a pair
// that doesn't match and keeps what it has until the certificate follows.
func (i *Issued) Save(f Files) error {
	if i.KeyPEM != nil && f.Key != "" {
		if err := replaceFile(f.Key, i.KeyPEM, 0o600); err != nil {
			return err
		}
	}
	if f.CA != "" {
		if err := replaceFile(f.CA, i.CAPEM, 0o644); err != nil {
			return err
		}
	}
	if f.Cert == "" {
		return nil
	}
	return replaceFile(f.Cert, i.CertPEM, 0o644)
}

// FilesIn are the usual names in a node's pki directory: <name>.crt, <name>.key and ca.crt, without a CRL.
func FilesIn(dir, name string) Files {
	return Files{Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key"), CA: filepath.Join(dir, CACertFile)}
}

func (r Request) name() string {
	if r.Client != "" {
		return r.Client
	}
	return string(r.Node)
}

// complete fills in the defaults and checks every field.
func (r Request) complete(c *CA, now time.Time) (Request, error) {
	if r.Cluster == "" {
		r.Cluster = c.Cluster
	}
	if r.Shard == "" {
		r.Shard = AnyShard
	}
	if r.TokenStart == 0 && r.TokenEnd == 0 {
		r.TokenEnd = math.MaxUint32
	}
	if r.Role == "" {
		r.Role = RoleActive
		if r.Client != "" {
			r.Role = RoleClient
		}
	}
	if r.Valid == 0 {
		r.Valid = min(defaultValid, c.Cert.NotAfter.Sub(now))
	}
	err := r.checkHolder()
	if err == nil {
		err = r.checkIdentity()
	}
	if err == nil {
		err = r.checkNames()
	}
	if err == nil {
		err = r.checkTimes(c.Cert, now)
	}
	return r, err
}

func (r Request) checkHolder() error {
	if err := CheckCluster(r.Cluster); err != nil {
		return err
	}
	if r.ClusterID != "" && !clusterID.MatchString(string(r.ClusterID)) {
		return themis.Errorf(themis.InvalidArgument, "cluster id %q: want letters, digits, dots, dashes and underscores", r.ClusterID)
	}
	switch {
	case r.Node != "" && r.Client != "":
		return themis.Errorf(themis.InvalidArgument, "node %s and client %s: a certificate is of one of them", r.Node, r.Client)
	case r.Client != "":
		return checkClient(r.Client)
	}
	if err := themis.CheckNode(string(r.Node)); err != nil {
		return err
	}
	if !label.MatchString(r.Datacenter) {
		return themis.Errorf(themis.InvalidArgument, "datacenter %q: want a DNS label: letters, digits and dashes, at most 63", r.Datacenter)
	}
	return nil
}

var (
	capabilities = []string{Read, Write, Replicate, Admin}
	nodeRoles    = []string{RolePrimary, RoleReplica, RoleActive, RoleHotSpare, RoleController}
)

func (r Request) checkIdentity() error {
	if r.Shard != AnyShard {
		if _, err := themis.ParseShardID(r.Shard); err != nil {
			return err
		}
	}
	for _, field := range [...]struct{ name, text string }{{"shard", r.Shard}, {"datacenter", r.Datacenter}, {"rack", r.Rack}} {
		if len(field.text) > maxTextBytes || !printable(field.text) {
			return themis.Errorf(themis.InvalidArgument, "%s %.80q: want at most %d printable bytes", field.name, field.text, maxTextBytes)
		}
	}
	if r.TokenStart > r.TokenEnd {
		return themis.Errorf(themis.InvalidArgument, "token range %d to %d: the start is above the end", r.TokenStart, r.TokenEnd)
	}
	for i, capability := range r.Capabilities {
		if !slices.Contains(capabilities, capability) {
			return themis.Errorf(themis.InvalidArgument, "capability %q: want some of %s", capability, strings.Join(capabilities, ", "))
		}
		if slices.Contains(r.Capabilities[:i], capability) {
			return themis.Errorf(themis.InvalidArgument, "capability %q: named twice", capability)
		}
	}
	switch {
	case r.Client != "" && r.Role != RoleClient:
		return themis.Errorf(themis.InvalidArgument, "role %q: a client has the role %s", r.Role, RoleClient)
	case r.Node != "" && !slices.Contains(nodeRoles, r.Role):
		return themis.Errorf(themis.InvalidArgument, "role %q: want one of %s", r.Role, strings.Join(nodeRoles, ", "))
	}
	return nil
}

// checkNames keeps clients free of host names, and nodes free of the names by which nodes of a cluster know each other.
func (r Request) checkNames() error {
	if r.Client != "" {
		if len(r.DNS) > 0 || len(r.IPs) > 0 || r.Loopback {
			return themis.Errorf(themis.InvalidArgument, "client %s: a client's certificate carries no host names and addresses", r.Client)
		}
		return nil
	}
	for _, name := range r.DNS {
		if err := checkDNS(name); err != nil {
			return err
		}
		if strings.HasSuffix(strings.ToLower(name), ".themis.internal") {
			return themis.Errorf(themis.InvalidArgument, "dns name %q: names below themis.internal are made from the cluster's name", name)
		}
	}
	for _, ip := range r.IPs {
		if !ip.IsValid() || ip.IsUnspecified() || ip.Zone() != "" {
			return themis.Errorf(themis.InvalidArgument, "ip %q: want an address that peers can dial", ip)
		}
	}
	return nil
}

func (r Request) checkTimes(ca *x509.Certificate, now time.Time) error {
	if now.After(ca.NotAfter) || now.Before(ca.NotBefore) {
		return themis.Errorf(themis.InvalidArgument, "the CA is valid from %s to %s, now is %s", stampTime(ca.NotBefore), stampTime(ca.NotAfter), stampTime(now)).
			Do("themis-cli pki init --cluster NAME --dir DIR, and issue the certificates again")
	}
	if r.Valid <= 0 {
		return themis.Errorf(themis.InvalidArgument, "valid %s: want a time above 0", r.Valid)
	}
	if now.Add(r.Valid).After(ca.NotAfter) {
		return themis.Errorf(themis.InvalidArgument, "valid %s: the CA itself ends %s", r.Valid, stampTime(ca.NotAfter))
	}
	return nil
}

func stampTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (r Request) template(now time.Time) (*x509.Certificate, error) {
	exts, err := identity{
		shard: r.Shard, datacenter: r.Datacenter, rack: r.Rack, start: r.TokenStart, end: r.TokenEnd,
		capabilities: r.Capabilities, role: r.Role,
	}.encode()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: r.commonName(), Organization: []string{organization}, OrganizationalUnit: []string{"Sharding"}},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(r.Valid),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		ExtraExtensions:       exts,
	}
	if r.Client != "" {
		t.Subject.OrganizationalUnit = []string{"Clients"}
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		t.URIs = append(t.URIs, urn("client", r.Cluster, r.Client))
	} else {
		t.URIs = append(t.URIs, urn("node", r.Cluster, string(r.Node)))
		t.DNSNames, t.IPAddresses = r.hosts()
	}
	if r.Shard != AnyShard {
		t.URIs = append(t.URIs, urn("shard", r.Cluster, shardURN(r.Shard)))
	}
	if r.ClusterID != "" {
		t.URIs = append(t.URIs, urn("cluster", string(r.ClusterID)))
	}
	return t, nil
}

// shardURN is the number as it was given: 001 for shard_001, as in urn:themis:shard:prod-cluster:001.
func shardURN(shard string) string {
	return strings.TrimLeft(strings.TrimPrefix(strings.ToLower(shard), "shard"), "-_")
}

// commonName is <node>.<dc>.themis.local, or the name alone where that is too long for the field.
func (r Request) commonName() string {
	if r.Client != "" {
		return r.Client
	}
	if cn := r.hostIn(localZone); len(cn) <= maxCommonNameSize {
		return cn
	}
	return string(r.Node)
}

func (r Request) hostIn(zone string) string {
	return string(r.Node) + "." + strings.ToLower(r.Datacenter) + "." + zone
}

// hosts are the names and addresses under which the node may be dialled, each once.
func (r Request) hosts() (names []string, ips []net.IP) {
	names = []string{string(r.Node), r.hostIn(localZone), r.hostIn(internalZone), NodeName(r.Cluster)}
	addrs := r.IPs
	if r.Loopback {
		names = append(names, "localhost")
		addrs = append(addrs[:len(addrs):len(addrs)], netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	}
	for _, name := range r.DNS {
		names = append(names, strings.ToLower(name))
	}
	var unique []string
	for _, name := range names {
		if !slices.Contains(unique, name) {
			unique = append(unique, name)
		}
	}
	for _, addr := range addrs {
		ip := net.IP(addr.Unmap().AsSlice())
		if !slices.ContainsFunc(ips, ip.Equal) {
			ips = append(ips, ip)
		}
	}
	return unique, ips
}

// NewCSR makes a node's key and the request to sign it: the key never leaves the node.
func NewCSR(node themis.NodeID) (keyPEM, csrPEM []byte, err error) {
	if err := themis.CheckNode(string(node)); err != nil {
		return nil, nil, err
	}
	key, err := newKey(ECDSAP256)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(node)}}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request of %s: %w", node, err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	return keyPEM, pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), nil
}

// IssueCSR signs the key of a certificate request. Of the request it takes the key alone, and proof that the sender has it;
// all names, capabilities and extensions come from r. A common name that is another holder's is refused.
func (c *CA) IssueCSR(csrPEM []byte, r Request) (*Issued, error) {
	block, rest := pem.Decode(csrPEM)
	if block == nil || block.Type != pemRequest || len(bytes.TrimSpace(rest)) > 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "csr: want one PEM block of type %s", pemRequest)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "csr: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "csr: not signed by the key in it: %w", err)
	}
	if cn := csr.Subject.CommonName; cn != "" && cn != r.name() && cn != r.commonName() {
		return nil, themis.Errorf(themis.InvalidArgument, "csr: made for %q, asked for %q", cn, r.name())
	}
	r.PublicKey = csr.PublicKey
	return c.Issue(r)
}
