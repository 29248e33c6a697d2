package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// Description is a certificate for people: what `pki show` draws.
type Description struct {
	Subject            string      `json:"subject"`
	Issuer             string      `json:"issuer"`
	Serial             string      `json:"serial"`
	NotBefore          time.Time   `json:"not_before"`
	NotAfter           time.Time   `json:"not_after"`
	CA                 bool        `json:"ca"`
	KeyAlgorithm       string      `json:"key_algorithm"`
	SignatureAlgorithm string      `json:"signature_algorithm"`
	KeyUsage           []string    `json:"key_usage"`
	ExtendedKeyUsage   []string    `json:"extended_key_usage"`
	DNS                []string    `json:"dns"`
	IPs                []string    `json:"ips"`
	URIs               []string    `json:"uris"`
	Fingerprint        string      `json:"fingerprint"`        // of the key; for a CA the pin
	CertificateSHA256  string      `json:"certificate_sha256"` // of the whole certificate
	Extensions         []Extension `json:"extensions"`         // all seven, for a CA those that are there
	Info               *Info       `json:"info"`               // null where the certificate can't serve as an identity
	Problem            string      `json:"problem,omitempty"`  // why it can't
}

// Extension is one of the seven.
type Extension struct {
	OID      string `json:"oid"`
	Name     string `json:"name"`
	Type     string `json:"type"` // UTF8String or INTEGER, as found
	Value    string `json:"value"`
	Present  bool   `json:"present"`
	Critical bool   `json:"critical"`
	Problem  string `json:"problem,omitempty"`
}

// Describe reads any certificate; what is wrong with it stands in Problem fields.
func Describe(cert *x509.Certificate) Description {
	sum := sha256.Sum256(cert.Raw)
	d := Description{
		Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Serial: serialText(cert),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), CA: isCA(cert),
		KeyAlgorithm: cert.PublicKeyAlgorithm.String(), SignatureAlgorithm: cert.SignatureAlgorithm.String(),
		KeyUsage: keyUsages(cert.KeyUsage), DNS: cert.DNSNames,
		Fingerprint: Fingerprint(cert), CertificateSHA256: hex.EncodeToString(sum[:]),
	}
	for _, usage := range cert.ExtKeyUsage {
		d.ExtendedKeyUsage = append(d.ExtendedKeyUsage, usage.String())
	}
	for _, oid := range cert.UnknownExtKeyUsage {
		d.ExtendedKeyUsage = append(d.ExtendedKeyUsage, oid.String())
	}
	for _, ip := range cert.IPAddresses {
		d.IPs = append(d.IPs, ip.String())
	}
	for _, uri := range cert.URIs {
		d.URIs = append(d.URIs, uri.String())
	}
	d.Extensions = describeExtensions(cert, d.CA)
	if d.CA {
		return d
	}
	if info, err := ParseInfo(cert); err != nil {
		d.Problem = err.Error()
	} else {
		d.Info = &info
	}
	return d
}

func describeExtensions(cert *x509.Certificate, ca bool) (out []Extension) {
	for i, name := range extensionNames {
		oid := append(arc[:len(arc):len(arc)], i+1)
		e := Extension{OID: oid.String(), Name: name, Problem: "missing"}
		for _, found := range cert.Extensions {
			if found.Id.Equal(oid) {
				e.Present, e.Critical, e.Problem = true, found.Critical, ""
				e.Type, e.Value, e.Problem = describeValue(found.Value)
			}
		}
		if e.Present || !ca {
			out = append(out, e)
		}
	}
	return out
}

// describeValue shows what is there, also where ParseInfo would refuse it.
func describeValue(der []byte) (kind, value, problem string) {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &v)
	if err != nil || v.Class != asn1.ClassUniversal || len(rest) > 0 {
		return "", hex.EncodeToString(der), "no single DER value"
	}
	switch v.Tag {
	case asn1.TagUTF8String:
		if s := string(v.Bytes); printable(s) {
			return "UTF8String", s, ""
		}
		return "UTF8String", fmt.Sprintf("%q", v.Bytes), "unprintable characters"
	case asn1.TagInteger:
		var n *big.Int
		if _, err := asn1.Unmarshal(der, &n); err == nil {
			return "INTEGER", n.String(), ""
		}
	}
	return fmt.Sprintf("ASN.1 tag %d", v.Tag), hex.EncodeToString(v.Bytes), "neither UTF8String nor INTEGER"
}

func keyUsages(u x509.KeyUsage) (out []string) {
	for bit := x509.KeyUsageDigitalSignature; bit <= x509.KeyUsageDecipherOnly; bit <<= 1 {
		if u&bit != 0 {
			out = append(out, strings.ToLower(bit.String()))
		}
	}
	return out
}
