package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// The names of a CA's files in its directory.
const (
	CACertFile = "ca.crt"
	CAKeyFile  = "ca.key"
)

const (
	defaultCAName     = "themis-cluster-ca"
	defaultCAValid    = 10 * 365 * 24 * time.Hour
	defaultValid      = 365 * 24 * time.Hour
	skew              = 5 * time.Minute // certificates begin this much in the past: clocks differ
	organization      = "ThemisDB Cluster"
	maxCommonNameSize = 64
)

// CAOptions is what a new CA is made of.
type CAOptions struct {
	CommonName string           // default themis-cluster-ca
	Cluster    string           // the cluster that certificates are for unless a Request names another; required
	Valid      time.Duration    // default 10 years
	Algorithm  Algorithm        // of the CA's key; default ECDSAP256
	Now        func() time.Time // default time.Now
}

// CA signs certificates and revocation lists.
type CA struct {
	Cert    *x509.Certificate
	Cluster string           // empty when the certificate names none; then every Request must
	Now     func() time.Time // never nil; tests set it

	key crypto.Signer
}

// NewCA makes a self-signed CA.
func NewCA(o CAOptions) (*CA, error) {
	if err := CheckCluster(o.Cluster); err != nil {
		return nil, err
	}
	if o.CommonName == "" {
		o.CommonName = defaultCAName
	}
	if len(o.CommonName) > maxCommonNameSize || !printable(o.CommonName) {
		return nil, themis.Errorf(themis.InvalidArgument, "common name %.80q: want at most %d printable bytes", o.CommonName, maxCommonNameSize)
	}
	if o.Valid == 0 {
		o.Valid = defaultCAValid
	}
	if o.Valid < 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "valid %s: want a time above 0", o.Valid)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	key, err := newKey(o.Algorithm)
	if err != nil {
		return nil, err
	}
	now := o.Now()
	template := &x509.Certificate{
		// The unit keeps CAs of different clusters apart: a TLS client picks its certificate by the issuer's name.
		Subject:               pkix.Name{CommonName: o.CommonName, Organization: []string{organization}, OrganizationalUnit: []string{o.Cluster}},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(o.Valid),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		URIs:                  []*url.URL{caURN(o.Cluster)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back CA certificate: %w", err)
	}
	return &CA{Cert: cert, Cluster: o.Cluster, Now: o.Now, key: key}, nil
}

func urn(parts ...string) *url.URL {
	return &url.URL{Scheme: "urn", Opaque: "themis:" + strings.Join(parts, ":")}
}

func caURN(cluster string) *url.URL { return urn("ca", cluster) }

// CertPEM is the CA's certificate: what every member trusts.
func (c *CA) CertPEM() []byte { return encodeCert(c.Cert) }

// Save writes ca.key (mode 0600) and ca.crt into dir, which is made with mode 0700 where it isn't there. It never overwrites a
// CA key: with it the cluster would lose the power to issue.
func (c *CA) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	key, err := encodeKey(c.key)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, CAKeyFile)
	switch err := createFile(path, key, 0o600); {
	case errors.Is(err, fs.ErrExist):
		return themis.Errorf(themis.RefusedUnsafe, "%s is there already: a CA key is never overwritten", path).
			Do("choose another directory, or move the old CA away")
	case err != nil:
		return err
	}
	return replaceFile(filepath.Join(dir, CACertFile), c.CertPEM(), 0o644)
}

// LoadCA reads what Save wrote.
func LoadCA(dir string) (*CA, error) {
	return LoadCAFiles(filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile))
}

// LoadCAFiles reads a CA from its two files. It reads CAs that openssl made, too.
func LoadCAFiles(certFile, keyFile string) (*CA, error) {
	certPEM, err := readFile("CA certificate", certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readKey("CA key", keyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "CA %s and %s: %w", certFile, keyFile, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !isCA(pair.Leaf) {
		return nil, themis.Errorf(themis.InvalidArgument, "CA %s: %q is not a CA certificate", certFile, pair.Leaf.Subject)
	}
	return &CA{Cert: pair.Leaf, Cluster: caCluster(pair.Leaf), Now: time.Now, key: key}, nil
}

func isCA(cert *x509.Certificate) bool {
	return cert.BasicConstraintsValid && cert.IsCA && (cert.KeyUsage == 0 || cert.KeyUsage&x509.KeyUsageCertSign != 0)
}

// caCluster is the cluster that a CA of NewCA was made for.
func caCluster(cert *x509.Certificate) string {
	for _, uri := range cert.URIs {
		if cluster, ok := strings.CutPrefix(uri.Opaque, "themis:ca:"); ok && uri.Scheme == "urn" && CheckCluster(cluster) == nil {
			return cluster
		}
	}
	return ""
}
