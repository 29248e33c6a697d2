package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

func (n *Node) embedded() bool { return n.cfg.Control.Mode != "external" }

// controlDial says how this node reaches the control plane of its cluster. An embedded one is known by the name that only nodes'
// certificates carry, an external one by what the operator set.
func (n *Node) controlDial(clusterName string, endpoints []string) (control.Dial, error) {
	d := control.Dial{Endpoints: endpointsOf(endpoints), OnWait: func(err error) { n.log.Warn("the control plane does not answer", "err", err) }}
	if n.embedded() {
		d.TLS = func() (*tls.Config, error) { return n.source.ClientConfig("", pki.NodeName(clusterName)), nil }
		return d, nil
	}
	c := n.cfg.Control
	d.Endpoints, d.Read, d.User = endpointsOf(c.Endpoints), true, c.Username
	if d.User != "" {
		p := &upToDate[string]{read: n.externalPassword, log: n.log}
		if d.Password = p.get; p.fault() != nil {
			return d, p.fault()
		}
	}
	if strings.HasPrefix(c.Endpoints[0], "http://") {
		return d, nil
	}
	conf := &upToDate[*tls.Config]{read: n.externalTLS, log: n.log}
	d.TLS = conf.get
	return d, conf.fault()
}

// upToDate is what files of the operator's say now. What can't be used any more is logged, and stays as it was.
type upToDate[T any] struct {
	read func() (T, error)
	log  *slog.Logger

	mu   sync.Mutex
	last T
	good bool   // last was read once
	said string // the fault that was logged last
}

func (u *upToDate[T]) get() (T, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, err := u.read()
	switch {
	case err == nil:
		u.last, u.good, u.said = now, true, ""
	case !u.good:
		return now, err
	case err.Error() != u.said:
		u.said = err.Error()
		u.log.Warn("files of the external etcd could not be read anew, the last good ones stay in use", "err", err)
	}
	return u.last, nil
}

// fault is why there is nothing to use yet.
func (u *upToDate[T]) fault() error {
	_, err := u.get()
	return err
}

func (n *Node) externalPassword() (string, error) {
	b, err := readSecret("control.password_file", n.cfg.Control.PasswordFile)
	password := strings.TrimRight(string(b), "\r\n")
	if err == nil && password == "" {
		err = themis.Errorf(themis.InvalidArgument, "control.password_file %s: it is empty", n.cfg.Control.PasswordFile)
	}
	return password, err
}

// externalTLS is the TLS of an external etcd: its own CA, certificate and name where they are set, else those of this node.
func (n *Node) externalTLS() (*tls.Config, error) {
	c := n.cfg.Control
	roots, ca := x509.NewCertPool(), n.source.CAPEM()
	if c.CA != "" {
		var err error
		if ca, err = os.ReadFile(c.CA); err != nil {
			return nil, themis.Errorf(themis.InvalidArgument, "control.ca: %w", err)
		}
	}
	if !roots.AppendCertsFromPEM(ca) {
		return nil, themis.Errorf(themis.InvalidArgument, "control.ca %s: no certificate in it", c.CA)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: c.ServerName}
	if c.Cert == "" {
		conf.GetClientCertificate = n.source.ClientConfig("", "").GetClientCertificate
		return conf, nil
	}
	pair, err := n.externalCert()
	if err != nil {
		return nil, err
	}
	conf.Certificates = []tls.Certificate{pair}
	return conf, nil
}

func (n *Node) externalCert() (tls.Certificate, error) {
	c := n.cfg.Control
	key, err := readSecret("control.key", c.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := os.ReadFile(c.Cert)
	if err != nil {
		return tls.Certificate{}, themis.Errorf(themis.InvalidArgument, "control.cert: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, themis.Errorf(themis.InvalidArgument, "control.cert %s and control.key %s: %w", c.Cert, c.Key, err)
	}
	return pair, nil
}

// readSecret reads a file that nobody else may read.
func readSecret(key, name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "%s %s: mode %04o lets others read it; want 0600", key, name, info.Mode()&fs.ModePerm).Do("chmod 600 %s", name)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(name) //nolint:gosec // the operator named it
	}
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "%s: %w", key, err)
	}
	return b, nil
}

// checkExternal says why this node could not live with its external control plane, before anything rests on it.
func (n *Node) checkExternal(ctx context.Context, clusterName string) error {
	if n.embedded() {
		return nil
	}
	d, err := n.controlDial(clusterName, nil)
	if err == nil {
		d.OnWait = nil
		err = control.Check(ctx, d)
	}
	if err != nil {
		return fmt.Errorf("%s: control.mode external: %w", n.id.Node, err)
	}
	return nil
}

// checkHeld refuses a control plane that lacks the cluster to which this node has belonged: its endpoints are another one's, or it
// was emptied. Before the node has seen the map the cluster may still be being written.
func (n *Node) checkHeld(ctx context.Context, kv control.KV, j *joined) error {
	if !j.Seen {
		return nil
	}
	var held []cluster.Meta
	err := n.asking(ctx, "the control plane does not answer yet", func(ctx context.Context) (final bool, err error) {
		held, err = control.Clusters(ctx, kv)
		return themis.CodeOf(err) != themis.Unreachable, err
	})
	if err != nil {
		return err
	}
	var others []string
	for _, m := range held {
		if m.ID == j.ID {
			return nil
		}
		others = append(others, fmt.Sprintf("%s (%s)", m.Name, m.ID))
	}
	what := "no cluster at all"
	if len(others) > 0 {
		what = strings.Join(others, ", ")
	}
	return themis.Errorf(themis.RefusedUnsafe, "%s is a member of cluster %s (%s), but the control plane at %s holds %s",
		n.id.Node, j.Name, j.ID, strings.Join(n.controlEndpointsNow(j), ","), what).
		Do("set control.endpoints to the etcd of cluster %s, or restore its records there", j.Name)
}

func (n *Node) controlEndpointsNow(j *joined) []string {
	if n.embedded() {
		return j.Endpoints
	}
	return n.cfg.Control.Endpoints
}

// markSeen remembers that the map of the cluster was there.
func (n *Node) markSeen() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.id.Joined == nil || n.id.Joined.Seen {
		return
	}
	next, id := *n.id.Joined, n.id
	next.Seen, id.Joined = true, &next
	if err := id.write(n.cfg.Node.DataDir); err != nil {
		n.log.Warn("node.json not written", "err", err)
		return
	}
	n.id.Joined = &next
}
