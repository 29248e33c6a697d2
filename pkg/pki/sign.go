package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/themisdb/themis/pkg/themis"
)

// signContext begins every signed message, so that a signature made here is never one of TLS or of a certificate made with
// the same key, nor the other way round.
const signContext = "themis signature v1\x00"

var pss = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}

func signedDigest(msg []byte) []byte {
	h := sha256.New()
	h.Write([]byte(signContext))
	h.Write(msg)
	return h.Sum(nil)
}

// Sign signs msg with the Source's present key: ECDSA P-256 or RSA-PSS, with SHA-256. Two signatures of one message differ.
func (s *Source) Sign(msg []byte) ([]byte, error) { return sign(s.current().holder.key, msg) }

func sign(key crypto.Signer, msg []byte) ([]byte, error) {
	var opts crypto.SignerOpts = crypto.SHA256
	if _, isRSA := key.(*rsa.PrivateKey); isRSA {
		opts = pss
	}
	sig, err := key.Sign(rand.Reader, signedDigest(msg), opts)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig, nil
}

// Verify checks a signature of Sign. der is the signer's public key in PKIX DER, or its certificate in DER; of a certificate
// only the key counts, so whoever calls must know that it is the right one. A wrong signature is UNAUTHENTICATED.
//
// Whoever has one signature of a message can make another from it (ECDSA's s and n - s). What must not be repeated needs a nonce in
// the message; the bytes of the signature identify nothing.
func Verify(der, msg, sig []byte) error {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		cert, certErr := x509.ParseCertificate(der)
		if certErr != nil {
			return themis.Errorf(themis.InvalidArgument, "public key: %w", err)
		}
		pub = cert.PublicKey
	}
	if err := checkKey(pub); err != nil {
		return err
	}
	digest := signedDigest(msg)
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(k, digest, sig) {
			return nil
		}
	case *rsa.PublicKey:
		if rsa.VerifyPSS(k, crypto.SHA256, digest, sig, pss) == nil {
			return nil
		}
	}
	return themis.Errorf(themis.Unauthenticated, "the signature is not of this message by this key")
}
