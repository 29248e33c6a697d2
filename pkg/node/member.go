package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// memberLife waits until the node belongs to a cluster, then lives as its member.
func (n *Node) memberLife(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.member:
	}
	j := n.joined()
	n.log.Info("member of a cluster", "cluster", j.Name, "control", j.ControlMember)
	defer func() {
		if server := n.etcd.Load(); server != nil {
			if err := server.Stop(); err != nil {
				n.log.Warn("control plane did not stop cleanly", "err", err)
			}
		}
	}()
	if j.ControlMember {
		if err := n.beforeControl(ctx, j); err != nil {
			return err
		}
		if err := n.checkAgeBefore(ctx, j); err != nil {
			return err
		}
		server, err := n.startControl(ctx, j)
		if err != nil {
			return err
		}
		n.etcd.Store(server)
	}
	kv, err := n.connectControl(ctx, j)
	if err != nil {
		return err
	}
	defer func() { _ = kv.Close() }()
	m, err := control.NewMap(kv, j.ID, control.Options{TTL: n.cfg.Control.LeaseTTL})
	if err != nil {
		return err
	}
	n.m.Store(m)
	if err := n.checkAge(ctx, m); err != nil {
		return err
	}
	lease, err := n.announce(ctx, m)
	if err != nil {
		return err
	}
	n.lease.Store(lease)
	n.growOlder(ctx, m)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return lease.Run(ctx) })
	g.Go(func() error { return n.watchMap(ctx, m, kv) })
	g.Go(func() error { return n.shards.run(ctx) })
	g.Go(func() error { return n.unused.run(ctx, m) })
	g.Go(func() error { return n.writeEvents(ctx, m) })
	g.Go(func() error { return n.beat(ctx, lease) })
	g.Go(func() error { return n.age(ctx, m) })
	g.Go(func() error { return n.seekControl(ctx, kv) })
	g.Go(func() error { return n.controlPart(ctx, m, kv) })
	return g.Wait()
}

// connectControl returns the client of the control plane that has this node's cluster.
func (n *Node) connectControl(ctx context.Context, j *joined) (*control.Etcd, error) {
	d, err := n.controlDial(j.Name, n.firstEndpoints(ctx, j))
	if err != nil {
		return nil, err
	}
	kv, err := n.connectOrAsk(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("connect to the control plane: %w", err)
	}
	if err := n.checkHeld(ctx, kv, j); err != nil {
		return nil, errors.Join(err, kv.Close())
	}
	return kv, nil
}

func endpointsOf(urls []string) []string {
	var out []string
	for _, u := range urls {
		if p, err := url.Parse(u); err == nil && p.Host != "" {
			u = p.Host
		}
		out = append(out, strings.TrimSuffix(u, "/"))
	}
	return out
}

func (n *Node) startControl(ctx context.Context, j *joined) (*control.Server, error) {
	c := n.cfg.Control
	return control.StartEmbedded(ctx, control.ServerOptions{
		Name: string(n.id.Node), Dir: n.dir("control"), Cluster: j.ID,
		PeerURL: n.controlURL(c.PeerListen), ClientURL: n.controlURL(c.ClientListen),
		InitialCluster: j.InitialCluster, Existing: j.Existing,
		CertFile: n.cfg.PKI.Cert, KeyFile: n.cfg.PKI.Key, CAFile: n.cfg.PKI.CA, AllowedHostname: pki.NodeName(j.Name),
		Tick: c.Tick, Election: c.Election, QuotaBytes: int64(c.QuotaBytes), Logger: n.log,
		Stays: func(name string) bool {
			v, ok := n.latest()
			return ok && v.Stays(themis.NodeID(name))
		},
		OnRefuse: n.refusedByControl,
		OnFatal:  func(reason string) { n.log.Error("control plane is out", "reason", reason) },
	})
}

// controlURL is where a listener of the control plane is reached: an address without a host is on the host of gRPC.
func (n *Node) controlURL(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host != "" {
		return "https://" + addr
	}
	host, _, _ = net.SplitHostPort(n.addr.GRPC)
	if ips, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", host); err == nil && len(ips) > 0 {
		at := max(0, slices.IndexFunc(ips, func(ip netip.Addr) bool { return !ip.IsLoopback() })) // a host's own name may lead to itself as well
		host = ips[at].Unmap().String()
	}
	return "https://" + net.JoinHostPort(host, port)
}

// announce takes the node's lease, and waits for a control plane that is only coming up, and for the lease of a process of this
// name that may still run to end.
func (n *Node) announce(ctx context.Context, m *control.Map) (*control.Lease, error) {
	var lease *control.Lease
	err := n.asking(ctx, "not announced yet", func(ctx context.Context) (final bool, err error) {
		lease, err = m.Heartbeat(ctx, n.alive(), n.mayReplaceProcess(ctx, m))
		return themis.CodeOf(err) == themis.RefusedUnsafe, err
	})
	if err != nil {
		return nil, err
	}
	return lease, n.markAddress()
}

// asking asks the control plane something, 3 s at a time, until it answers, or the answer is final. What stands in the way is logged when it
// is news, and every 10 s.
func (n *Node) asking(ctx context.Context, words string, ask func(context.Context) (final bool, err error)) error {
	var said time.Time
	for last := ""; ; {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		final, err := ask(try)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case final:
			return err
		}
		if now := time.Now(); err.Error() != last || now.Sub(said) >= 10*time.Second {
			last, said = err.Error(), now
			n.log.Warn(words, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (n *Node) alive() cluster.Alive {
	used, _ := diskUsed(n.cfg.Node.DataDir)
	at := n.addresses()
	a := cluster.Alive{Format: cluster.Format, Node: n.id.Node, Storage: n.id.Storage, Boot: n.boot, Version: n.o.Version, DiskUsed: used, DiskFull: n.disk.full(), Broken: n.shards.broken(), Stopping: n.stopping.Load(),
		Key: pki.FingerprintKey(n.source.PublicKey()), At: &at, Copies: n.shards.sizes(),
	}
	a.DiskFree, a.DiskReserve = n.disk.left()
	return a
}

// beat keeps what the heartbeat says current: its figures now and then, a full disk and a copy that stopped for good at once.
func (n *Node) beat(ctx context.Context, lease *control.Lease) error {
	const often, retry = 10 * time.Second, time.Second
	t := time.NewTimer(often)
	defer t.Stop()
	for {
		full, broken := n.disk.changed.next(), n.shards.broke.next()
		renewed := n.renewed.next()
		wait := often
		if err := lease.PutAlive(ctx, n.alive()); err != nil && ctx.Err() == nil {
			n.log.Debug("heartbeat figures not written", "err", err)
			wait = retry
		}
		t.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		case <-full:
		case <-broken:
		case <-renewed:
		}
	}
}

// diskUsed is the used share of the file system, and its free bytes; nil when it can't be read. What the file system keeps for the
// superuser counts neither as used nor as free, as df counts.
func diskUsed(dir string) (*float64, *themis.Bytes) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Blocks == 0 {
		return nil, nil
	}
	used := float64(st.Blocks - st.Bfree)
	ratio := 1.0
	if all := used + float64(st.Bavail); all > 0 {
		ratio = used / all
	}
	free := themis.Bytes(int64(st.Bavail) * int64(st.Bsize)) //nolint:gosec,unconvert // sizes of disks
	return &ratio, &free
}

// diskName names the file system that dir is on, so that nodes of one machine that share it are not counted twice; empty: not known.
func diskName(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%x", st.Dev)
}

// watchMap passes every new view on.
func (n *Node) watchMap(ctx context.Context, m *control.Map, kv *control.Etcd) error {
	w := m.Watch(ctx)
	for v := range w.Views() {
		if v.Meta.ID == "" {
			continue // the cluster is still being written
		}
		n.learnControl(v, kv)
		n.markSeen()
		n.learnSettings(v.Settings)
		n.view.Store(&v)
		n.shards.learn(v)
		n.changed.wake()
	}
	return ctx.Err()
}

// reigns says whether the node's lease in the control plane holds.
func (n *Node) reigns(now time.Time) bool {
	l := n.lease.Load()
	return l != nil && l.Holds(now)
}

// event records what was done, refused or left undone. A full queue drops the event and counts it; the log has it all the same.
func (n *Node) event(e cluster.Event) {
	select {
	case n.events <- n.dated(e):
	default:
		n.metrics.eventsDropped.Inc()
	}
}

// dated fills in the time and the versions in force, that of the configuration only where the event has none: the map here may be older than
// one that was just applied. It logs the event.
func (n *Node) dated(e cluster.Event) cluster.Event {
	e.HLC = n.stamp()
	e.Time = time.Now().UTC()
	if v, ok := n.latest(); ok {
		e.ConfigVersion = max(e.ConfigVersion, v.Settings.Version)
		if v.Routing != nil {
			e.RoutingVersion = v.Routing.Version()
		}
	}
	n.log.Info("event", "action", e.Action, "subject", e.Subject, "outcome", e.Outcome, "rule", e.Rule, "reason", e.Reason, "epoch", e.Epoch)
	return e
}

// stamp is a timestamp behind all that this node has given before.
func (n *Node) stamp() themis.HLC {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hlc = n.hlc.After(time.Now())
	return n.hlc
}

func (n *Node) writeEvents(ctx context.Context, m *control.Map) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-n.events:
			for {
				try, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := m.AppendEvent(try, n.id.Node, e)
				cancel()
				if err == nil || ctx.Err() != nil || themis.CodeOf(err) == themis.InvalidArgument {
					break
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}
	}
}
