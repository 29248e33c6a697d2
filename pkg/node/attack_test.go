package node

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// holder is somebody with a certificate.
type holder struct {
	files pki.Files
	tls   *tls.Config // to see how far it gets; it believes every server
	pool  *rpc.Pool   // nil where the certificate is not even its holder's to use
}

// holderOf makes a certificate, under the fleet's CA or another one.
func (f *fleet) holderOf(ca *pki.CA, r pki.Request) holder {
	f.t.Helper()
	issued, err := ca.Issue(r)
	h := holder{files: pki.FilesIn(f.t.TempDir(), "holder")}
	if err == nil {
		err = issued.Save(h.files)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(issued.CertPEM, issued.KeyPEM)
	if err != nil {
		f.t.Fatal(err)
	}
	h.tls = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}} //nolint:gosec // it looks only
	src, err := pki.Open(h.files, pki.Options{})
	if err != nil {
		return h
	}
	if h.pool, err = rpc.NewPool(rpc.PoolOptions{Source: src}); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = h.pool.Close() })
	return h
}

// comesIn says whether a server lets a connection with that certificate live.
func comesIn(t *testing.T, addr string, conf *tls.Config) (bool, error) {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, conf)
	if err != nil {
		return false, err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(700 * time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	if n, ok := errors.AsType[net.Error](err); err == nil || ok && n.Timeout() {
		return true, nil
	}
	return false, err
}

// Row 55: certificates that expired, of another CA, of another cluster, of a client where nodes are wanted, at every port of a
// running node: refused, counted and logged with the reason. A node's own certificate shows that the ports let somebody in.
func TestForeignCertificates(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1")
	f.found(initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync})
	f.until("node-1", "a primary", func(r health.Report) bool { return len(r.Shards) == 1 && r.Shards[0].Primary != "" })
	all := []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}
	member := pki.Request{Node: "node-2", Datacenter: "dc1", Capabilities: all, Loopback: true}
	foreignCA, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	brief := member
	brief.Valid = time.Second
	ended := f.holderOf(f.ca, brief)
	ofProd := member
	ofProd.Cluster = "prod"
	addr := f.nodes["node-1"].addr
	ports := map[string]string{"grpc": addr.GRPC, "http": addr.HTTP, "control_peer": f.peer["node-1/peer"], "control_client": f.peer["node-1/client"]}
	<-time.After(1500 * time.Millisecond) // the brief one ends
	for _, c := range []struct {
		name        string
		who         holder
		node        pki.Reason // at gRPC and HTTP; empty: it comes in
		control     pki.Reason // at both ports of etcd
		controlLogs string
	}{
		{"a node's own", f.holderOf(f.ca, member), "", "", ""},
		{"expired", ended, pki.Expired, pki.Expired, "certificate has expired"},
		{"another CA's", f.holderOf(foreignCA, member), pki.UnknownCA, pki.UnknownCA, "unknown authority"},
		{"another cluster's", f.holderOf(f.ca, ofProd), pki.WrongCluster, "not_a_node", "client certificate authentication failed"},
		{"a client's", f.holderOf(f.ca, pki.Request{Client: "app", Capabilities: all}), "", "not_a_node", "client certificate authentication failed"},
	} {
		for port, at := range ports {
			want, label := c.node, "node"
			if strings.HasPrefix(port, "control") {
				want, label = c.control, port
			}
			labels := fmt.Sprintf(`port="%s",reason="%s"`, label, want)
			before := f.metric("node-1", "themis_peers_refused_total", labels)
			in, err := comesIn(t, at, c.who.tls)
			if in != (want == "") {
				t.Errorf("%s at %s: comes in: %v (%v)", c.name, port, in, err)
				continue
			}
			if want == "" {
				continue
			}
			counted := func() bool { return f.metric("node-1", "themis_peers_refused_total", labels) > before }
			for deadline := time.Now().Add(5 * time.Second); !counted() && time.Now().Before(deadline); { // the other side may know first
				<-time.After(20 * time.Millisecond)
			}
			if !counted() {
				t.Errorf("%s at %s: not counted as %s", c.name, port, want)
			}
			text := "reason=" + string(want)
			if label != "node" {
				text = c.controlLogs
			}
			if !strings.Contains(f.said["node-1"].String(), text) {
				t.Errorf("%s at %s: no line with %q", c.name, port, text)
			}
		}
	}

	bare := f.holderOf(f.ca, pki.Request{Client: "bare"})
	d, err := bare.pool.Documents(t.Context(), addr.GRPC, "node-1")
	if err == nil {
		_, err = d.Write(t.Context(), &nodev1.WriteRequest{Collection: "things", RequestId: "x", Operations: []*nodev1.Operation{{Key: "k", Value: []byte(`{}`)}}})
	}
	refused(t, err, themis.PermissionDenied, "write capability")
	if f.metric("node-1", "rpc_shard_requests_total", `operation="write",protocol="grpc",status="permission_denied"`) < 1 || !strings.Contains(f.said["node-1"].String(), "rpc refused") {
		t.Error("a write without the capability is not counted and logged")
	}
	conf := bare.tls.Clone()
	conf.NextProtos = []string{"http/1.1"}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+addr.HTTP+"/api/v1/collections/things/documents/k", strings.NewReader(`{}`))
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(b), "lacks the capability write") {
		t.Errorf("over HTTP: %d %s", resp.StatusCode, b)
	}
	if _, err := f.get("node-1", "k"); themis.CodeOf(err) != themis.NotFound {
		t.Errorf("a write without the capability left something: %v", err)
	}
}

// Row 59: questions for ballots and heartbeats of a controller by those who are not it: refused and counted by reason, and no epoch
// is promised: the primary goes on.
func TestForgedQuestions(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2")
	a := mirrored
	a.ControlNodes, a.Shards = 1, 1
	f.found(a)
	r := f.until("node-1", "HEALTHY", isHealthy)
	id, err := openIdentity(f.path("node-1"), "node-1")
	if err != nil {
		t.Fatal(err)
	}
	all := []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}
	two := f.holderOf(f.ca, pki.Request{Node: "node-2", Datacenter: "dc1", Capabilities: all, Loopback: true})
	operator := f.holderOf(f.ca, pki.Request{Client: "op", Capabilities: []string{pki.Read, pki.Write, pki.Admin}})
	v := clusterTerm(t, f)
	good := func() *sharding.VoteRequest {
		return &sharding.VoteRequest{Term: uint64(r.Shards[0].Epoch) + 50, CandidateId: "node-2", ShardId: "shard-1", Nonce: make([]byte, 16), ClusterId: string(id.Joined.ID), ControllerTerm: uint64(v)}
	}
	ask := func(h holder, req *sharding.VoteRequest) (*sharding.VoteResponse, error) {
		c, err := h.pool.Shards(t.Context(), f.nodes["node-1"].addr.GRPC, "node-1")
		if err != nil {
			t.Fatal(err)
		}
		return c.RequestVote(t.Context(), req)
	}
	_, err = ask(operator, good())
	refused(t, err, themis.PermissionDenied, "replication capability")
	for reason, change := range map[string]func(*sharding.VoteRequest){
		"not_controller":    func(*sharding.VoteRequest) {},
		"wrong_certificate": func(r *sharding.VoteRequest) { r.CandidateId = "node-1" },
		"old_term":          func(r *sharding.VoteRequest) { r.ControllerTerm-- },
		"other_cluster":     func(r *sharding.VoteRequest) { r.ClusterId = "another" },
	} {
		req := good()
		change(req)
		got, err := ask(two, req)
		if err != nil || got.GetVoteGranted() || len(got.GetSignature()) > 0 {
			t.Errorf("%s: %v, %v", reason, got, err)
		}
		if n := f.metric("node-1", "themis_votes_rejected_total", `reason="`+reason+`"`); n < 1 {
			t.Errorf("%s: counted %v", reason, n)
		}
	}
	future := good()
	future.ControllerTerm += 1000
	if got, err := ask(two, future); err != nil || got.GetVoteGranted() {
		t.Errorf("a term of the future: %v, %v", got, err)
	}
	c, err := two.pool.Shards(t.Context(), f.nodes["node-1"].addr.GRPC, "node-1")
	if err == nil {
		_, err = c.HealthCheck(t.Context(), &sharding.HealthRequest{ControllerTerm: uint64(v) + 1000, ControllerId: "node-2"})
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := f.metric("node-1", "themis_controller_heartbeats_refused_total", `reason="not_controller"`); n < 1 {
		t.Errorf("heartbeats refused: %v", n)
	}
	if err := f.put("node-2", "after", `{}`); err != nil {
		t.Fatal(err)
	}
	after, err := f.report("node-1")
	if err != nil || after.Shards[0].Epoch != r.Shards[0].Epoch {
		t.Errorf("epoch %d, then %d, %v", r.Shards[0].Epoch, after.Shards[0].Epoch, err)
	}
}

func clusterTerm(t *testing.T, f *fleet) (term themis.Term) {
	t.Helper()
	f.until("node-1", "a controller", func(health.Report) bool {
		term = f.clientMap("node-1").Controller.Term
		return term > 0
	})
	return term
}

// Row 59: streams that bring forged entries: under another node's certificate, by a member that doesn't lead, of an epoch that
// nobody leads. Each is refused and counted, and the follower's log stays as it is.
func TestForgedStreams(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.found(initArgs{Name: "demo", Shards: 1, RF: 2, K: 1, ControlNodes: 1, Redundancy: "MIRROR", Mode: themis.Sync})
	f.until("node-1", "HEALTHY", isHealthy)
	s := f.clientMap("node-1").Shards[0]
	var follower cluster.Member
	for _, x := range s.ISR {
		if x != s.Primary {
			follower = x
		}
	}
	third := cluster.Member{Node: "node-3", Storage: f.record("node-1", "node-3").Storage}
	for _, n := range []themis.NodeID{"node-1", "node-2"} {
		if n != s.Primary.Node && n != follower.Node {
			third = cluster.Member{Node: n, Storage: f.record("node-1", string(n)).Storage}
		}
	}
	forger := f.holderOf(f.ca, pki.Request{Node: third.Node, Datacenter: "dc1", Capabilities: []string{pki.Replicate}, Loopback: true})
	on := string(follower.Node)
	for reason, hello := range map[string]*nodev1.Hello{
		"wrong_certificate": {Epoch: uint64(s.Epoch), PrimaryId: string(s.Primary.Node), PrimaryStorageId: string(s.Primary.Storage)},
		"not_primary":       {Epoch: uint64(s.Epoch), PrimaryId: string(third.Node), PrimaryStorageId: string(third.Storage)},
		"unknown_epoch":     {Epoch: uint64(s.Epoch) + 7, PrimaryId: string(third.Node), PrimaryStorageId: string(third.Storage)},
	} {
		hello.ClusterId, hello.ShardId, hello.FollowerStorageId = string(f.clientMap("node-1").ClusterID), "shard-1", string(follower.Storage)
		hello.FirstSeq, hello.LastSeq = 1, 1
		c, err := forger.pool.Replication(t.Context(), f.nodes[on].addr.GRPC, follower.Node)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := c.Replicate(t.Context())
		if err == nil {
			_ = stream.Send(&nodev1.ReplicateRequest{Hello: hello})
			_, err = stream.Recv()
		}
		if themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("%s: %v", reason, err)
		}
		if n := f.metric(on, "themis_streams_refused_total", `reason="`+reason+`"`); n < 1 {
			t.Errorf("%s: counted %v", reason, n)
		}
		install, err := c.Install(t.Context())
		if err == nil {
			_ = install.Send(&nodev1.InstallRequest{Hello: hello})
			_, err = install.CloseAndRecv()
		}
		if themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("install, %s: %v", reason, err)
		}
		if !strings.Contains(f.said[on].String(), "reason="+reason) {
			t.Errorf("%s: no line in the log", reason)
		}
	}
	for i := range 10 {
		if err := f.put("node-1", fmt.Sprint("k", i), `{}`); err != nil {
			t.Fatal(err)
		}
	}
	if now := f.clientMap("node-1").Shards[0]; now.Epoch != s.Epoch {
		t.Errorf("epoch %d, then %d", s.Epoch, now.Epoch)
	}
}

// impostor answers at a follower's address, under a certificate of the cluster that is another node's, and acknowledges everything.
type impostor struct {
	nodev1.UnimplementedReplicationServiceServer
	asked chan struct{}
}

func (i *impostor) Replicate(s nodev1.ReplicationService_ReplicateServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	select {
	case i.asked <- struct{}{}:
	default:
	}
	if err := s.Send(&nodev1.ReplicateResponse{Accepted: true, CommonSeq: first.GetHello().GetLastSeq()}); err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&nodev1.ReplicateResponse{DurableSeq: 1 << 40, EchoNs: m.GetSentNs()}); err != nil {
			return err
		}
	}
}

// Row 59: acknowledgements by somebody at the follower's address who is not the follower don't count: no write is confirmed.
func TestForgedAcks(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.stop("node-3")
	if err := f.tryStart("node-3", map[string]string{"node.role": "controller"}); err != nil { // decides, and takes no copy
		t.Fatal(err)
	}
	f.found(initArgs{Name: "demo", Shards: 1, RF: 2, K: 1, ControlNodes: 1, Redundancy: "MIRROR", Mode: themis.Sync})
	f.until("node-3", "HEALTHY", isHealthy)
	s := f.clientMap("node-3").Shards[0]
	victim := "node-1"
	if s.Primary.Node == "node-1" {
		victim = "node-2"
	}
	primary := string(s.Primary.Node)
	addr := f.nodes[victim].addr.GRPC
	f.stop(victim)
	other := f.holderOf(f.ca, pki.Request{Node: "node-9", Datacenter: "dc1", Capabilities: []string{pki.Replicate}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	src, err := pki.Open(other.files, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Source: src, Cluster: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{asked: make(chan struct{}, 1)}
	nodev1.RegisterReplicationServiceServer(server, i)
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	defer func() { server.Stop(); <-served }()
	f.until("node-3", "the primary refuses who answers there", func(health.Report) bool {
		return f.metric(primary, "themis_peers_refused_total", `reason="wrong_node"`) > 0 || len(i.asked) > 0
	})
	if len(i.asked) > 0 {
		t.Error("the impostor was believed to be the follower")
	}
	_, err = f.documents(primary).Write(t.Context(), &nodev1.WriteRequest{Collection: "things", RequestId: "forged", TimeoutMs: 2000, Operations: []*nodev1.Operation{{Key: "k", Value: []byte(`{}`)}}})
	if err == nil {
		t.Fatal("a write was acknowledged on the word of another node")
	}
	if !strings.Contains(f.said[primary].String(), "reason=wrong_node") {
		t.Error("no line in the primary's log")
	}
}

// What a ballot must be to count, case by case.
func TestWhichBallotsCount(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	signer := func(n themis.NodeID) *pki.Source {
		issued, err := ca.Issue(pki.Request{Node: n, Datacenter: "dc1"})
		files := pki.FilesIn(dir, string(n))
		if err == nil {
			err = issued.Save(files)
		}
		src, openErr := pki.Open(files, pki.Options{})
		if err := errors.Join(err, openErr); err != nil {
			t.Fatal(err)
		}
		return src
	}
	own, foreign := signer("node-2"), signer("node-3")
	voter := cluster.Member{Node: "node-2", Storage: "disk-2"}
	v := cluster.View{Nodes: map[themis.NodeID]cluster.Node{"node-2": {ID: "node-2", Keys: [][]byte{foreign.PublicKey()[:0], own.PublicKey()}}}}
	req := &sharding.VoteRequest{ClusterId: "c1", ShardId: "shard-1", Term: 7, Nonce: []byte("0123456789abcdef")}
	ballot := func() election.Ballot {
		return election.Ballot{Cluster: "c1", Shard: "shard-1", Voter: voter, Boot: "boot", Epoch: 7, Nonce: req.GetNonce(), Last: themis.Position{Seq: 9, Epoch: 6, LSN: 90}}
	}
	answer := func(b election.Ballot, by *pki.Source) *sharding.VoteResponse {
		sig, err := by.Sign(b.Signed())
		if err != nil {
			t.Fatal(err)
		}
		return &sharding.VoteResponse{
			Term: uint64(b.Epoch), VoteGranted: true, VoterId: string(b.Voter.Node), StorageId: string(b.Voter.Storage), BootId: string(b.Boot), Nonce: b.Nonce,
			LastEpoch: uint64(b.Last.Epoch), LastSeq: uint64(b.Last.Seq), LastLsn: uint64(b.Last.LSN), Signature: sig,
		}
	}
	for name, c := range map[string]struct {
		change func(*election.Ballot)
		by     *pki.Source
		after  func(*sharding.VoteResponse)
		want   string
	}{
		"the voter's own":          {nil, own, nil, ""},
		"another node's key":       {nil, foreign, nil, "signature"},
		"no signature":             {nil, own, func(m *sharding.VoteResponse) { m.Signature = nil }, "signature"},
		"re-sent from before":      {func(b *election.Ballot) { b.Nonce = []byte("another question") }, own, nil, "replayed"},
		"of another shard":         {func(b *election.Ballot) { b.Shard = "shard-2" }, own, nil, "signature"},
		"of another cluster":       {func(b *election.Ballot) { b.Cluster = "c2" }, own, nil, "signature"},
		"of an old epoch":          {func(b *election.Ballot) { b.Epoch = 6 }, own, nil, "wrong_epoch"},
		"of another voter":         {func(b *election.Ballot) { b.Voter.Node = "node-3" }, foreign, nil, "wrong_voter"},
		"made better on its way":   {nil, own, func(m *sharding.VoteResponse) { m.LastSeq += 1000 }, "signature"},
		"of another disk, changed": {nil, own, func(m *sharding.VoteResponse) { m.StorageId = "disk-9" }, "signature"},
	} {
		b := ballot()
		if c.change != nil {
			c.change(&b)
		}
		m := answer(b, c.by)
		if c.after != nil {
			c.after(m)
		}
		_, r := readBallot(v, voter, req, m)
		got := ""
		if r != nil {
			got = r.reason
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func (f *fleet) clientMap(via string) (cm ClientMap) {
	f.t.Helper()
	m, err := f.admin(via).GetMap(f.t.Context(), &nodev1.GetMapRequest{})
	if err == nil {
		err = json.Unmarshal(m.GetMapJson(), &cm)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return cm
}
