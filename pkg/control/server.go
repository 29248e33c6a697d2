package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// ServerOptions say how to run a member of the embedded etcd.
type ServerOptions struct {
	Name    string           // the node's id
	Dir     string           // its control directory; made with mode 0700. Beside it stands the marker, Dir + ".member"
	Cluster themis.ClusterID // keeps members of different clusters apart

	PeerURL, ClientURL string            // https://ip:port with ports below 32768; both are listened on, and told to others
	InitialCluster     map[string]string // peer URLs by name, with this member's own
	Existing           bool              // join a running cluster as the learner that AddLearner prepared

	CertFile, KeyFile, CAFile string // PEM; for both ports, and as client to the other members
	AllowedHostname           string // a DNS name that only node certificates carry; required on both ports

	Tick, Election time.Duration // default 100 ms and 1 s; on a fast network 50 ms and 500 ms, never less on busy hosts
	QuotaBytes     int64         // default 2 GiB; 8 GiB is the most that is advised

	Logger  *slog.Logger
	OnFatal func(reason string) // told before etcd ends the process; must return soon
	// OnRefuse hears of every handshake that failed on a port, control_peer or control_client; must return soon.
	OnRefuse func(port string, err error)

	Stays func(name string) bool // whether another member is thought to run on, and may be given the leadership at Stop; nil: all are

	noFsync bool // for tests, which lose nothing with the power
}

// Server is a running member of the embedded etcd.
type Server struct {
	o       ServerOptions
	etcd    *embed.Etcd
	lock    *lock
	tls     transport.TLSInfo
	scratch string // holds the socket where Dir's path is too long for one; else empty

	ready    chan struct{}
	done     chan struct{}
	running  context.Context // ends when Stop begins
	stop     context.CancelFunc
	stopOnce sync.Once
	stopErr  error
	waiting  sync.WaitGroup

	mu    sync.Mutex
	err   error
	admin *clientv3.Client // asks all members; made when first needed
}

// ErrStopped is why a member ended that nobody told to: it was removed from the cluster, or it broke.
var ErrStopped = errors.New("the control-plane member has stopped")

const (
	ephemeralPorts  = 32768
	socketPathLimit = 100
	quotaDefault    = 2 << 30
	retention       = "10m"
)

// StartEmbedded starts the member and returns when it serves; a member that joins an existing cluster for the first time is
// returned before that, since it can't serve until it is promoted (see Ready). When ctx ends before it serves, it is stopped.
//
// REFUSED_UNSAFE: the directory belongs to a member whose files are gone. Such a member must be removed and added anew; under
// its old name it would have forgotten what it voted for.
func StartEmbedded(ctx context.Context, o ServerOptions) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make control directory: %w", err)
	}
	l, err := takeLock(filepath.Join(o.Dir, "LOCK"))
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, lock: l, ready: make(chan struct{}), done: make(chan struct{})}
	s.running, s.stop = context.WithCancel(context.Background())
	if err := s.start(ctx); err != nil {
		s.stop()
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	if len(s.o.CertFile) > 0 {
		s.tls = transport.TLSInfo{CertFile: s.o.CertFile, KeyFile: s.o.KeyFile, TrustedCAFile: s.o.CAFile, ClientCertAuth: true, Logger: zap.NewNop()}
		// Members tell each other addresses, and certificates may name hosts alone: the other end, too, is known by the nodes' name.
		s.tls.ServerName = s.o.AllowedHostname
		if s.o.AllowedHostname != "" && guard.On(guard.ControlName) {
			s.tls.AllowedHostnames = []string{s.o.AllowedHostname}
		}
	}
	joining, err := s.guard(ctx)
	if err != nil {
		return err
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	if err := s.mark(memberStarting); err != nil {
		return err
	}
	if s.etcd, err = embed.StartEtcd(cfg); err != nil {
		return fmt.Errorf("start control-plane member %s: %w", s.o.Name, err)
	}
	s.waiting.Go(s.wait)
	s.waiting.Go(s.endSilentPeers)
	if joining {
		return nil
	}
	select {
	case <-s.ready:
		return nil
	case <-s.done:
		return errors.Join(s.Err(), s.Stop())
	case <-ctx.Done():
		err := themis.Errorf(themis.Deadline, "control-plane member %s does not serve: no quorum of %s: %w", s.o.Name, strings.Join(s.peers(), ", "), ctx.Err())
		return errors.Join(err, s.Stop())
	}
}

// wait turns etcd's several channels into two of ours.
func (s *Server) wait() {
	defer close(s.done)
	ready := s.etcd.Server.ReadyNotify()
	for {
		select {
		case <-s.running.Done():
			return
		case <-ready:
			ready = nil
			if err := s.mark(memberServing); err != nil {
				s.fail(err)
				return
			}
			close(s.ready)
		case <-s.etcd.Server.StopNotify():
			s.fail(ErrStopped)
			return
		case err := <-s.etcd.Err():
			if err == nil {
				err = ErrStopped
			}
			s.fail(err)
			return
		}
	}
}

func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = fmt.Errorf("control-plane member %s: %w", s.o.Name, err)
}

// Ready closes when the member serves.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Done closes when the member has ended, by Stop or by itself. Stop must be called in either case.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the member ended by itself; nil while it runs, and after Stop.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stop hands leadership on, stops the member and frees its directory. Watches that clients have open here go on at another
// member. It may be called more than once.
func (s *Server) Stop() error {
	s.stopOnce.Do(func() {
		s.stop()
		s.waiting.Wait()
		s.closeAdmin()
		s.handOn()
		s.etcd.Server.HardStop() // before Close, which would wait for ever for a member that never served
		s.etcd.Close()
		s.stopErr = s.release()
	})
	return s.stopErr
}

// handOn gives leadership to a member that stays, where this one has it. etcd's own way waits for seven seconds for a member that
// is stopping too; here it is tried for a moment, and then the others elect.
func (s *Server) handOn() {
	e := s.etcd.Server
	if e.Leader() != e.MemberID() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Election/2)
	defer cancel()
	for _, m := range e.Cluster().Members() {
		if m.ID == e.MemberID() || m.IsLearner || s.o.Stays != nil && !s.o.Stays(m.Name) {
			continue
		}
		try, cancel := context.WithTimeout(ctx, s.o.Election/4)
		err := e.MoveLeader(try, uint64(e.MemberID()), uint64(m.ID))
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
	}
}

func (s *Server) release() error {
	var err error
	if s.scratch != "" {
		err = os.RemoveAll(s.scratch)
	}
	return errors.Join(err, s.lock.release())
}

// ClientURL is where clients find this member.
func (s *Server) ClientURL() string { return s.o.ClientURL }

// PeerURL is where the other members find this one.
func (s *Server) PeerURL() string { return s.o.PeerURL }

// HTTPSocket is the unix socket on which the member serves /metrics, /health, /livez and /readyz.
func (s *Server) HTTPSocket() string {
	if s.scratch != "" {
		return filepath.Join(s.scratch, "http.sock")
	}
	return filepath.Join(s.o.Dir, "http.sock")
}

func (o *ServerOptions) etcdDir() string { return filepath.Join(o.Dir, "etcd") }

// hasRun says whether the member's log is there.
func (o *ServerOptions) hasRun() bool {
	logs, err := filepath.Glob(filepath.Join(o.etcdDir(), "member", "wal", "*.wal"))
	return err == nil && len(logs) > 0
}

func (s *Server) peers() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.o.InitialCluster)) {
		out = append(out, name+"="+s.o.InitialCluster[name])
	}
	return out
}

// config holds the settings that were measured and tried; each has its reason in DESIGN.md.
func (s *Server) config() (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = s.o.Name, s.o.etcdDir()
	cfg.InitialClusterToken = string(s.o.Cluster)
	cfg.InitialCluster = strings.Join(s.peers(), ",")
	if s.o.Existing {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	peer, err := url.Parse(s.o.PeerURL)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "peer url: %w", err)
	}
	client, err := url.Parse(s.o.ClientURL)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "client url: %w", err)
	}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	if err := s.splitHTTP(cfg); err != nil {
		return nil, err
	}
	if s.o.CertFile != "" {
		cfg.PeerTLSInfo, cfg.ClientTLSInfo = s.tls, s.tls
		// The name that only node certificates carry says more than the address, and costs no DNS question.
		cfg.PeerTLSInfo.SkipClientSANVerify = s.o.AllowedHostname != ""
		cfg.TlsMinVersion = "TLS1.3"
	}
	cfg.TickMs = uint(s.o.Tick.Milliseconds())         //nolint:gosec // checked
	cfg.ElectionMs = uint(s.o.Election.Milliseconds()) //nolint:gosec // checked
	cfg.QuotaBackendBytes, cfg.UnsafeNoFsync = s.o.QuotaBytes, s.o.noFsync
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, retention
	cfg.EnableGRPCGateway, cfg.EnablePprof = false, false
	gate, ok := cfg.ServerFeatureGate.(interface{ Set(string) error })
	if !ok {
		return nil, themis.Errorf(themis.Internal, "this etcd has no feature gates")
	}
	// Not InitialCorruptCheck: members that start together wait 7 s for each other's hashes, which nobody serves yet. The check
	// at every compaction compares the same hashes while all serve.
	if err := gate.Set("CompactHashCheck=true"); err != nil {
		return nil, fmt.Errorf("set etcd features: %w", err)
	}
	info := s.tls
	info.MinVersion = tls.VersionTLS13
	creds, err := s.clientPort(info)
	if err != nil {
		return nil, fmt.Errorf("certificates of the client port: %w", err)
	}
	cfg.GRPCAdditionalServerOptions = append(creds, grpc.ChainStreamInterceptor(endStreams(s.running)))
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(s.o.Logger, s.o.OnFatal, s.o.OnRefuse))
	return cfg, nil
}

// endStreams ends clients' watches when the member is told to stop. Without it the member would wait for them for 5 s and two
// election timeouts. UNAVAILABLE makes a client go on at another member from where it was.
func endStreams(running context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(running, cancel)()
		err := handler(srv, endingStream{stream, ctx})
		if running.Err() != nil {
			return status.Error(codes.Unavailable, "this control-plane member is stopping")
		}
		return err
	}
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }

// splitHTTP moves etcd's HTTP to a unix socket, so that the client port speaks nothing but gRPC: twice the throughput.
func (s *Server) splitHTTP(cfg *embed.Config) error {
	if len(s.HTTPSocket()) > socketPathLimit {
		dir, err := os.MkdirTemp("", "themis-") // mode 0700
		if err != nil {
			return fmt.Errorf("make directory for the control socket: %w", err)
		}
		s.scratch = dir
	}
	cfg.ListenClientHttpUrls = []url.URL{{Scheme: "unix", Path: s.HTTPSocket()}}
	return nil
}

func (o *ServerOptions) check() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Tick <= 0 {
		o.Tick = 100 * time.Millisecond
	}
	if o.Election <= 0 {
		o.Election = 10 * o.Tick
	}
	if o.QuotaBytes <= 0 {
		o.QuotaBytes = quotaDefault
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := themis.CheckNode(o.Name); err != nil {
		errs = append(errs, err)
	}
	if _, err := keysOf(o.Cluster); err != nil {
		errs = append(errs, err)
	}
	if o.Dir == "" {
		fault("dir: empty")
	}
	if o.hasRun() { // etcd goes by what its members know of each other; the one that was moved is told to them (see MoveMember)
		o.InitialCluster = maps.Clone(o.InitialCluster)
		o.InitialCluster[o.Name] = o.PeerURL
	}
	if o.InitialCluster[o.Name] != o.PeerURL {
		fault("initial_cluster: %s=%q, want its peer url %q", o.Name, o.InitialCluster[o.Name], o.PeerURL)
	}
	if o.Election < 5*o.Tick || o.Tick < time.Millisecond {
		fault("election %s: want at least five ticks of %s", o.Election, o.Tick)
	}
	if set := o.CertFile != ""; set != (o.KeyFile != "") || set != (o.CAFile != "") {
		fault("tls: certificate, key and CA belong together")
	}
	if o.AllowedHostname != "" && o.CertFile == "" {
		fault("tls: allowed_hostname without certificates")
	}
	for what, u := range map[string]string{"peer_url": o.PeerURL, "client_url": o.ClientURL} {
		if err := o.checkURL(what, u); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return themis.Errorf(themis.InvalidArgument, "control-plane member: %w", err)
	}
	return nil
}

func (o *ServerOptions) checkURL(what, s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	ip := net.ParseIP(u.Hostname())
	port, err := strconv.Atoi(u.Port())
	scheme := "https"
	if o.CertFile == "" {
		scheme = "http"
	}
	switch {
	case ip == nil || err != nil || port == 0 || u.Scheme != scheme:
		return fmt.Errorf("%s %q: want %s://IP:PORT", what, s, scheme)
	case o.CertFile == "" && !ip.IsLoopback():
		return fmt.Errorf("%s %q: without certificates only on a loopback address", what, s)
	case port >= ephemeralPorts:
		o.Logger.Warn("control port lies where the system takes ports for outgoing connections; one below 32768 can't be taken away", "url", s)
	}
	return nil
}
