package faults

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
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

// Row 59, while elections run. A node that leads shards is killed; whoever listens at its address from then on, with its very
// certificate, says that it was restarted and brings ballots that aren't: of an earlier election, for an earlier epoch, in another's
// name, made better on the way. Others ask the voters for ballots that they may not have, all the time. Every shard gets one of the
// true copies as its primary by one election, nothing that was acknowledged is lost, and each refusal is counted by its reason.
func TestForgedBallotsInAnElection(t *testing.T) {
	h := newHosts(t, setup{rf: 3, shards: 12})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	must(t, err)
	m := h.mapOf(t, h.names[0])
	victim := without(h.names, string(r.Control.Controller))[0]
	if led := ledBy(r, victim); len(led) < len(forgeries) {
		t.Fatalf("%s leads %v: too few for every forgery", victim, led)
	}
	before := h.epochs(t)
	askers := h.askFalsely(t, m, victim)
	h.kill(victim)
	f := h.impostor(t, m, victim)
	h.ask = without(h.names, victim)
	h.until("the others lead every shard, and serve", rto, func(r health.Report) bool {
		return leadsNone(victim)(r) && !slices.ContainsFunc(r.Shards, func(s health.ShardReport) bool { return s.Readable == nil || !*s.Readable })
	})
	askers()
	w.more(t, 100, rto)
	h.reigned(t, before, 1)
	for i, forged := range forgeries {
		if n := h.counted(t, "themis_votes_rejected_total", `reason="`+forged.reason+`"`); n < 1 {
			t.Errorf("no ballot was refused as %s; %d were asked for", forged.reason, f.asked())
		}
		if f.asked() <= i {
			t.Errorf("only %d ballots were asked for", f.asked())
		}
	}
	for _, c := range [][2]string{
		{"themis_votes_rejected_total", `reason="wrong_certificate"`}, {"themis_votes_rejected_total", `reason="not_controller"`},
		{"themis_votes_rejected_total", `reason="other_cluster"`}, {"themis_votes_rejected_total", `reason="old_term"`},
		{"rpc_shard_requests_total", `status="permission_denied"`}, {"themis_peers_refused_total", `reason="unknown_ca"`},
	} {
		if h.counted(t, c[0], c[1]) < 1 {
			t.Errorf("%s{%s} was never counted", c[0], c[1])
		}
	}
	f.end()
	h.ask = nil
	h.start(victim)
	h.until("all is whole again", heal, healthy)
	w.more(t, 50, rto)
	w.end(t, 350)
}

// clusterMap is what a node tells its clients of the map.
type clusterMap struct {
	ClusterID  themis.ClusterID   `json:"cluster_id"`
	Members    []cluster.Node     `json:"members"`
	Controller cluster.Controller `json:"controller"`
}

func (h *hosts) mapOf(t *testing.T, node string) (m clusterMap) {
	t.Helper()
	c, err := h.pool.Admin(t.Context(), h.addr[node]["grpc"], themis.NodeID(node))
	must(t, err)
	got, err := c.GetMap(t.Context(), &nodev1.GetMapRequest{})
	must(t, err)
	must(t, json.Unmarshal(got.GetMapJson(), &m))
	return m
}

// counted sums one counter over all nodes that run and all its labels with this one.
func (h *hosts) counted(t *testing.T, name, label string) (sum float64) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + name + `\{[^}]*` + regexp.QuoteMeta(label) + `[^}]*\} (\S+)$`)
	for _, n := range h.running() {
		resp, err := http.Get("http://" + h.addr[n]["metrics"] + "/metrics") //nolint:noctx // our own node
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, resp.Body.Close())
		must(t, err)
		for _, m := range line.FindAllStringSubmatch(string(body), -1) {
			v, err := strconv.ParseFloat(m[1], 64)
			must(t, err)
			sum += v
		}
	}
	return sum
}

// forgeries are ballots that must not count, made of one that would, with the reason by which each is refused.
var forgeries = []struct {
	reason string
	forge  func(b election.Ballot, sign func(election.Ballot) *sharding.VoteResponse) *sharding.VoteResponse
}{
	{"replayed", func(b election.Ballot, sign func(election.Ballot) *sharding.VoteResponse) *sharding.VoteResponse {
		b.Nonce, b.Epoch = make([]byte, 16), b.Epoch-1 // as it was given in an earlier election
		return sign(b)
	}},
	{"wrong_epoch", func(b election.Ballot, sign func(election.Ballot) *sharding.VoteResponse) *sharding.VoteResponse {
		b.Epoch--
		return sign(b)
	}},
	{"wrong_voter", func(b election.Ballot, sign func(election.Ballot) *sharding.VoteResponse) *sharding.VoteResponse {
		b.Voter.Node = "node-9"
		return sign(b)
	}},
	{"signature", func(b election.Ballot, sign func(election.Ballot) *sharding.VoteResponse) *sharding.VoteResponse {
		m := sign(b)
		m.LastSeq += 1 << 40
		return m
	}},
}

// impostor is somebody at a node's address with the node's certificate, but without its process.
type impostor struct {
	sharding.UnimplementedShardServiceServer
	voter cluster.Member
	src   *pki.Source
	end   func()

	mu      sync.Mutex
	ballots int
}

func (h *hosts) impostor(t *testing.T, m clusterMap, node string) *impostor {
	t.Helper()
	src, err := pki.Open(pki.FilesIn(filepath.Join(h.dir, "pki"), node), pki.Options{})
	must(t, err)
	i := &impostor{src: src, voter: cluster.Member{Node: themis.NodeID(node)}}
	for _, x := range m.Members {
		if string(x.ID) == node {
			i.voter.Storage = x.Storage
		}
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Source: src, Cluster: "demo"})
	must(t, err)
	sharding.RegisterShardServiceServer(server, i)
	lis, err := net.Listen("tcp", h.addr[node]["grpc"])
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	i.end = sync.OnceFunc(func() { server.Stop(); <-served })
	t.Cleanup(i.end)
	return i
}

func (i *impostor) asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ballots
}

// HealthCheck says that the node is well, and was restarted.
func (i *impostor) HealthCheck(context.Context, *sharding.HealthRequest) (*sharding.HealthResponse, error) {
	return &sharding.HealthResponse{Healthy: true, State: "UP", NodeId: string(i.voter.Node), StorageId: string(i.voter.Storage), BootId: "restarted"}, nil
}

// RequestVote gives one forged ballot after the other.
func (i *impostor) RequestVote(_ context.Context, req *sharding.VoteRequest) (*sharding.VoteResponse, error) {
	i.mu.Lock()
	forged := forgeries[i.ballots%len(forgeries)]
	i.ballots++
	i.mu.Unlock()
	b := election.Ballot{
		Cluster: themis.ClusterID(req.GetClusterId()), Shard: themis.ShardID(req.GetShardId()), Voter: i.voter, Boot: "restarted", Epoch: themis.Epoch(req.GetTerm()),
		Nonce: req.GetNonce(), Last: themis.Position{Epoch: themis.Epoch(req.GetTerm()) - 1, Seq: 1 << 40, LSN: 1 << 50},
	}
	var err error
	m := forged.forge(b, func(b election.Ballot) *sharding.VoteResponse {
		var sig []byte
		sig, err = i.src.Sign(b.Signed())
		return &sharding.VoteResponse{
			Term: uint64(b.Epoch), VoteGranted: true, VoterId: string(b.Voter.Node), StorageId: string(b.Voter.Storage), BootId: string(b.Boot), Nonce: b.Nonce,
			LastEpoch: uint64(b.Last.Epoch), LastSeq: uint64(b.Last.Seq), LastLsn: uint64(b.Last.LSN), Signature: sig,
		}
	})
	return m, err
}

// askFalsely asks every node but one for ballots of far epochs, again and again, by those and for what is not granted. The
// returned function ends it; a ballot that was given all the same fails the test.
func (h *hosts) askFalsely(t *testing.T, m clusterMap, but string) (end func()) {
	t.Helper()
	ca, err := pki.LoadCA(filepath.Join(h.dir, "pki"))
	must(t, err)
	stranger := h.holder(t, ca, pki.Request{Node: "node-9", Datacenter: "dc1", Capabilities: []string{pki.Replicate}, Loopback: true})
	bare := h.holder(t, ca, pki.Request{Client: "bare", Capabilities: []string{pki.Read, pki.Write}})
	foreign, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	must(t, err)
	issued, err := foreign.Issue(pki.Request{Node: "node-2", Datacenter: "dc1", Capabilities: []string{pki.Replicate}, Loopback: true})
	must(t, err)
	pair, err := tls.X509KeyPair(issued.CertPEM, issued.KeyPEM)
	must(t, err)
	itself := func(r *sharding.VoteRequest) { r.CandidateId = "node-9" }
	questions := []struct {
		by     *rpc.Pool
		change func(*sharding.VoteRequest)
	}{
		{bare, func(*sharding.VoteRequest) {}},
		{stranger, func(*sharding.VoteRequest) {}}, // in the controller's name
		{stranger, itself},
		{stranger, func(r *sharding.VoteRequest) { itself(r); r.ControllerTerm += 100 }},
		{stranger, func(r *sharding.VoteRequest) { r.ControllerTerm-- }}, // as the controller of an earlier term asked
		{stranger, func(r *sharding.VoteRequest) { r.ClusterId = "another" }},
	}
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for _, n := range without(h.names, but) {
		asking.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				q := questions[i%len(questions)]
				req := &sharding.VoteRequest{
					Term: 1000, CandidateId: string(m.Controller.Node), ShardId: fmt.Sprint("shard-", 1+i%12), Nonce: make([]byte, 16), ClusterId: string(m.ClusterID),
					ControllerTerm: uint64(m.Controller.Term),
				}
				q.change(req)
				if c, err := q.by.Shards(ctx, h.addr[n]["grpc"], themis.NodeID(n)); err == nil {
					if got, err := c.RequestVote(ctx, req); err == nil && got.GetVoteGranted() {
						t.Errorf("%s gave a ballot to question %d", n, i%len(questions))
					}
				}
				if c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", h.addr[n]["grpc"], &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, NextProtos: []string{"h2"}}); err == nil { //nolint:gosec,noctx // it looks only
					_ = c.Close()
				}
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	end = sync.OnceFunc(func() { stop(); asking.Wait() })
	t.Cleanup(end)
	return end
}

// holder is somebody with a certificate of the cluster.
func (h *hosts) holder(t *testing.T, ca *pki.CA, r pki.Request) *rpc.Pool {
	t.Helper()
	issued, err := ca.Issue(r)
	must(t, err)
	files := pki.FilesIn(t.TempDir(), "holder")
	must(t, issued.Save(files))
	src, err := pki.Open(files, pki.Options{})
	must(t, err)
	pool, err := rpc.NewPool(rpc.PoolOptions{Source: src})
	must(t, err)
	t.Cleanup(func() { _ = pool.Close() })
	return pool
}
