package election

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// TestCount runs the pictures in testdata/count.txt: a shard, its ballots, and who wins.
//
//	shard mode=sync k=1 epoch=6 voters=a,b,c isr=a,b [primary=a] [joining=d]
//	NODE epoch=7 seq=90 [for=7] [disk=other] [lease=800ms] [resigned=6] · silent NODE why · load NODE 2 · stopping NODE · allow-loss
func TestCount(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "count.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
		given, want, ok := strings.Cut(part, "----\n")
		if !ok {
			t.Fatalf("no ---- in\n%s", part)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(given, "# "), "\n")
		t.Run(name, func(t *testing.T) {
			if got := picture(Count(parse(t, given))); strings.TrimSpace(got) != strings.TrimSpace(want) {
				t.Errorf("%sgot:\n%swant:\n%s", given, got, want)
			}
		})
	}
}

func disk(n string) cluster.Member {
	return cluster.Member{Node: themis.NodeID(n), Storage: themis.StorageID("disk-" + n)}
}

func parse(t *testing.T, text string) Request {
	r := Request{Silent: map[themis.NodeID]string{}, Load: map[themis.NodeID]int{}}
	num := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for row := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		f := strings.Fields(row)
		kv := map[string]string{}
		for _, x := range f[1:] {
			if k, v, ok := strings.Cut(x, "="); ok {
				kv[k] = v
			}
		}
		switch f[0] {
		case "#":
		case "silent":
			r.Silent[themis.NodeID(f[1])] = strings.Join(f[2:], " ")
		case "load":
			r.Load[themis.NodeID(f[1])] = int(num(f[2]))
		case "stopping":
			r.Stopping = map[themis.NodeID]bool{themis.NodeID(f[1]): true}
		case "allow-loss":
			r.AllowLoss = true
		case "shard":
			s := cluster.Shard{ID: "shard-1", Epoch: themis.Epoch(num(kv["epoch"]))}
			s.Have = cluster.Policy{Mode: themis.Mode(kv["mode"]), K: int(num(kv["k"]))}
			for v := range strings.SplitSeq(kv["voters"], ",") {
				s.Replicas = append(s.Replicas, cluster.Replica{Member: disk(v), Class: cluster.Voter})
			}
			if j := kv["joining"]; j != "" {
				s.Replicas = append(s.Replicas, cluster.Replica{Member: disk(j), Class: cluster.Async})
			}
			for v := range strings.SplitSeq(kv["isr"], ",") {
				s.ISR = append(s.ISR, disk(v))
			}
			s.Primary = disk(kv["primary"])
			r.Shard, r.Epoch = s, s.Epoch+1
		default:
			b := Ballot{Shard: "shard-1", Voter: disk(f[0]), Epoch: r.Epoch, Last: themis.Position{Epoch: themis.Epoch(num(kv["epoch"])), Seq: themis.Seq(num(kv["seq"]))}}
			if v := kv["for"]; v != "" {
				b.Epoch = themis.Epoch(num(v))
			}
			if v := kv["disk"]; v != "" {
				b.Voter.Storage = themis.StorageID(v)
			}
			if v := kv["lease"]; v != "" {
				d, err := time.ParseDuration(v)
				if err != nil {
					t.Fatal(err)
				}
				b.LeaseRemaining = d
			}
			if v := kv["resigned"]; v != "" {
				b.Resigned = themis.Epoch(num(v))
			}
			r.Ballots = append(r.Ballots, b)
		}
	}
	return r
}

func picture(r Result) string {
	out := ""
	if r.Winner == nil {
		out += "nobody: " + r.Why + "\n"
	} else {
		out += fmt.Sprintf("winner %s (%d, %d)", r.Winner.Voter, r.Winner.Last.Epoch, r.Winner.Last.Seq)
		if r.Wait > 0 {
			out += fmt.Sprintf(" after %s", r.Wait)
		}
		if r.MayLose {
			out += ", may lose"
		}
		out += "\n"
	}
	for _, o := range r.Others {
		out += o.String() + " [" + o.Rule + "]\n"
	}
	return out
}

func TestSignedHoldsEveryField(t *testing.T) {
	base := Ballot{Cluster: "c", Shard: "s", Voter: disk("a"), Boot: "b", Epoch: 3, Last: themis.Position{Seq: 1, Epoch: 2, LSN: 3}, LeaseRemaining: time.Second, Nonce: []byte("n")}
	seen := map[string]string{string(base.Signed()): "base"}
	for name, change := range map[string]func(*Ballot){
		"cluster": func(b *Ballot) { b.Cluster = "d" }, "shard": func(b *Ballot) { b.Shard = "t" }, "node": func(b *Ballot) { b.Voter.Node = "x" },
		"storage": func(b *Ballot) { b.Voter.Storage = "x" }, "boot": func(b *Ballot) { b.Boot = "x" }, "epoch": func(b *Ballot) { b.Epoch++ },
		"last seq": func(b *Ballot) { b.Last.Seq++ }, "last epoch": func(b *Ballot) { b.Last.Epoch++ }, "last lsn": func(b *Ballot) { b.Last.LSN++ },
		"lease": func(b *Ballot) { b.LeaseRemaining += time.Millisecond }, "nonce": func(b *Ballot) { b.Nonce = []byte("m") }, "resigned": func(b *Ballot) { b.Resigned++ },
		"shifted": func(b *Ballot) { b.Cluster, b.Shard = "cs", "" },
	} {
		b := base
		change(&b)
		if other, twice := seen[string(b.Signed())]; twice {
			t.Errorf("a change of %s is not signed: the same bytes as %s", name, other)
		}
		seen[string(b.Signed())] = name
	}
}

func TestLease(t *testing.T) {
	now := time.Now()
	l := Lease{Sent: now, Length: ReadLease, Margin: ReadLeaseMargin}
	if !l.Holds(now.Add(1799*time.Millisecond)) || l.Holds(now.Add(1800*time.Millisecond)) || (Lease{}).Holds(now) {
		t.Fatalf("until %v", l.Until().Sub(now))
	}
}
