package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/themisdb/themis/pkg/themis"
)

// Dial says where an etcd is and who asks it.
type Dial struct {
	Endpoints []string                    // host:port, or a URL
	TLS       func() (*tls.Config, error) // asked for each connection; its ServerName, if any, is whom to expect at every endpoint. nil: plain text
	User      string                      // empty: the certificate, or the network, says who asks
	Password  func() (string, error)      // asked each time it is traded for a token; with User only

	Read   bool        // count an endpoint only once it lets this user read: an etcd with users tells its status to those who may not
	OnWait func(error) // hears why no endpoint has answered so far: at once, and then every few seconds
}

const (
	tellEvery = 5 * time.Second // between two words of OnWait
	authLimit = 3 * time.Second // for trading the password for a token, and for Check
	lookLimit = time.Second     // for finding out what is wrong with one endpoint
)

// Connect makes a client of all endpoints and returns once one of them has answered; it tries until ctx ends. UNREACHABLE when
// none answers, with the reason; UNAUTHENTICATED or PERMISSION_DENIED when etcd doesn't let this user in; REFUSED_UNSAFE when the
// etcd that answers is too old.
func Connect(ctx context.Context, d Dial) (*Etcd, error) {
	if len(d.Endpoints) == 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "control endpoints: none given")
	}
	conf := clientv3.Config{
		Endpoints: d.Endpoints, Logger: zap.NewNop(),
		DialKeepAliveTime: keepAlivePing, DialKeepAliveTimeout: keepAliveTimeout,
		DialOptions: []grpc.DialOption{grpc.WithStatsHandler(sentMarker{})},
	}
	if d.TLS != nil {
		conf.DialOptions = append(conf.DialOptions, grpc.WithTransportCredentials(dialing{credentials.NewTLS(nil), d.TLS}))
	}
	if d.User != "" {
		password, err := d.Password()
		if err != nil {
			return nil, err
		}
		conf.Username, conf.Password = d.User, password
		conf.DialTimeout = authLimit // a client with a password asks for its token at once, without it for ever
		conf.DialOptions = append(conf.DialOptions, grpc.WithChainUnaryInterceptor(d.authenticate))
	}
	var told time.Time
	for {
		c, err := clientv3.New(conf)
		if err == nil {
			e := &Etcd{c}
			if err = e.probe(ctx, d, &told); err == nil {
				return e, nil
			}
			err = errors.Join(err, c.Close())
		}
		if refused := d.refused(err); refused != nil {
			return nil, refused
		}
		if err := d.wait(ctx, err, &told); err != nil {
			return nil, err
		}
	}
}

// Check is Connect for a few seconds: what is wrong with each endpoint, or nil.
func Check(ctx context.Context, d Dial) error {
	ctx, cancel := context.WithTimeout(ctx, authLimit)
	defer cancel()
	e, err := Connect(ctx, d)
	if err != nil {
		return err
	}
	return e.Close()
}

// probe waits until one endpoint answers: a new client is returned at once, even when all endpoints are dead.
func (e *Etcd) probe(ctx context.Context, d Dial, told *time.Time) error {
	last := errors.New("not asked yet")
	for {
		for _, ep := range e.c.Endpoints() {
			if ctx.Err() != nil {
				return last
			}
			attempt, cancel := context.WithTimeout(ctx, writeAttempt)
			s, err := e.c.Status(attempt, ep)
			if err == nil && d.Read {
				_, err = e.c.Get(attempt, rootOfAll)
			}
			cancel()
			if err == nil {
				return checkVersion(ep, s.Version)
			}
			if last = fmt.Errorf("%s: %w", ep, err); d.refused(err) != nil {
				return last
			}
		}
		if err := d.wait(ctx, last, told); err != nil {
			return err
		}
	}
}

// wait tells why nothing answers and pauses before the next attempt; when ctx has ended it is that error.
func (d Dial) wait(ctx context.Context, err error, told *time.Time) error {
	if ctx.Err() != nil {
		if _, told := errors.AsType[*themis.Error](err); told {
			return err
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errors.Join(d.look(context.WithoutCancel(ctx)), err)
		}
		return unreachable(d.Endpoints, err)
	}
	if d.OnWait != nil && time.Since(*told) >= tellEvery {
		*told = time.Now()
		d.OnWait(unreachable(d.Endpoints, errors.Join(d.look(ctx), err)))
	}
	pause(ctx, retryPause)
	return nil
}

// refused says why another attempt would end the same way, or nil.
func (d Dial) refused(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return themis.Errorf(themis.Unauthenticated, "control plane at %s: etcd refuses user %q: %w", strings.Join(d.Endpoints, ","), d.User, err).
			Do("correct control.username and control.password_file")
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return themis.Errorf(themis.Unauthenticated, "control plane at %s: etcd asks for a user: %w", strings.Join(d.Endpoints, ","), err).
			Do("set control.username and control.password_file, or control.cert to one whose common name is a user")
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return themis.Errorf(themis.PermissionDenied, "control plane at %s: user %q may not read below %s: %w", strings.Join(d.Endpoints, ","), d.User, rootOfAll, err).
			Do("etcdctl role grant-permission ROLE readwrite %s --prefix", rootOfAll)
	}
	if themis.CodeOf(err) == themis.RefusedUnsafe {
		return err
	}
	return nil
}

// look finds out what is wrong with each endpoint, below gRPC, which tells of failed handshakes only that time has run out.
func (d Dial) look(ctx context.Context) error {
	var faults []error
	for _, ep := range d.Endpoints {
		one, cancel := context.WithTimeout(ctx, lookLimit)
		if err := d.lookAt(one, ep); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", ep, err))
		}
		cancel()
	}
	return errors.Join(faults...)
}

func (d Dial) lookAt(ctx context.Context, ep string) error {
	if _, addr, ok := strings.Cut(ep, "://"); ok {
		ep = addr
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", ep)
	if err != nil || d.TLS == nil {
		if err == nil {
			err = raw.Close()
		}
		return err
	}
	defer func() { _ = raw.Close() }()
	conf, err := d.TLS()
	if err != nil {
		return err
	}
	conf = conf.Clone()
	if host, _, err := net.SplitHostPort(ep); err == nil && conf.ServerName == "" {
		conf.ServerName = host
	}
	conf.NextProtos = []string{"h2"}
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	// Under TLS 1.3 a server that refuses our certificate says so after the handshake; one that is content begins to talk HTTP/2.
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetReadDeadline(end)
	}
	_, err = c.Read(make([]byte, 1))
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return nil
	}
	return err
}
