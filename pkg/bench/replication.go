package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// trio is three processes with a certificate each.
type trio struct {
	dir   string
	ids   []themis.NodeID // the first leads
	all   []*process
	grpc  map[themis.NodeID]string
	raws  map[themis.NodeID]string // of the followers
	files map[themis.NodeID]pki.Files
}

// Replication measures writes under SYNC with two followers, in three processes of h's program, against bare TLS and three times
// write and fdatasync in the same processes. Writers are goroutines in the primary's process. What is measured is all of
// replication.Replica.Write: conditions, framing, group commit, shipping over mTLS gRPC, three fsyncs and commit; no calls of
// clients, and no request ids. It is measured twice: "replicate" applies nothing but positions, as what stands beside it stores
// nothing, and "write" is with the stores of all three.
func Replication(ctx context.Context, h Host, o Options) (c Comparison, err error) {
	c = Comparison{
		Benchmark: "replication", Ours: "replication.Replica.Write, SYNC, two followers, three processes, mTLS gRPC; replicate: without what a store takes, write: with the stores of all three",
		Base: "bare TLS 1.3 to two processes, write and fdatasync of as many frames as there are writers in all three",
	}
	if o, err = o.complete(); err != nil {
		return c, err
	}
	c.Began, c.EntryBytes, c.EachMs = time.Now(), o.EntryBytes, o.Each.Milliseconds()
	dir, err := os.MkdirTemp(o.Dir, "replication-bench-")
	if err != nil {
		return c, fmt.Errorf("bench replication: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t, err := startTrio(ctx, h, dir)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	for _, bare := range []bool{true, false} {
		for _, writers := range o.Writers {
			row, err := t.measure(o, bare, writers)
			if err != nil {
				return c, err
			}
			o.told(&c, row)
		}
	}
	return c, nil
}

func startTrio(ctx context.Context, h Host, dir string) (_ *trio, err error) {
	t := &trio{dir: dir, ids: []themis.NodeID{"node-1", "node-2", "node-3"}, grpc: map[themis.NodeID]string{}, raws: map[themis.NodeID]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.stop())
		}
	}()
	if t.files, err = certificates(filepath.Join(dir, "pki"), t.ids); err != nil {
		return t, err
	}
	for i, id := range t.ids {
		p, err := h.start(ctx, string(id))
		if err != nil {
			return t, err
		}
		t.all = append(t.all, p)
		if err := os.Mkdir(t.home(id), 0o700); err != nil {
			return t, err
		}
		var at served
		if err := p.ask("serve", serveArgs{Node: id, Files: t.files[id], Dir: t.home(id)}, &at); err != nil {
			return t, err
		}
		t.grpc[id] = at.GRPC
		if i > 0 {
			t.raws[id] = at.Raw
		}
	}
	return t, nil
}

func (t *trio) home(id themis.NodeID) string { return filepath.Join(t.dir, string(id)) }

func (t *trio) stop() error {
	var errs []error
	for _, p := range t.all {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// certificates makes a CA and a certificate for each node.
func certificates(dir string, ids []themis.NodeID) (map[themis.NodeID]pki.Files, error) {
	ca, err := pki.NewCA(pki.CAOptions{Cluster: benchCluster})
	if err != nil {
		return nil, err
	}
	if err := ca.Save(dir); err != nil {
		return nil, err
	}
	out := map[themis.NodeID]pki.Files{}
	for _, id := range ids {
		issued, err := ca.Issue(pki.Request{Node: id, Datacenter: "local", Loopback: true, Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}})
		if err != nil {
			return nil, err
		}
		out[id] = pki.FilesIn(dir, string(id))
		save := out[id]
		save.CA = "" // it is there
		if err := issued.Save(save); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// record makes the first node primary of a shard that all three hold. With k = 2 none of them may leave the set while it is measured.
func (t *trio) record() cluster.Shard {
	policy := cluster.Policy{Mode: themis.Sync, K: 2, RF: 3}
	s := cluster.Shard{
		Format: cluster.Format, ID: benchShard, Epoch: 1, Primary: memberOf(t.ids[0]), Boot: bootOf(t.ids[0]), Want: policy, Have: policy, Revision: 1,
	}
	for _, id := range t.ids {
		s.Replicas = append(s.Replicas, cluster.Replica{Member: memberOf(id), Class: cluster.Voter})
		s.ISR = append(s.ISR, memberOf(id))
	}
	return s
}

// each asks all three at once.
func (t *trio) each(do func(id themis.NodeID, p *process) error) error {
	var g errgroup.Group
	for i, p := range t.all {
		g.Go(func() error { return do(t.ids[i], p) })
	}
	return g.Wait()
}

// measure takes all rounds of one case, on copies of its own.
func (t *trio) measure(o Options, bare bool, writers int) (Row, error) {
	op := "write"
	if bare {
		op = "replicate"
	}
	name := fmt.Sprintf("%s-%d", op, writers)
	err := t.each(func(id themis.NodeID, p *process) error {
		return p.ask("open", openArgs{Dir: filepath.Join(t.home(id), name), Bare: bare}, nil)
	})
	if err == nil {
		learn := learnArgs{Record: t.record(), Addrs: t.grpc}
		err = t.each(func(_ themis.NodeID, p *process) error { return p.ask("learn", learn, nil) })
	}
	if err != nil {
		return Row{}, err
	}
	lead := t.all[0]
	var rounds []Round
	var best, last written
	for i := range o.Rounds {
		var base, ours written
		if err := t.settle(last.Last); err != nil {
			return Row{}, err
		}
		if err := lead.ask("raw", rawArgs{Peers: t.raws, Dir: t.home(t.ids[0]), Batch: writers, Bytes: o.EntryBytes, For: o.Each}, &base); err != nil {
			return Row{}, err
		}
		write := func() error {
			return lead.ask("write", writeArgs{Writers: writers, Bytes: o.EntryBytes, Round: i, For: o.Each}, &ours)
		}
		if o.Profile != "" && i == o.Rounds-1 {
			err = t.profiled(filepath.Join(o.Profile, name), write)
		} else {
			err = write()
		}
		if err != nil {
			return Row{}, err
		}
		rounds = append(rounds, Round{Ours: ours.PerSecond, Base: base.PerSecond})
		if last = ours; ours.PerSecond > best.PerSecond {
			best = ours
		}
	}
	if err := t.settle(last.Last); err != nil {
		return Row{}, err
	}
	row := newRow(op, writers, rounds, targetOf(replicationTargets, writers))
	row.P50, row.P99 = best.P50, best.P99
	return row, nil
}

// profiled writes a processor profile of each process to prefix-<node>.pprof while do runs.
func (t *trio) profiled(prefix string, do func() error) error {
	err := t.each(func(id themis.NodeID, p *process) error {
		return p.ask("profile", fmt.Sprintf("%s-%s.pprof", prefix, id), nil)
	})
	if err != nil {
		return err
	}
	err = do()
	return errors.Join(err, t.each(func(_ themis.NodeID, p *process) error { return p.ask("profile", "", nil) }))
}

func (t *trio) settle(seq themis.Seq) error {
	return t.each(func(_ themis.NodeID, p *process) error { return p.ask("settle", settleArgs{seq}, nil) })
}
