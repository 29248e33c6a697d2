package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// protocols are what our listeners speak. They stand in the configuration of each connection, too: what a server library
// adds to the outer one does not reach it.
var protocols = []string{"h2", "http/1.1"}

// ServerConfig is for listeners where every peer has a certificate of this cluster. It follows the files.
//
// Go verifies client certificates before VerifyConnection and tells nobody why it refused one. So the configuration of each
// connection, which nobody else gets hold of, asks for a certificate and leaves the whole verification, absence included, to
// VerifyConnection, where every refusal is reported. The outer one says, and alone would do, the same in Go's own terms.
func (s *Source) ServerConfig() *tls.Config {
	return s.outerConfig(tls.RequireAndVerifyClientCert, func(st *state) *tls.Config { return st.strict })
}

// OptionalServerConfig is ServerConfig for listeners where a peer may come without a certificate: to join with a token, or to
// show a token with each request (CheckBearer). One that is presented is verified as ever. Handlers ask PeerInfo who is there.
func (s *Source) OptionalServerConfig() *tls.Config {
	return s.outerConfig(tls.VerifyClientCertIfGiven, func(st *state) *tls.Config { return st.lenient })
}

func (s *Source) outerConfig(auth tls.ClientAuthType, inner func(*state) *tls.Config) *tls.Config {
	c := inner(s.current()).Clone()
	c.ClientAuth = auth
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return inner(s.current()), nil }
	return c
}

// serverConfig is for incoming connections while st is in use.
func (s *Source) serverConfig(st *state, demand bool) *tls.Config {
	server := st.holder.server
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &server, nil },
		ClientAuth:             tls.RequestClientCert,
		ClientCAs:              st.holder.roots,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		Time:                   s.now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 && !demand {
				return nil
			}
			_, refusal := st.trust.verify(cs.PeerCertificates, x509.ExtKeyUsageClientAuth, s.now())
			return s.report(refusal, ServerSide)
		},
	}
}

// report tells the observer, and turns no refusal into no error.
func (s *Source) report(r *Refusal, side Side) error {
	if r == nil {
		return nil
	}
	r.Side = side
	if s.opts.OnRefuse != nil {
		s.opts.OnRefuse(r)
	}
	return r
}

// ClientConfig is for connections to one server: the node, where node is given, whatever its address; else whoever proves to
// be host, a DNS name or IP address without a port. With neither, the name that the TLS library was told to dial counts, which
// is none for an IP address, so give host. The configuration follows the files. It names no protocols: gRPC and HTTP clients add
// those they speak.
func (s *Source) ClientConfig(node themis.NodeID, host string) *tls.Config {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: host,
		Time:       s.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.current().holder.client, nil
		},
		// Go's own verification knows fixed CAs and no revocation; VerifyConnection does all of it, at every handshake.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(cs tls.ConnectionState) error {
			name := host
			if name == "" {
				name = cs.ServerName
			}
			return s.report(s.verifyServer(s.current(), cs.PeerCertificates, node, name), ClientSide)
		},
	}
}

func (s *Source) verifyServer(st *state, certs []*x509.Certificate, node themis.NodeID, host string) *Refusal {
	if s.opts.SkipPeer {
		return nil
	}
	info, refusal := st.trust.verify(certs, x509.ExtKeyUsageServerAuth, s.now())
	switch {
	case refusal != nil:
		return refusal
	case info.Kind != KindNode:
		return notANode(certs[0])
	case node != "" && (info.Node == node || !guard.On(guard.PeerNode)):
		return nil
	case node != "":
		return refuse(WrongNode, certs[0], "themis-cli node list", "answers at %s, where %s should be", orElse(host, "the address"), node)
	case s.opts.SkipHostname:
		return nil
	}
	return verifyHost(certs[0], host)
}

func verifyHost(leaf *x509.Certificate, host string) *Refusal {
	if host == "" {
		return refuse(WrongHost, leaf, "name the host or the node to connect to", "can't be compared with a host: none was named")
	}
	if leaf.VerifyHostname(host) == nil {
		return nil
	}
	names := leaf.DNSNames
	for _, ip := range leaf.IPAddresses {
		names = append(names[:len(names):len(names)], ip.String())
	}
	return refuse(WrongHost, leaf, "dial it by one of these names, or issue a certificate that names "+host,
		"does not name %q but %.300s", host, strings.Join(names, ", "))
}

func notANode(leaf *x509.Certificate) *Refusal {
	return refuse(WrongUsage, leaf, "check the address", "is a client's: a server must be a node")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// CheckPeer verifies the peer of an open connection again, by what is known now: a certificate may have been revoked or have
// expired since the handshake. server says that this process accepted the connection. The refusal is not reported to OnRefuse.
func (s *Source) CheckPeer(cs tls.ConnectionState, server bool) error {
	usage := x509.ExtKeyUsageServerAuth
	if server {
		usage = x509.ExtKeyUsageClientAuth
	}
	if _, refusal := s.current().trust.verify(cs.PeerCertificates, usage, s.now()); refusal != nil {
		return refusal
	}
	return nil
}

// PinnedConfig is for the first contact of a newcomer that has no certificate yet and knows the cluster's CA by its pin
// ("sha256:<64 hexadecimal digits>"): the server must send the CA and prove to be a node under it. now nil is time.Now.
func PinnedConfig(pin string, now func() time.Time) (*tls.Config, error) {
	if digits, ok := strings.CutPrefix(pin, "sha256:"); !ok || !isDigest(digits) {
		return nil, themis.Errorf(themis.InvalidArgument, "CA pin %.80q: want sha256: and 64 hexadecimal digits", pin)
	}
	pin = strings.ToLower(pin)
	if now == nil {
		now = time.Now
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Time:               now,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies against the pin
		VerifyConnection: func(cs tls.ConnectionState) error {
			if refusal := verifyPinned(cs.PeerCertificates, pin, now()); refusal != nil {
				refusal.Side = ClientSide
				return refusal
			}
			return nil
		},
	}, nil
}

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

// verifyPinned finds the CA with the pin among what the server sent, and verifies the server against it alone.
func verifyPinned(certs []*x509.Certificate, pin string, now time.Time) *Refusal {
	if len(certs) == 0 {
		return refuse(NoCertificate, nil, "check the address", "the server presented no certificate")
	}
	for _, ca := range certs[1:] {
		if Fingerprint(ca) != pin || !isCA(ca) {
			continue
		}
		t := &trust{cas: []*x509.Certificate{ca}, roots: x509.NewCertPool()}
		t.roots.AddCert(ca)
		if _, refusal := t.chains(certs, x509.ExtKeyUsageServerAuth, now); refusal != nil {
			return refusal
		}
		info, err := ParseInfo(certs[0])
		if err != nil {
			return refuse(Malformed, certs[0], "check the address", "can't be read: %v", err)
		}
		if info.Kind != KindNode {
			return notANode(certs[0])
		}
		return nil
	}
	return refuse(UnknownCA, certs[0], "check the address, and the pin: themis-cli pki show ca.crt", "comes without the CA of pin %s", pin)
}

// PinnedCA is the CA that a connection of PinnedConfig was verified against: what the newcomer will trust.
func PinnedCA(cs tls.ConnectionState, pin string) (*x509.Certificate, error) {
	for _, cert := range cs.PeerCertificates {
		if Fingerprint(cert) == strings.ToLower(pin) && isCA(cert) {
			return cert, nil
		}
	}
	return nil, fmt.Errorf("connection: no CA of pin %s", pin)
}
