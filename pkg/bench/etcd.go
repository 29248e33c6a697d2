package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// etcdArgs describe one member. All else is as etcd has it by default.
type etcdArgs struct {
	Name         string
	Dir          string
	Peer, Client string // https://…
	Initial      string // name=peer,…
	Files        pki.Files
}

// etcdMember runs a member of an ordinary etcd cluster in this process, with mutual TLS on both of its ports.
func (w *worker) etcdMember(ctx context.Context, a etcdArgs) (any, error) {
	peer, err := url.Parse(a.Peer)
	if err != nil {
		return nil, err
	}
	client, err := url.Parse(a.Client)
	if err != nil {
		return nil, err
	}
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster, c.LogLevel = a.Name, a.Dir, a.Initial, "error"
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	for _, t := range []*struct{ cert, key, ca *string }{
		{&c.PeerTLSInfo.CertFile, &c.PeerTLSInfo.KeyFile, &c.PeerTLSInfo.TrustedCAFile},
		{&c.ClientTLSInfo.CertFile, &c.ClientTLSInfo.KeyFile, &c.ClientTLSInfo.TrustedCAFile},
	} {
		*t.cert, *t.key, *t.ca = a.Files.Cert, a.Files.Key, a.Files.CA
	}
	c.PeerTLSInfo.ClientCertAuth, c.ClientTLSInfo.ClientCertAuth = true, true
	if w.etcd, err = embed.StartEtcd(c); err != nil {
		return nil, err
	}
	select {
	case <-w.etcd.Server.ReadyNotify():
		return struct{}{}, nil
	case err := <-w.etcd.Err():
		return nil, err
	case <-time.After(time.Minute):
		return nil, errors.New("etcd did not become ready within a minute")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// etcdTrio is an etcd cluster of three processes, and a client of its leader.
type etcdTrio struct {
	all    []*process
	client *clientv3.Client
	marks  io.Closer // of its ports
}

func startEtcd(ctx context.Context, h Host, dir string) (_ *etcdTrio, err error) {
	t := &etcdTrio{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.stop())
		}
	}()
	ids := []themis.NodeID{"node-1", "node-2", "node-3"}
	files, err := certificates(filepath.Join(dir, "pki"), ids)
	if err != nil {
		return t, err
	}
	ports, marks, err := loopback.Ports(2 * len(ids))
	if err != nil {
		return t, err
	}
	t.marks = marks
	at := func(i int) string { return fmt.Sprintf("https://%s:%d", loopback.Host, ports[i]) }
	var initial []string
	for i, id := range ids {
		initial = append(initial, fmt.Sprintf("%s=%s", id, at(i)))
	}
	started := make(chan error, len(ids))
	for i, id := range ids {
		p, err := h.start(ctx, "etcd "+string(id))
		if err != nil {
			return t, err
		}
		t.all = append(t.all, p)
		args := etcdArgs{Name: string(id), Dir: filepath.Join(dir, string(id)), Peer: at(i), Client: at(len(ids) + i), Initial: strings.Join(initial, ","), Files: files[id]}
		go func() { started <- p.ask("etcd", args, nil) }() // received below
	}
	var errs []error
	for range ids {
		errs = append(errs, <-started)
	}
	if err := errors.Join(errs...); err != nil {
		return t, err
	}
	source, err := pki.Open(files[ids[0]], pki.Options{})
	if err != nil {
		return t, err
	}
	t.client, err = leaderClient(ctx, source, []string{at(3), at(4), at(5)})
	return t, err
}

// leaderClient asks the leader directly, as our client asks primaries: another member would pass every request on.
func leaderClient(ctx context.Context, source *pki.Source, urls []string) (*clientv3.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		for _, u := range urls {
			c, err := clientv3.New(clientv3.Config{Endpoints: []string{u}, TLS: source.ClientConfig("", pki.NodeName(benchCluster)), Logger: zap.NewNop()})
			if err != nil {
				return nil, err
			}
			st, err := c.Status(ctx, u)
			if err == nil && st.Leader == st.Header.GetMemberId() {
				return c, nil
			}
			if err := errors.Join(c.Close()); err != nil {
				return nil, err
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, themis.Errorf(themis.Deadline, "etcd elected no leader: %w", err)
		}
	}
}

func (t *etcdTrio) stop() error {
	var errs []error
	if t.client != nil {
		errs = append(errs, t.client.Close())
	}
	for _, p := range t.all {
		errs = append(errs, p.in.Close()) // all at once: each waits for the others to go
	}
	for _, p := range t.all {
		errs = append(errs, p.stop())
	}
	if t.marks != nil {
		errs = append(errs, t.marks.Close())
	}
	return errors.Join(errs...)
}
