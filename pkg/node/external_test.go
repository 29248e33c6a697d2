package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// tryInit founds a cluster of all nodes that run.
func (f *fleet) tryInit(a initArgs) error {
	a.Nodes = nil
	for n := range f.nodes {
		a.Nodes = append(a.Nodes, f.nodes[n].addr.GRPC)
	}
	return f.act("node-1", "cluster.init", a, nil)
}

func (f *fleet) put(via, key, value string) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), 15*time.Second)
	defer cancel()
	_, err := f.documents(via).Write(ctx, &nodev1.WriteRequest{Collection: "things", RequestId: key + value, Operations: []*nodev1.Operation{{Key: key, Value: []byte(value)}}})
	return err
}

func (f *fleet) get(via, key string) (string, error) {
	m, err := f.documents(via).Read(f.t.Context(), &nodev1.ReadRequest{Collection: "things", Key: key})
	return string(m.GetValue()), err
}

func isHealthy(r health.Report) bool { return r.Status == health.Healthy }

var mirrored = initArgs{Name: "demo", Shards: 2, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Sync}

// An etcd of the operator's with three members, a CA of its own and a name that no node's certificate knows: founding, failing over
// with one etcd member down, and a node that comes back. What others keep in that etcd stays.
func TestExternalEtcd(t *testing.T) {
	t.Parallel()
	certs := t.TempDir()
	authority(t, certs, []string{"etcd.example"}, []string{"admin", "themis"})
	e := newUserEtcd(t, 3, certs)
	f := newFleetWith(t, map[string]string{
		"control.mode": "external", "control.endpoints": e.endpoints(), "control.server_name": "etcd.example",
		"control.ca": filepath.Join(certs, "ca.crt"), "control.cert": filepath.Join(certs, "themis.crt"), "control.key": filepath.Join(certs, "themis.key"),
	}, "node-1", "node-2", "node-3", "node-4")
	for _, n := range []string{"node-1", "node-2", "node-3"} {
		f.start(n)
	}
	refused(t, f.tryInit(initArgs{Name: "demo", Shards: 2, RF: 2, K: 1, ControlNodes: 3, Redundancy: "MIRROR", Mode: themis.Sync}), themis.InvalidArgument, "control_nodes 3: the control plane is an etcd of its own")
	if err := f.tryInit(mirrored); err != nil {
		t.Fatal(err)
	}
	r := f.until("node-1", "HEALTHY", isHealthy)
	if r.Control.Mode != "external" || r.Control.Quorum == nil || !*r.Control.Quorum || len(r.Control.Members) != 0 {
		t.Errorf("control: %+v", r.Control)
	}
	for i := range 20 {
		if err := f.put("node-2", fmt.Sprint("k", i), `{"v":1}`); err != nil {
			t.Fatal(err)
		}
	}
	e.kill("etcd-1")
	s, _ := r.Shard("shard-1")
	victim := string(s.Primary)
	f.stop(victim)
	var via string
	for via = range f.nodes {
		break
	}
	for i := range 20 {
		if err := f.put(via, fmt.Sprint("k", i), `{"v":2}`); err != nil {
			t.Fatalf("with a primary and a member of etcd down: %v", err)
		}
		if got, err := f.get(via, fmt.Sprint("k", i)); err != nil || got != `{"v":2}` {
			t.Fatalf("%q, %v", got, err)
		}
	}
	e.start(e.specs[0])
	f.start(victim)
	f.until(via, "HEALTHY again", isHealthy)

	f.start("node-4")
	if four := f.join(via, "node-4", joinArgs{}); !four.Changed || four.Control {
		t.Errorf("a fourth node: %+v", four)
	}
	refused(t, f.act(via, "node.join", joinArgs{Addr: f.nodes["node-4"].addr.GRPC, Control: "yes"}, nil), themis.InvalidArgument, "etcd of its own")
	e.until("what others keep there", func(ctx context.Context, c *clientv3.Client) error {
		got, err := c.Get(ctx, "/other/users")
		if err == nil && len(got.Kvs) != 1 {
			err = fmt.Errorf("%d keys", len(got.Kvs))
		}
		return err
	})
}

// addUsers makes users with the password "right", of whom the first may read and write what is ours, and lets nobody in without one.
func (e *userEtcd) addUsers(app string, others ...string) {
	e.t.Helper()
	e.until("users", func(ctx context.Context, c *clientv3.Client) error {
		steps := []func() error{
			func() error { _, err := c.UserAdd(ctx, "root", "r"); return err },
			func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
			func() error { _, err := c.RoleAdd(ctx, "themis"); return err },
			func() error {
				_, err := c.RoleGrantPermission(ctx, "themis", "/themis/", clientv3.GetPrefixRangeEnd("/themis/"), clientv3.PermissionType(clientv3.PermReadWrite))
				return err
			},
		}
		for _, user := range append(others, app) {
			steps = append(steps, func() error { _, err := c.UserAdd(ctx, user, "right"); return err })
		}
		steps = append(steps,
			func() error { _, err := c.UserGrantRole(ctx, app, "themis"); return err },
			func() error { _, err := c.AuthEnable(ctx); return err },
		)
		for _, step := range steps {
			if err := step(); err != nil && !strings.Contains(err.Error(), "already") {
				return err
			}
		}
		return nil
	})
}

// A CA and a password that change while a node runs: files are read for every new connection and every new token.
func TestExternalEtcdRenewed(t *testing.T) {
	t.Parallel()
	certs := t.TempDir()
	clients := []string{"admin", "themis", "root"}
	authority(t, certs, []string{"127.0.0.1"}, clients)
	e := newUserEtcd(t, 1, certs)
	e.addUsers("app")
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(certs, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	caNow := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(certs, "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	f := newFleetWith(t, map[string]string{
		"control.mode": "external", "control.endpoints": e.endpoints(), "control.ca": write("trusted.crt", caNow()),
		"control.cert": filepath.Join(certs, "themis.crt"), "control.key": filepath.Join(certs, "themis.key"), "control.username": "app", "control.password_file": write("password", "right\n"),
	}, "node-1")
	f.start("node-1")
	if err := f.tryInit(initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync}); err != nil {
		t.Fatal(err)
	}
	changes := func(when string) {
		t.Helper()
		f.until("node-1", "a change of the map "+when, func(health.Report) bool { return f.act("node-1", "node.token", tokenArgs{TTL: "1h"}, nil) == nil })
	}
	changes("before")

	e.kill("etcd-1")
	authority(t, certs, []string{"127.0.0.1"}, clients) // another one
	e.tls = clientOf(t, certs, "root")
	e.start(e.specs[0])
	write("trusted.crt", "")
	f.until("node-1", "a word about the CA", func(health.Report) bool {
		return strings.Contains(f.said["node-1"].String(), "the last good ones stay in use")
	})
	write("trusted.crt", caNow())
	changes("under another CA")

	set := func(to string) {
		t.Helper()
		e.until("password "+to, func(ctx context.Context, _ *clientv3.Client) error {
			c, err := e.client("root", "r")
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			_, err = c.UserChangePassword(ctx, "app", to)
			return err
		})
	}
	write("password", "")
	set("newer")
	refused(t, f.act("node-1", "node.token", tokenArgs{TTL: "1h"}, nil), themis.Unauthenticated, "authentication failed")
	write("password", "newer\n")
	changes("under another password")
}

// What is wrong with the settings of an external etcd is said before anything is changed: the nodes stay free.
func TestExternalEtcdRefusals(t *testing.T) {
	t.Parallel()
	certs, foreign := t.TempDir(), t.TempDir()
	authority(t, certs, []string{"etcd.example"}, []string{"admin", "themis", "root"})
	authority(t, foreign, []string{"etcd.example"}, []string{"themis"})
	e := newUserEtcd(t, 1, certs)
	e.addUsers("app", "bare")
	secret := func(text string) string {
		name := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	f := newFleetWith(t, nil, "node-1")
	good := map[string]string{
		"control.mode": "external", "control.endpoints": e.endpoints(), "control.server_name": "etcd.example", "control.ca": filepath.Join(certs, "ca.crt"),
		"control.cert": filepath.Join(certs, "themis.crt"), "control.key": filepath.Join(certs, "themis.key"), "control.username": "app", "control.password_file": secret("right"),
	}
	one := initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync}
	for name, c := range map[string]struct {
		with map[string]string
		code themis.Code
		text string
	}{
		"nobody there":      {map[string]string{"control.endpoints": "https://" + loopback.Addr(t)}, themis.Unreachable, "connection refused"},
		"another CA":        {map[string]string{"control.ca": filepath.Join(foreign, "ca.crt")}, themis.Unreachable, "signed by unknown authority"},
		"another name":      {map[string]string{"control.server_name": "etcd.elsewhere"}, themis.Unreachable, "etcd.elsewhere"},
		"a foreign cert":    {map[string]string{"control.cert": filepath.Join(foreign, "themis.crt"), "control.key": filepath.Join(foreign, "themis.key")}, themis.Unreachable, "tls: "},
		"a wrong password":  {map[string]string{"control.password_file": secret("wrong")}, themis.Unauthenticated, `etcd refuses user "app"`},
		"an unknown user":   {map[string]string{"control.username": "nobody"}, themis.Unauthenticated, `etcd refuses user "nobody"`},
		"without rights":    {map[string]string{"control.username": "bare"}, themis.PermissionDenied, `user "bare" may not read below /themis/`},
		"an open password":  {map[string]string{"control.password_file": "etcd_test.go"}, themis.InvalidArgument, "want 0600"},
		"plain to TLS port": {map[string]string{"control.endpoints": strings.Replace(e.endpoints(), "https", "http", 1)}, themis.Unreachable, "doesn't answer"},
	} {
		with := map[string]string{}
		for _, m := range []map[string]string{good, c.with} {
			for k, v := range m {
				with[k] = v
			}
		}
		if err := f.tryStart("node-1", with); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err := f.tryInit(one)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.text) })
		f.stop("node-1")
		if id, err := openIdentity(f.path("node-1"), "node-1"); err != nil || id.Joined != nil {
			t.Fatalf("%s: the node was made a member: %+v, %v", name, id.Joined, err)
		}
	}
	if err := f.tryStart("node-1", good); err != nil {
		t.Fatal(err)
	}
	refused(t, f.tryInit(initArgs{Name: "prod", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync}), themis.InvalidArgument, "the certificates are of cluster demo")
	if err := f.tryInit(one); err != nil {
		t.Fatal(err)
	}
	f.until("node-1", "a map", func(r health.Report) bool { return len(r.Shards) == 1 && r.Control.Quorum != nil && *r.Control.Quorum })
}

// Two clusters of one name: the second is not founded in an etcd that holds the first, and a member whose endpoints lead to the
// other's etcd is refused with both names, rather than waiting for a map that will never come.
func TestExternalEtcdOfAnotherCluster(t *testing.T) {
	t.Parallel()
	first, second := newUserEtcd(t, 1, ""), newUserEtcd(t, 1, "")
	external := func(e *userEtcd) map[string]string {
		return map[string]string{"control.mode": "external", "control.endpoints": e.endpoints()}
	}
	one := initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync}
	f, g := newFleetWith(t, nil, "node-1"), newFleetWith(t, nil, "node-1")
	for _, x := range []struct {
		*fleet
		e *userEtcd
	}{{f, first}, {g, second}} {
		if err := x.tryStart("node-1", external(x.e)); err != nil {
			t.Fatal(err)
		}
		if err := x.tryInit(one); err != nil {
			t.Fatal(err)
		}
		x.until("node-1", "HEALTHY or what it says of one copy", func(r health.Report) bool { return len(r.Shards) == 1 && r.Shards[0].Primary != "" })
	}
	f.stop("node-1")
	if err := f.tryStart("node-1", external(second)); err != nil {
		t.Fatal(err)
	}
	err := <-f.nodes["node-1"].done
	delete(f.nodes, "node-1")
	refused(t, err, themis.RefusedUnsafe, "node-1 is a member of cluster demo")
	for _, text := range []string{second.endpoints(), "holds demo ("} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v: lacks %q", err, text)
		}
	}
	if err := f.tryStart("node-1", external(first)); err != nil {
		t.Fatal(err)
	}
	f.until("node-1", "it serves again with the right endpoints", func(r health.Report) bool { return len(r.Shards) == 1 && r.Shards[0].Primary != "" })

	h := newFleetWith(t, nil, "node-1")
	if err := h.tryStart("node-1", external(first)); err != nil {
		t.Fatal(err)
	}
	refused(t, h.tryInit(one), themis.RefusedUnsafe, "holds a cluster named demo already")
}

// A node whose own settings name another etcd is named by init.
func TestExternalEtcdIsTheSameForAll(t *testing.T) {
	t.Parallel()
	first, second := newUserEtcd(t, 1, ""), newUserEtcd(t, 1, "")
	f := newFleetWith(t, map[string]string{"control.mode": "external"}, "node-1", "node-2")
	for n, e := range map[string]*userEtcd{"node-1": first, "node-2": second} {
		if err := f.tryStart(n, map[string]string{"control.endpoints": e.endpoints()}); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, f.tryInit(mirrored), themis.Deadline, "node-2 did not announce itself in the etcd that node-1 uses")
}
