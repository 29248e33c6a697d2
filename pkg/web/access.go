package web

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

const recheckEvery = time.Second

// peer is what is remembered of the other side of one connection.
type peer struct {
	mu      sync.Mutex
	checked time.Time
	err     error
}

type peerKey struct{}

func withPeer(ctx context.Context) context.Context { return context.WithValue(ctx, peerKey{}, &peer{}) }

// access lets a request through to the routes, or says why not.
func (s *server) access(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.allowed(r)
		if err == nil {
			err = sameOrigin(r)
		}
		if err != nil {
			if themis.CodeOf(err) == themis.Unauthenticated {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			s.fail(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *server) allowed(r *http.Request) error {
	if r.TLS == nil {
		return s.allowedPlain(r)
	}
	info, err := s.caller(r)
	if err != nil {
		return err
	}
	need := pki.Write
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		need = pki.Read
	}
	if !info.Has(need) {
		return themis.Errorf(themis.PermissionDenied, "%s: the certificate of %s lacks the capability %s", r.Method, info.Name(), need).
			Do("use a certificate with the capability %s; themis-cli pki show CERT lists what yours has", need)
	}
	return nil
}

// caller is who asks, by the bearer token that the request carries, else by the certificate of its connection: a proxy may have one of its own.
func (s *server) caller(r *http.Request) (pki.Info, error) {
	const fix = "show a certificate of this cluster's CA (--cacert, --cert, --key), or a token of one: themis-cli pki token"
	if auth := r.Header.Values("Authorization"); len(auth) > 0 {
		scheme, token, _ := strings.Cut(auth[0], " ")
		if len(auth) > 1 || !strings.EqualFold(scheme, "Bearer") || s.CheckBearer == nil {
			return pki.Info{}, themis.Errorf(themis.Unauthenticated, "Authorization %.20q: want Bearer and one token", scheme).Do(fix)
		}
		return s.CheckBearer(strings.TrimSpace(token))
	}
	info, err := pki.PeerInfo(*r.TLS)
	if err != nil {
		return info, themis.Errorf(themis.Unauthenticated, "%w, or a bearer token", err).Do(fix)
	}
	return info, s.recheck(r, info)
}

// recheck looks whether the certificate of an open connection is still good.
func (s *server) recheck(r *http.Request, info pki.Info) error {
	now := time.Now()
	if now.After(info.NotAfter) {
		return themis.Errorf(themis.Unauthenticated, "the certificate of %s ended %s", info.Name(), info.NotAfter.UTC().Format(time.RFC3339))
	}
	p, ok := r.Context().Value(peerKey{}).(*peer)
	if !ok || s.CheckPeer == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checked.IsZero() || now.Sub(p.checked) >= recheckEvery {
		p.checked, p.err = now, s.CheckPeer(*r.TLS)
	}
	return p.err
}

func (s *server) allowedPlain(r *http.Request) error {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !remote.Addr().Unmap().IsLoopback() {
		return themis.Errorf(themis.PermissionDenied, "plain HTTP is served to this machine alone").Do("use https:// with a client certificate: --cacert, --cert, --key")
	}
	if s.PlainLoopback == PlainOff {
		return themis.Errorf(themis.PermissionDenied, "plain HTTP is off (http.plain_loopback: off)").Do("use https:// with a client certificate: --cacert, --cert, --key")
	}
	if !ownHost(r.Host) {
		return themis.Errorf(themis.PermissionDenied, "Host %.100q: plain HTTP is for the hosts 127.0.0.1, [::1] and localhost", r.Host).
			Do("ask by one of these names, or use https:// with a client certificate")
	}
	if s.PlainLoopback == PlainStatus && !isStatus(r) {
		return themis.Errorf(themis.PermissionDenied, "%s %.100s: without TLS only GET of /cluster/*, /healthz, /readyz and /metrics is served (http.plain_loopback: status)", r.Method, r.URL.Path).
			Do("use https:// with a client certificate: --cacert, --cert, --key")
	}
	return nil
}

// ownHost answers whether a browser that resolved this name surely reached this machine by its own wish.
func ownHost(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	switch strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")) {
	case "127.0.0.1", "::1", "localhost":
		return true
	}
	return false
}

func isStatus(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	switch path := r.URL.EscapedPath(); path {
	case "/healthz", "/readyz", "/metrics":
		return true
	default:
		return strings.HasPrefix(path, "/cluster/")
	}
}

// sameOrigin refuses what the page of another site makes a browser send: with the browser's certificate, or to loopback.
func sameOrigin(r *http.Request) error {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	for _, origin := range r.Header.Values("Origin") {
		if !strings.EqualFold(origin, scheme+r.Host) {
			return themis.Errorf(themis.PermissionDenied, "Origin %.100q is not %s: pages of other sites may not ask", origin, scheme+r.Host).Do("ask without an Origin, or from a page of this node")
		}
	}
	var browsers http.CrossOriginProtection // knows Sec-Fetch-Site, too
	if err := browsers.Check(r); err != nil {
		return themis.Errorf(themis.PermissionDenied, "%w", err)
	}
	return nil
}
