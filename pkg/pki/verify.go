package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// Reason is why a peer was refused: the label of the metric, one word per row of DESIGN.md.
type Reason string

// The reasons.
const (
	NoCertificate Reason = "no_certificate"
	UnknownCA     Reason = "unknown_ca"
	Expired       Reason = "expired"
	NotYetValid   Reason = "not_yet_valid"
	WrongUsage    Reason = "wrong_usage"
	Invalid       Reason = "invalid" // anything else that is wrong with the chain
	Malformed     Reason = "malformed"
	WrongCluster  Reason = "wrong_cluster"
	Revoked       Reason = "revoked"
	StaleCRL      Reason = "stale_crl"
	WrongNode     Reason = "wrong_node"
	WrongHost     Reason = "wrong_host"
	BadToken      Reason = "bad_token" // a bearer token, whose certificate may be fine
)

// Reasons lists all of them, so that counters can begin at 0.
func Reasons() []Reason {
	return []Reason{NoCertificate, UnknownCA, Expired, NotYetValid, WrongUsage, Invalid, Malformed, WrongCluster, Revoked, StaleCRL, WrongNode, WrongHost, BadToken}
}

// Side is what this process was in the handshake.
type Side string

// The sides.
const (
	ServerSide Side = "server"
	ClientSide Side = "client"
)

// Refusal is a handshake that this process ended because of the peer's certificate. It is an UNAUTHENTICATED *themis.Error.
type Refusal struct {
	Side   Side
	Reason Reason
	Peer   string // who the peer says it is, safe to print; unproven
	Serial string
	Err    *themis.Error
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives the *themis.Error.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(reason Reason, cert *x509.Certificate, fix, format string, args ...any) *Refusal {
	r := &Refusal{Reason: reason}
	text := fmt.Sprintf(format, args...)
	if cert != nil {
		r.Peer, r.Serial = holder(cert), serialText(cert)
		text = fmt.Sprintf("certificate of %s (serial %s) %s", r.Peer, r.Serial, text)
	}
	r.Err = themis.Errorf(themis.Unauthenticated, "%s", text).Do("%s", fix)
	return r
}

// holder names who a certificate says it is of, for texts only.
func holder(cert *x509.Certificate) string {
	if info, err := ParseInfo(cert); err == nil {
		return info.Name()
	}
	return fmt.Sprintf("%.64q", cert.Subject.CommonName)
}

// issueAgain is the command that makes the certificate's holder a new one.
func issueAgain(cert *x509.Certificate) string {
	if info, err := ParseInfo(cert); err == nil && info.Kind == KindClient {
		return "themis-cli pki issue --client " + info.Client
	}
	return "themis-cli pki issue --node " + holder(cert)
}

// trust is what peers are verified against.
type trust struct {
	own   Info
	cas   []*x509.Certificate
	roots *x509.CertPool
	crl   *crl // nil: none configured

	demandFreshCRL bool
}

// verify checks a peer's certificates for a usage; nil means accepted. Who the peer is meant to be comes after it.
func (t *trust) verify(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (Info, *Refusal) {
	if len(certs) == 0 {
		return Info{}, refuse(NoCertificate, nil, "present a certificate of this cluster's CA: --cacert, --cert, --key", "Client certificate required")
	}
	leaf := certs[0]
	chains, refusal := t.chains(certs, usage, now)
	if refusal != nil {
		return Info{}, refusal
	}
	info, err := ParseInfo(leaf)
	if err != nil {
		return Info{}, refuse(Malformed, leaf, "themis-cli pki show CERT", "can't be read: %v", err)
	}
	if info.Cluster != t.own.Cluster && guard.On(guard.PeerCluster) {
		return Info{}, refuse(WrongCluster, leaf, "check which cluster the address belongs to", "is of cluster %s, this one is %s", info.Cluster, t.own.Cluster)
	}
	if info.ClusterID != "" && t.own.ClusterID != "" && info.ClusterID != t.own.ClusterID {
		return Info{}, refuse(WrongCluster, leaf, "check which cluster the address belongs to",
			"is of another cluster named %s: id %s, this one is %s", info.Cluster, info.ClusterID, t.own.ClusterID)
	}
	return info, t.checkRevoked(leaf, chains, now)
}

// checkRevoked wants one chain without a revoked certificate.
func (t *trust) checkRevoked(leaf *x509.Certificate, chains [][]*x509.Certificate, now time.Time) *Refusal {
	if since := t.crl.staleSince(now); t.demandFreshCRL && !since.IsZero() {
		return refuse(StaleCRL, leaf, "put a newer list where pki.crl points",
			"can't be checked: the revocation list of this node is out of date since %s", stampTime(since))
	}
	var revoked *x509.Certificate
	var when time.Time
	for _, chain := range chains {
		cert, since := t.crl.revokedIn(chain)
		if cert == nil {
			return nil
		}
		revoked, when = cert, since
	}
	if revoked.Equal(leaf) {
		return refuse(Revoked, leaf, issueAgain(leaf), "was revoked %s", stampTime(when))
	}
	return refuse(Revoked, leaf, issueAgain(leaf), "is signed by %q, which was revoked %s", revoked.Subject, stampTime(when))
}

// chains verifies signatures, times and usage up to one of the CAs.
func (t *trust) chains(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) ([][]*x509.Certificate, *Refusal) {
	between := x509.NewCertPool()
	for _, cert := range certs[1:] {
		between.AddCert(cert)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err == nil {
		return chains, nil
	}
	if !guard.On(guard.PeerChain) {
		return [][]*x509.Certificate{append(certs[:1:1], t.cas...)}, nil
	}
	return nil, t.explain(certs[0], usage, now, err)
}

// explain turns the verifier's error into a reason and what to do.
func (t *trust) explain(leaf *x509.Certificate, usage x509.ExtKeyUsage, now time.Time, err error) *Refusal {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch invalid.Reason {
		case x509.Expired:
			return outOfTime(leaf, invalid.Cert, now)
		case x509.IncompatibleUsage:
			return refuse(WrongUsage, leaf, issueAgain(leaf),
				"may not be used for %s authentication", map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "server", x509.ExtKeyUsageClientAuth: "client"}[usage])
		}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		return refuse(Invalid, leaf, "themis-cli pki show CERT", "is not valid: %v", err)
	}
	return refuse(UnknownCA, leaf, "check which cluster the address, the certificate and the CA file belong to: themis-cli pki show FILE",
		"is signed by %.200q, which is no CA of cluster %s, whose CA file it is checked by here", leaf.Issuer, t.own.Cluster)
}

// outOfTime says how far outside its time cert is: the leaf itself or the CA that signed it.
func outOfTime(leaf, cert *x509.Certificate, now time.Time) *Refusal {
	subject, fix := "", "themis-cli pki renew "+holder(leaf)+".crt"
	if !cert.Equal(leaf) {
		subject, fix = "is signed by a CA that ", "themis-cli pki init --cluster NAME --dir DIR, and issue the certificates again"
	}
	if now.Before(cert.NotBefore) {
		return refuse(NotYetValid, leaf, "compare the clocks of both machines", "%sis valid from %s, %s from now",
			subject, stampTime(cert.NotBefore), cert.NotBefore.Sub(now).Round(time.Second))
	}
	return refuse(Expired, leaf, fix, "%sexpired %s, %s ago", subject, stampTime(cert.NotAfter), now.Sub(cert.NotAfter).Round(time.Second))
}
