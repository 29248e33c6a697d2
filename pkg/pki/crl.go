package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// defaultCRLValid is how long a new revocation list promises to be fresh.
const defaultCRLValid = 30 * 24 * time.Hour

// CRLStatus describes one loaded revocation list.
type CRLStatus struct {
	Issuer     string    `json:"issuer"`
	Number     string    `json:"number"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"` // zero: the list names none
	Entries    int       `json:"entries"`
}

// crl is the content of a CRL file.
type crl struct {
	revoked map[string]map[string]time.Time // fingerprint of the issuer's key → serial → since when
	lists   []CRLStatus
}

// parseCRL reads one or more lists, PEM or DER. Each must be signed by one of the CAs, and be a complete list: one with a
// critical extension (a delta, a partition) would have to be understood first.
func parseCRL(data []byte, cas []*x509.Certificate) (*crl, error) {
	blocks, err := crlBlocks(data)
	if err != nil {
		return nil, err
	}
	out := &crl{revoked: map[string]map[string]time.Time{}}
	for i, der := range blocks {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", i+1, err)
		}
		for _, e := range list.Extensions {
			if e.Critical {
				return nil, fmt.Errorf("list %d: critical extension %s is not known to this version; want a complete list", i+1, e.Id)
			}
		}
		issuer, err := crlIssuer(list, cas)
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", i+1, err)
		}
		out.add(list, issuer)
	}
	return out, nil
}

func crlBlocks(data []byte) ([][]byte, error) {
	if !bytes.Contains(data, []byte("-----BEGIN")) {
		if len(data) == 0 {
			return nil, errors.New("empty")
		}
		return [][]byte{data}, nil
	}
	var blocks [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type == pemCRL {
			blocks = append(blocks, block.Bytes)
		}
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("no PEM block of type %s", pemCRL)
	}
	return blocks, nil
}

func crlIssuer(list *x509.RevocationList, cas []*x509.Certificate) (*x509.Certificate, error) {
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			return ca, nil
		}
	}
	return nil, fmt.Errorf("issued by %q: not signed by a CA of this cluster", list.Issuer)
}

func (c *crl) add(list *x509.RevocationList, issuer *x509.Certificate) {
	key := Fingerprint(issuer)
	if c.revoked[key] == nil {
		c.revoked[key] = make(map[string]time.Time, len(list.RevokedCertificateEntries))
	}
	for _, e := range list.RevokedCertificateEntries {
		c.revoked[key][e.SerialNumber.String()] = e.RevocationTime
	}
	status := CRLStatus{Issuer: list.Issuer.String(), ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate, Entries: len(list.RevokedCertificateEntries)}
	if list.Number != nil {
		status.Number = list.Number.String()
	}
	c.lists = append(c.lists, status)
}

// revokedIn finds the first revoked certificate of a verified chain. A nil list revokes nothing.
func (c *crl) revokedIn(chain []*x509.Certificate) (cert *x509.Certificate, since time.Time) {
	if c == nil {
		return nil, since
	}
	for i := range len(chain) - 1 {
		if since, ok := c.revoked[Fingerprint(chain[i+1])][chain[i].SerialNumber.String()]; ok {
			return chain[i], since
		}
	}
	return nil, since
}

// staleSince is the time from which on a list is no longer fresh, the zero time while all are.
func (c *crl) staleSince(now time.Time) (since time.Time) {
	if c == nil {
		return since
	}
	for _, l := range c.lists {
		if !l.NextUpdate.IsZero() && now.After(l.NextUpdate) && (since.IsZero() || l.NextUpdate.Before(since)) {
			since = l.NextUpdate
		}
	}
	return since
}

// Revoke makes the CA's next revocation list, in PEM: all of old, which may be nil, and the serials. It is fresh for valid,
// by default 30 days. Without serials it only renews the list.
func (c *CA) Revoke(old []byte, valid time.Duration, serials ...*big.Int) ([]byte, error) {
	if valid == 0 {
		valid = defaultCRLValid
	}
	if valid < 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "valid %s: want a time above 0", valid)
	}
	now := c.Now()
	next := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-skew), NextUpdate: now.Add(valid)}
	if old != nil {
		last, err := c.lastCRL(old)
		if err != nil {
			return nil, err
		}
		if last.Number != nil {
			next.Number.Add(last.Number, big.NewInt(1))
		}
		next.RevokedCertificateEntries = last.RevokedCertificateEntries
	}
	known := map[string]bool{}
	for _, e := range next.RevokedCertificateEntries {
		known[e.SerialNumber.String()] = true
	}
	for _, serial := range serials {
		if serial == nil || serial.Sign() <= 0 {
			return nil, themis.Errorf(themis.InvalidArgument, "serial %v: want a number above 0", serial)
		}
		if !known[serial.String()] {
			known[serial.String()] = true
			next.RevokedCertificateEntries = append(next.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: now})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, next, c.Cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCRL, Bytes: der}), nil
}

// lastCRL reads a list that this CA signed.
func (c *CA) lastCRL(data []byte) (*x509.RevocationList, error) {
	blocks, err := crlBlocks(data)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "old revocation list: %w", err)
	}
	if len(blocks) != 1 {
		return nil, themis.Errorf(themis.InvalidArgument, "old revocation list: %d lists in the file, want this CA's alone", len(blocks))
	}
	list, err := x509.ParseRevocationList(blocks[0])
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "old revocation list: %w", err)
	}
	if err := list.CheckSignatureFrom(c.Cert); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "old revocation list: not signed by this CA: %w", err)
	}
	return list, nil
}
