package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/themisdb/themis/pkg/themis"
)

// Algorithm is the kind of a key.
type Algorithm string

// The algorithms. ECDSA is the default; RSA 4096 is there for sites that demand it.
const (
	ECDSAP256 Algorithm = "ecdsa-p256"
	RSA4096   Algorithm = "rsa-4096"
)

const minRSABits = 2048

// newKey makes a private key. Chance comes from the operating system.
func newKey(a Algorithm) (crypto.Signer, error) {
	switch a {
	case "", ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, themis.Errorf(themis.InvalidArgument, "algorithm %q: want %s or %s", a, ECDSAP256, RSA4096)
}

// checkKey refuses public keys that this room can't verify ballots with, or that are too weak.
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
		return themis.Errorf(themis.InvalidArgument, "ECDSA key on curve %s: want P-256, or RSA of at least %d bits", k.Params().Name, minRSABits)
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSABits {
			return nil
		}
		return themis.Errorf(themis.InvalidArgument, "RSA key of %d bits: want at least %d, or ECDSA P-256", k.N.BitLen(), minRSABits)
	}
	return themis.Errorf(themis.InvalidArgument, "key of type %T: want ECDSA P-256 or RSA of at least %d bits", pub, minRSABits)
}

const (
	pemCert    = "CERTIFICATE"
	pemKey     = "PRIVATE KEY"
	pemRequest = "CERTIFICATE REQUEST"
	pemCRL     = "X509 CRL"
)

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

func encodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: cert.Raw})
}

// ParseCertificates reads every certificate of a PEM file; at least one must be there. Other blocks are passed over.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != pemCert {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("no PEM block of type %s", pemCert)
	}
	return certs, nil
}
