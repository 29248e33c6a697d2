package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Options say which cluster to examine.
type Options struct {
	Context client.Context // how it is reached
	Cluster string         // the name that it must have; empty: any
	Timeout time.Duration  // for one node's answer; default 5 s
	Between time.Duration  // from the end of the first look to the second; default 1.1 s, less finds no node behind
}

const (
	defaultTimeout = 5 * time.Second
	defaultBetween = staleAfter + 100*time.Millisecond
	atOnce         = 32 // nodes that are asked at the same time
	clockQuestions = 3
)

// Gather asks every member of the cluster, twice, and looks at the certificate that each shows. What one node doesn't tell is in
// its Witness.Err; an error of Gather's own means that no node could be asked who the members are. The evidence that there is
// comes along with it: the certificates that the endpoints show may say why.
func Gather(ctx context.Context, o Options) (Evidence, error) {
	g := &gathering{o: o, timeout: cmp.Or(o.Timeout, defaultTimeout)}
	g.e = Evidence{Cluster: o.Cluster, Began: time.Now()}
	err := g.members(ctx)
	if err == nil {
		err = g.rounds(ctx)
	} else {
		g.endpointsOnly(ctx)
	}
	g.e.Ended = time.Now()
	return g.e, err
}

type gathering struct {
	o       Options
	timeout time.Duration
	e       Evidence
}

// members asks the first endpoint that answers for the map, and lists whom to ask.
func (g *gathering) members(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	c, err := client.New(ctx, client.Options{Endpoints: g.o.Context.Endpoints, Files: g.o.Context.Files(), Timeout: g.timeout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	who := c.Identity()
	g.e.Own = Own{Name: who.String(), Expires: who.NotAfter}
	m, err := c.Map(ctx)
	if err != nil {
		return err
	}
	if g.o.Cluster != "" && m.Cluster != g.o.Cluster {
		return themis.Errorf(themis.InvalidArgument, "--cluster %q: the cluster at %s is %q", g.o.Cluster, strings.Join(g.o.Context.Endpoints, ","), m.Cluster).
			Do("themis-cli context list")
	}
	for _, n := range m.Members {
		g.e.Witnesses = append(g.e.Witnesses, Witness{Node: n.ID, Addr: n.GRPC, Member: true})
	}
	for _, addr := range g.o.Context.Endpoints {
		g.endpoint(ctx, c, addr)
	}
	slices.SortFunc(g.e.Witnesses, func(a, b Witness) int {
		return cmp.Or(natural(string(a.Node), string(b.Node)), strings.Compare(a.Addr, b.Addr))
	})
	return nil
}

// endpoint adds a witness for an endpoint that is no member: a stranger, or a node that was removed. A member is known by its
// address, or by what it says of itself.
func (g *gathering) endpoint(ctx context.Context, c *client.Client, addr string) {
	if slices.ContainsFunc(g.e.Witnesses, func(w Witness) bool { return w.Addr == addr }) {
		return
	}
	d, err := c.Describe(ctx, addr)
	if err != nil {
		g.e.Witnesses = append(g.e.Witnesses, Witness{Addr: addr})
		return
	}
	known := slices.ContainsFunc(g.e.Witnesses, func(w Witness) bool { return w.Node == d.Node && w.Addr == d.GRPC })
	if !known {
		g.e.Witnesses = append(g.e.Witnesses, Witness{Node: d.Node, Addr: addr})
	}
}

// endpointsOnly is what can still be seen where nobody lets us in.
func (g *gathering) endpointsOnly(ctx context.Context) {
	if len(g.e.Witnesses) > 0 {
		return
	}
	for _, addr := range g.o.Context.Endpoints {
		w := Witness{Addr: addr, Err: "it tells nothing to this certificate", Code: themis.Unauthenticated}
		if w.Cert = g.certificate(ctx, addr); w.Cert != nil {
			g.e.Witnesses = append(g.e.Witnesses, w)
		}
	}
}

// rounds asks everybody, waits, and asks everybody again.
func (g *gathering) rounds(ctx context.Context) error {
	g.round(ctx, true)
	if err := pause(ctx, cmp.Or(g.o.Between, defaultBetween)); err != nil {
		return err
	}
	g.round(ctx, false)
	return ctx.Err()
}

func (g *gathering) round(ctx context.Context, first bool) {
	var eg errgroup.Group
	eg.SetLimit(atOnce)
	for i := range g.e.Witnesses {
		w := &g.e.Witnesses[i] // each goroutine has its own
		eg.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, g.timeout)
			defer cancel()
			if first {
				w.Cert = g.certificate(ctx, w.Addr)
			}
			err := g.ask(ctx, w)
			w.Err, w.Code = "", themis.CodeOf(err)
			if err != nil {
				w.Err = err.Error()
			}
			return nil
		})
	}
	_ = eg.Wait() // they return none
}

// ask puts all questions to one node. The client knows that node only, and hears of others with the map: so the map comes last.
func (g *gathering) ask(ctx context.Context, w *Witness) (err error) {
	c, err := client.New(ctx, client.Options{Endpoints: []string{w.Addr}, Files: g.o.Context.Files(), Timeout: g.timeout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	self, err := c.Describe(ctx, w.Addr)
	if err != nil {
		return err
	}
	w.Self, w.SelfAt = &self, time.Now()
	w.Node = cmp.Or(w.Node, self.Node)
	if w.Member && w.Node != self.Node {
		return themis.Errorf(themis.Unauthenticated, "%s answers there instead of %s", self.Node, w.Node)
	}
	var samples []clockSample
	var l Look
	for range clockQuestions {
		asked := time.Now()
		f, err := c.Frame(ctx)
		if err != nil {
			return err
		}
		l = Look{At: time.Now(), Report: f.Report}
		samples = append(samples, clockSample{asked, l.At, f.HLC.Time()})
	}
	if best := clockOf(samples); w.Clock == nil || best.Error < w.Clock.Error {
		w.Clock = best
	}
	m, err := c.Map(ctx)
	if err == nil {
		l.Map = wordOf(m, time.Now())
	}
	w.Looks = append(w.Looks, l)
	return err
}

func wordOf(m *client.Map, at time.Time) *MapWord {
	out := &MapWord{
		At: at, ClusterID: m.ClusterID, Cluster: m.Cluster, Revision: m.Revision, Settings: m.Settings.Version, Controller: m.Controller,
		Shards: append([]cluster.Shard{}, m.Shards...), Members: append([]cluster.Node{}, m.Members...),
	}
	if m.Routing != nil {
		out.Routing = m.Routing.Version()
	}
	return out
}

// certificate looks at what a node shows, without believing it: an expired or foreign one is just what is looked for. Nothing is
// sent over the connection. nil: there is no TLS server.
func (g *gathering) certificate(ctx context.Context, addr string) *Certificate {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	var shown []*x509.Certificate
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   func(cs tls.ConnectionState) error { shown = cs.PeerCertificates; return nil },
	}
	if own, err := tls.LoadX509KeyPair(g.o.Context.Cert, g.o.Context.Key); err == nil {
		config.Certificates = []tls.Certificate{own}
	}
	if host, _, err := net.SplitHostPort(addr); err == nil {
		config.ServerName = host
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close() // it was only looked at
	}
	if len(shown) == 0 {
		return nil
	}
	ca, err := os.ReadFile(g.o.Context.CA)
	if err != nil {
		ca = nil // then it vouches for nobody, which the finding says
	}
	return readCertificate(shown, ca)
}

// readCertificate judges a chain by the CA alone; its dates are the diagnosis' business.
func readCertificate(chain []*x509.Certificate, ca []byte) *Certificate {
	leaf := chain[0]
	out := &Certificate{Subject: leaf.Subject.String(), Serial: strings.ToUpper(leaf.SerialNumber.Text(16)), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC()}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		out.Untrusted = "the CA file holds no certificate"
		return out
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	lived := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: lived, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		out.Untrusted = err.Error()
	}
	return out
}
