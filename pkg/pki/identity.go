package pki

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// identityFiles is certificate, key and CAs, read together and found to belong together.
type identityFiles struct {
	key    crypto.Signer
	leaf   *x509.Certificate
	info   Info
	chain  []*x509.Certificate // leaf to root
	cas    []*x509.Certificate
	roots  *x509.CertPool
	client tls.Certificate // leaf and intermediates
	server tls.Certificate // and the CA behind them, for newcomers that know its pin only
}

// readIdentity reads and checks them. before is what is in use, or nil: the holder must stay the same, and a certificate that is
// in use already may have expired, so that it does not hold back new CAs.
func readIdentity(f Files, before *identityFiles, now time.Time) (*identityFiles, error) {
	certPEM, err := readFile("certificate", f.Cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readKey("key", f.Key)
	if err != nil {
		return nil, err
	}
	caPEM, err := readFile("CA certificate", f.CA)
	if err != nil {
		return nil, err
	}
	id := &identityFiles{roots: x509.NewCertPool()}
	if id.client, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "certificate %s and key %s: %w", f.Cert, f.Key, err)
	}
	id.leaf = id.client.Leaf
	if err := checkKey(id.leaf.PublicKey); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "certificate %s: %w", f.Cert, err)
	}
	id.key = id.client.PrivateKey.(crypto.Signer) //nolint:forcetypeassert // both kinds that checkKey lets pass are
	if err := id.readCAs(f.CA, caPEM); err != nil {
		return nil, err
	}
	if id.info, err = ParseInfo(id.leaf); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "certificate %s: %w", f.Cert, err)
	}
	if err := id.checkHolder(f, before); err != nil {
		return nil, err
	}
	inUse := before != nil && before.leaf.Equal(id.leaf)
	if err := id.verifyOwn(f, inUse, now); err != nil {
		return nil, err
	}
	id.server = id.client
	id.server.Certificate = append(id.client.Certificate[:len(id.client.Certificate):len(id.client.Certificate)], id.chain[len(id.chain)-1].Raw)
	return id, nil
}

func (id *identityFiles) readCAs(path string, data []byte) (err error) {
	if id.cas, err = ParseCertificates(data); err != nil {
		return themis.Errorf(themis.InvalidArgument, "CA certificate %s: %w", path, err)
	}
	for _, ca := range id.cas {
		if !isCA(ca) {
			return themis.Errorf(themis.InvalidArgument, "CA certificate %s: %q is not a CA certificate", path, ca.Subject)
		}
		id.roots.AddCert(ca)
	}
	return nil
}

// checkHolder keeps a running process who it is.
func (id *identityFiles) checkHolder(f Files, before *identityFiles) error {
	if before == nil {
		return nil
	}
	was, is := before.info, id.info
	otherID := was.ClusterID != "" && is.ClusterID != "" && was.ClusterID != is.ClusterID
	if was.Kind != is.Kind || was.Name() != is.Name() || was.Cluster != is.Cluster || otherID {
		return themis.Errorf(themis.InvalidArgument, "certificate %s: now of %s, this process runs as %s", f.Cert, is, was).
			Do("put back the certificate of %s, or restart with the new one", was)
	}
	return nil
}

// verifyOwn checks the certificate as a peer would.
func (id *identityFiles) verifyOwn(f Files, inUse bool, now time.Time) error {
	own := &trust{own: id.info, cas: id.cas, roots: id.roots}
	if inUse && now.After(id.leaf.NotAfter) {
		now = id.leaf.NotAfter
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.info.Kind == KindNode {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	certs := []*x509.Certificate{id.leaf}
	for _, der := range id.client.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return themis.Errorf(themis.InvalidArgument, "certificate %s: behind the first: %w", f.Cert, err)
		}
		certs = append(certs, cert)
	}
	for _, usage := range usages {
		chains, refusal := own.chains(certs, usage, now)
		if refusal != nil {
			return themis.Errorf(themis.InvalidArgument, "certificate %s with CA %s: %w", f.Cert, f.CA, refusal).Do("%s", refusal.Err.Fix)
		}
		id.chain = chains[0]
	}
	return nil
}
