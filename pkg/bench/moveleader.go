package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// moveEtcd has the embedded etcd's leader hand over to the node's member, as `etcdctl move-leader` does.
func (s *series) moveEtcd(ctx context.Context, to themis.NodeID) (err error) {
	m, err := s.c.Refresh(ctx)
	if err != nil {
		return err
	}
	source, err := pki.Open(pki.FilesIn(filepath.Join(s.p.Dir, "pki"), string(to)), pki.Options{})
	if err != nil {
		return err
	}
	want := uint64(0)
	var leader string
	for _, n := range m.Members {
		if n.Control == nil {
			continue
		}
		st, err := memberStatus(ctx, source, m.Cluster, n.Control.Client)
		if err != nil {
			return fmt.Errorf("ask the control plane's member on %s: %w", n.ID, err)
		}
		if st.Leader == st.Header.GetMemberId() {
			leader = n.Control.Client
		}
		if n.ID == to {
			want = st.Header.GetMemberId()
		}
	}
	if want == 0 || leader == "" {
		return themis.Errorf(themis.NotFound, "%s is no member of the control plane, or it has no leader", to)
	}
	return withEtcd(source, m.Cluster, leader, func(c *clientv3.Client) error {
		_, err := c.MoveLeader(ctx, want)
		return err
	})
}

func memberStatus(ctx context.Context, source *pki.Source, cluster, url string) (st *clientv3.StatusResponse, err error) {
	err = withEtcd(source, cluster, url, func(c *clientv3.Client) error {
		st, err = c.Status(ctx, url)
		return err
	})
	return st, err
}

func withEtcd(source *pki.Source, cluster, url string, do func(*clientv3.Client) error) (err error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, TLS: source.ClientConfig("", pki.NodeName(cluster)), Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return do(c)
}
