package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Files are the paths of an identity, all PEM. Cert may hold intermediate certificates behind the leaf, CA several CAs (while a CA
// is replaced), CRL a list for each. CRL may be empty: then nothing is revoked.
type Files struct {
	Cert string
	Key  string // mode 0600
	CA   string
	CRL  string
}

// Options of a Source. The zero value is what a node should use.
type Options struct {
	SkipHostname bool // verify_hostname: false. A node that is expected by id is verified all the same
	SkipPeer     bool // verify_peer: false. Outgoing connections believe any server; incoming ones are verified all the same
	// DemandFreshCRL refuses every peer once a revocation list is past its next update. By default the list goes on to count, and
	// Status says that it is out of date: a forgotten timer should not stop a cluster.
	DemandFreshCRL bool

	Now func() time.Time // default time.Now

	// OnRefuse hears of every peer that was refused, OnReload of every read of changed files, with Status.Problem where it failed.
	// They are called from handshakes, many at once, and must not block.
	OnRefuse func(*Refusal)
	OnReload func(Status)
}

const (
	checkEvery = time.Second      // how often a Source in use looks at its files
	retryEvery = 10 * time.Second // how often it reads files again that it could not use, though they have not changed
)

// Source is one process' identity, read from files and kept up with them.
type Source struct {
	files Files
	opts  Options
	now   func() time.Time

	looked  atomic.Int64 // when the files were last looked at, Unix nanoseconds
	loading sync.Mutex   // held by the one that reads the files
	state   atomic.Pointer[state]
}

// state is all that was loaded, swapped whole.
type state struct {
	holder identityFiles
	trust  trust

	strict, lenient *tls.Config // for one incoming connection each

	stamps  [4]stamp  // of the files, taken before they were read
	read    time.Time // when the files were read last
	loaded  time.Time // when something of them was taken into use last
	reloads int
	failed  int
	problem error // of the last read; nil: the files are in use as they are
}

// Open reads an identity: the pair must match, chain to the CA, be valid now, name its cluster, and the key must be nobody
// else's to read. The error names the file and the reason.
func Open(files Files, o Options) (*Source, error) {
	s := &Source{files: files, opts: o, now: o.Now}
	if s.now == nil {
		s.now = time.Now
	}
	now := s.now()
	st, err := s.read(nil, now)
	if err != nil {
		return nil, err
	}
	s.looked.Store(now.UnixNano())
	s.state.Store(st)
	return s, nil
}

// current is the present state; at most once a second it looks whether the files have changed.
func (s *Source) current() *state {
	now := s.now()
	if since := now.UnixNano() - s.looked.Load(); (since < 0 || since >= int64(checkEvery)) && s.loading.TryLock() {
		news := s.look(now, false)
		s.loading.Unlock()
		if news && s.opts.OnReload != nil {
			s.opts.OnReload(s.state.Load().status(s.opts, now))
		}
	}
	return s.state.Load()
}

// Reload reads the files now, changed or not. The error is what Status.Problem says afterwards.
func (s *Source) Reload() error {
	now := s.now()
	s.loading.Lock()
	news := s.look(now, true)
	st := s.state.Load()
	s.loading.Unlock()
	if news && s.opts.OnReload != nil {
		s.opts.OnReload(st.status(s.opts, now))
	}
	return st.problem
}

// look reads the files if they have changed, if the last read had a problem and is some time ago, or by force, and swaps the
// state. It answers whether there is something to report. s.loading is held.
func (s *Source) look(now time.Time, force bool) bool {
	s.looked.Store(now.UnixNano())
	old := s.state.Load()
	changed := s.changed(old)
	again := old.problem != nil && now.Sub(old.read) >= retryEvery
	if !changed && !again && !force {
		return false
	}
	next, err := s.read(old, now)
	next.reloads, next.failed, next.problem = old.reloads, old.failed, err
	news := changed || text(err) != text(old.problem)
	switch {
	case err == nil:
		next.reloads++
	case news:
		next.failed++
	}
	s.state.Store(next)
	return news
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *Source) changed(old *state) bool {
	for i, stamp := range s.stamps() {
		if !stamp.same(old.stamps[i]) {
			return true
		}
	}
	return false
}

func (s *Source) stamps() (out [4]stamp) {
	for i, path := range [4]string{s.files.Cert, s.files.Key, s.files.CA, s.files.CRL} {
		out[i] = stampOf(path)
	}
	return out
}

// read makes the next state of the files. Of certificate, key and CAs on the one hand, and the CRL on the other, what can't be
// used stays as it was in old, and the error says so; without old there is no state then.
func (s *Source) read(old *state, now time.Time) (*state, error) {
	next := &state{stamps: s.stamps(), read: now, loaded: now}
	var before *identityFiles
	if old != nil {
		before = &old.holder
	}
	holder, idErr := readIdentity(s.files, before, now)
	if idErr != nil && old == nil {
		return nil, idErr
	}
	if idErr != nil {
		holder = &old.holder
	}
	next.holder = *holder
	next.trust = trust{own: holder.info, cas: holder.cas, roots: holder.roots, demandFreshCRL: s.opts.DemandFreshCRL}
	list, crlErr := readCRL(s.files.CRL, holder.cas)
	if crlErr != nil && old == nil {
		return nil, crlErr
	}
	if crlErr != nil {
		list = old.trust.crl
	}
	next.trust.crl = list
	if idErr != nil && (crlErr != nil || s.files.CRL == "") {
		next.loaded = old.loaded
	}
	next.strict, next.lenient = s.serverConfig(next, true), s.serverConfig(next, false)
	return next, errors.Join(idErr, crlErr)
}

func readCRL(path string, cas []*x509.Certificate) (*crl, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // nil is the list that revokes nothing
	}
	data, err := readFile("revocation list", path)
	if err != nil {
		return nil, err
	}
	list, err := parseCRL(data, cas)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "revocation list %s: %w", path, err)
	}
	return list, nil
}

// Info is what the present certificate says about this process.
func (s *Source) Info() Info { return s.current().holder.info }

// Certificate is the present certificate.
func (s *Source) Certificate() *x509.Certificate { return s.current().holder.leaf }

// PublicKey is the present key's public half in PKIX DER: what others give to Verify.
func (s *Source) PublicKey() []byte { return s.current().holder.leaf.RawSubjectPublicKeyInfo }

// CAPEM are the CAs that this process trusts: what a newcomer gets.
func (s *Source) CAPEM() []byte {
	var out []byte
	for _, ca := range s.current().holder.cas {
		out = append(out, encodeCert(ca)...)
	}
	return out
}

// Status is how an identity stands; health and `pki show` draw it.
type Status struct {
	Info          Info        `json:"info"`
	Revoked       bool        `json:"revoked"` // this very certificate is on the list; peers refuse it
	CAs           []CAStatus  `json:"cas"`
	CRLs          []CRLStatus `json:"crls"`
	CRLStaleSince time.Time   `json:"crl_stale_since,omitzero"`
	Loaded        time.Time   `json:"loaded"`
	Reloads       int         `json:"reloads"`
	FailedReloads int         `json:"failed_reloads"`
	Problem       string      `json:"problem,omitempty"` // why files that have changed are not in use
	HostnameOff   bool        `json:"hostname_verification_off"`
	PeerOff       bool        `json:"peer_verification_off"`
}

// CAStatus describes one trusted CA.
type CAStatus struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"` // the pin
	NotAfter    time.Time `json:"not_after"`
}

// Status looks at the files, where that is due, and tells how the identity stands.
func (s *Source) Status() Status { return s.current().status(s.opts, s.now()) }

func (st *state) status(opts Options, now time.Time) Status {
	revoked, _ := st.trust.crl.revokedIn(st.holder.chain)
	out := Status{
		Info: st.holder.info, Revoked: revoked != nil, CRLStaleSince: st.trust.crl.staleSince(now),
		Loaded: st.loaded, Reloads: st.reloads, FailedReloads: st.failed, Problem: text(st.problem),
		HostnameOff: opts.SkipHostname, PeerOff: opts.SkipPeer,
	}
	for _, ca := range st.holder.cas {
		out.CAs = append(out.CAs, CAStatus{Subject: ca.Subject.String(), Fingerprint: Fingerprint(ca), NotAfter: ca.NotAfter})
	}
	if st.trust.crl != nil {
		out.CRLs = st.trust.crl.lists
	}
	return out
}
