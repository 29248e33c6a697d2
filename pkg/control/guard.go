package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// lock keeps a second process away from the directory: etcd itself would hang on its own lock for ever.
type lock struct{ f *os.File }

func takeLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor fits
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, themis.Errorf(themis.RefusedUnsafe, "control directory %s: another process uses it", filepath.Dir(path))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &lock{f}, nil
}

func (l *lock) release() error {
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close() // which unlocks
}

// memberState is what the marker says of the member in the directory.
type memberState string

const (
	memberStarting memberState = "starting" // it never served so far
	memberServing  memberState = "member"
)

// marker is the file beside the directory that remembers that a member was there.
type marker struct {
	Format  int              `json:"format"`
	Cluster themis.ClusterID `json:"cluster"`
	Name    string           `json:"name"`
	State   memberState      `json:"state"`
}

func (s *Server) markerFile() string { return filepath.Clean(s.o.Dir) + ".member" }

// guard refuses a directory whose member has lost its files, and says whether this is a first start in a running cluster.
func (s *Server) guard(ctx context.Context) (joining bool, err error) {
	m, err := s.readMarker()
	switch {
	case err != nil:
		return false, err
	case m.State != "" && (m.Cluster != s.o.Cluster || m.Name != s.o.Name):
		return false, themis.Errorf(themis.RefusedUnsafe, "control directory %s: belongs to member %s of cluster %s, not to %s of %s", s.o.Dir, m.Name, m.Cluster, s.o.Name, s.o.Cluster)
	case s.o.hasRun():
		return false, nil
	case m.State == memberServing:
		return false, s.wiped("its files are gone")
	case !s.o.Existing:
		return false, nil
	}
	return true, s.checkExpected(ctx)
}

func (s *Server) wiped(why string) error {
	return themis.Errorf(themis.RefusedUnsafe, "control-plane member %s: %s; with an empty disk it would have forgotten what it voted for", s.o.Name, why).
		Do("themis-cli node remove %s, then themis-cli node join HOST", s.o.Name)
}

func (s *Server) readMarker() (marker, error) {
	var m marker
	b, err := os.ReadFile(s.markerFile())
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read member marker: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Format != 1 || m.State != memberStarting && m.State != memberServing {
		return m, themis.Errorf(themis.Corrupt, "read member marker %s: not in the form this version writes", s.markerFile())
	}
	return m, nil
}

// mark writes the marker; a member that has served once stays one that has.
func (s *Server) mark(state memberState) error {
	old, err := s.readMarker()
	if err != nil {
		return err
	}
	if old.State == memberServing {
		return nil
	}
	b, err := json.Marshal(marker{1, s.o.Cluster, s.o.Name, state})
	if err != nil {
		return fmt.Errorf("encode member marker: %w", err)
	}
	if err := replaceFile(s.markerFile(), b); err != nil {
		return fmt.Errorf("write member marker: %w", err)
	}
	return nil
}

// replaceFile leaves the old or the new content at name, whatever happens, and returns when the new one is on disk.
func replaceFile(name string, b []byte) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const (
	askPeerLimit = 3 * time.Second
	answerMax    = 1 << 20
)

// peerMember is what a member tells of the members on its peer port.
type peerMember struct {
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
	Learner  bool     `json:"isLearner"`
}

// checkExpected asks the running cluster what it knows of this member. An empty directory may only join as a learner that
// has never run: anything else is a member that has lost its files, marker and all.
func (s *Server) checkExpected(ctx context.Context) error {
	members, err := s.askPeers(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m peerMember) bool { return slices.Contains(m.PeerURLs, s.o.PeerURL) })
	switch {
	case i < 0:
		return themis.Errorf(themis.NotFound, "control-plane member %s: the cluster expects no member at %s", s.o.Name, s.o.PeerURL).Do("themis-cli node join HOST")
	case members[i].Name != "":
		return s.wiped("the cluster knows it as a member that has run, but its directory is empty")
	case !members[i].Learner:
		return s.wiped("the cluster counts its vote, but its directory is empty")
	}
	return nil
}

func (s *Server) askPeers(ctx context.Context) ([]peerMember, error) {
	conf, err := s.tls.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}, Timeout: askPeerLimit}
	defer hc.CloseIdleConnections()
	last := errors.New("there is no other member to ask")
	for name, u := range s.o.InitialCluster {
		if name == s.o.Name {
			continue
		}
		members, err := askPeer(ctx, hc, u)
		if err == nil {
			return members, nil
		}
		last = err
	}
	return nil, themis.Errorf(themis.Unreachable, "control-plane member %s: no other member answers: %w", s.o.Name, last)
}

func askPeer(ctx context.Context, hc *http.Client, peerURL string) ([]peerMember, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, peerURL+"/members", nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", peerURL, err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", peerURL, err)
	}
	var members []peerMember
	if err := json.Unmarshal(b, &members); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask %s for its members: status %d", peerURL, resp.StatusCode)
	}
	return members, nil
}
