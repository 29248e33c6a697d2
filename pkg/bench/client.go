package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
)

// ahead is the target beside another product: at least as fast.
var ahead = Target{1, 1}

const (
	opPut = "put"
	opGet = "get"

	benchCollection = "bench"
	keysToRead      = 1000
)

// Client measures the Go client against a cluster of three nodes with three copies of each shard under SYNC, beside etcd with
// three members and its own client. Both are three processes of this machine with mutual TLS, at their default settings; both
// clients run in this process, and go straight to the primaries or the leader. o.Writers are how many clients put or get at
// once, each waiting for its answer; Puts go through one client.Writer, which batches, and one clientv3.Client.
func Client(ctx context.Context, nodes playground.Host, workers Host, o Options) (c Comparison, err error) {
	c = Comparison{
		Benchmark: "client", Ours: "client.Writer and client.Get (STRONG), 3 nodes, 3 copies of each shard, SYNC, mTLS",
		Base: "clientv3 Put and Get (linearizable), etcd with 3 members, mTLS, asked at its leader",
	}
	if len(o.Writers) == 0 {
		o.Writers = []int{1, 16, 64}
	}
	if o, err = o.complete(); err != nil {
		return c, err
	}
	c.Began, c.EntryBytes, c.EachMs = time.Now(), o.EntryBytes, o.Each.Milliseconds()
	dir, err := os.MkdirTemp(o.Dir, "client-bench-")
	if err != nil {
		return c, fmt.Errorf("bench client: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := newDuel(ctx, nodes, workers, dir, o)
	defer func() { err = errors.Join(err, d.close(context.WithoutCancel(ctx))) }()
	if err != nil {
		return c, err
	}
	for _, n := range o.Writers {
		for _, op := range []string{opPut, opGet} {
			row, err := d.measure(ctx, op, n)
			if err != nil {
				return c, err
			}
			o.told(&c, row)
		}
	}
	return c, nil
}

// duel is two clusters that run beside each other, one of which is asked at a time.
type duel struct {
	o      Options
	p      *playground.Playground
	c      *client.Client
	w      *client.Writer
	etcd   *etcdTrio
	pids   []int
	rounds int // so far: keys of each are others
}

func newDuel(ctx context.Context, nodes playground.Host, workers Host, dir string, o Options) (d *duel, err error) {
	d = &duel{o: o}
	options := playground.Default()
	options.RF = 3
	if o.Shards > 0 {
		options.Shards = o.Shards
	}
	if d.p, err = playground.Found(ctx, filepath.Join(dir, "cluster"), options, nodes); err != nil {
		return d, err
	}
	if d.c, err = d.p.Client(ctx); err != nil {
		return d, err
	}
	d.w = d.c.NewWriter(client.WriterOptions{})
	if d.etcd, err = startEtcd(ctx, workers, filepath.Join(dir, "etcd")); err != nil {
		return d, err
	}
	info, err := d.p.Info()
	if err != nil {
		return d, err
	}
	for _, n := range info.Nodes {
		if n.Pid != nil {
			d.pids = append(d.pids, *n.Pid)
		}
	}
	for _, p := range d.etcd.all {
		d.pids = append(d.pids, p.cmd.Process.Pid)
	}
	for i := range keysToRead {
		if err := errors.Join(d.put(ctx, readKey(i), i), d.putEtcd(ctx, readKey(i), i)); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (d *duel) close(ctx context.Context) error {
	var errs []error
	if d.etcd != nil {
		errs = append(errs, d.etcd.stop())
	}
	if d.w != nil {
		d.w.Close()
	}
	if d.c != nil {
		errs = append(errs, d.c.Close())
	}
	if d.p != nil {
		_, err := d.p.Stop(ctx)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func readKey(i int) string { return fmt.Sprintf("read-%04d", i) }

func (d *duel) put(ctx context.Context, key string, n int) error {
	_, err := d.w.Put(ctx, benchCollection, key, document(n, n/variants, d.o.EntryBytes))
	return err
}

func (d *duel) putEtcd(ctx context.Context, key string, n int) error {
	_, err := d.etcd.client.Put(ctx, key, string(document(n, n/variants, d.o.EntryBytes)))
	return err
}

func (d *duel) get(ctx context.Context, key string) error {
	got, err := d.c.Get(ctx, benchCollection, key)
	if err == nil && len(got.Value) != d.o.EntryBytes {
		err = fmt.Errorf("%s has %d bytes; want %d", key, len(got.Value), d.o.EntryBytes)
	}
	return err
}

func (d *duel) getEtcd(ctx context.Context, key string) error {
	got, err := d.etcd.client.Get(ctx, key)
	if err == nil && (len(got.Kvs) != 1 || len(got.Kvs[0].Value) != d.o.EntryBytes) {
		err = fmt.Errorf("%s: %d values", key, len(got.Kvs))
	}
	return err
}

// measure takes the rounds of one case: etcd, then ours.
func (d *duel) measure(ctx context.Context, op string, n int) (Row, error) {
	ours := func(ctx context.Context, caller, i int) error { return d.get(ctx, readKey((caller*31+i)%keysToRead)) }
	base := func(ctx context.Context, caller, i int) error {
		return d.getEtcd(ctx, readKey((caller*31+i)%keysToRead))
	}
	if op == opPut {
		ours = func(ctx context.Context, caller, i int) error { return d.put(ctx, d.key(caller, i), caller+i) }
		base = func(ctx context.Context, caller, i int) error { return d.putEtcd(ctx, d.key(caller, i), caller+i) }
	}
	var rounds []Round
	var best written
	for range d.o.Rounds {
		d.rounds++
		theirs, err := d.round(ctx, n, base)
		if err != nil {
			return Row{}, fmt.Errorf("etcd, %s: %w", op, err)
		}
		mine, err := d.round(ctx, n, ours)
		if err != nil {
			return Row{}, fmt.Errorf("ours, %s: %w", op, err)
		}
		rounds = append(rounds, Round{Ours: mine.PerSecond, Base: theirs.PerSecond})
		if mine.PerSecond > best.PerSecond {
			best = mine
		}
	}
	row := newRow(op, n, rounds, &ahead)
	row.P50, row.P99 = best.P50, best.P99
	return row, nil
}

func (d *duel) key(caller, i int) string { return fmt.Sprintf("w%04d-%04d-%08d", caller, d.rounds, i) }

func (d *duel) round(ctx context.Context, n int, call func(ctx context.Context, caller, i int) error) (written, error) {
	if err := rest(ctx, d.pids); err != nil {
		return written{}, err
	}
	return drive(ctx, n, lasting(d.o.Each), call)
}

// rest waits until the processes are at rest, for five seconds at most: what one round leaves to be done is not to weigh on the next.
func rest(ctx context.Context, pids []int) error {
	const look, atRest, most = 200 * time.Millisecond, 40 * time.Millisecond, 5 * time.Second
	for end := time.Now().Add(most); time.Now().Before(end); {
		before, err := used(pids)
		if err != nil {
			return err
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
		after, err := used(pids)
		if err != nil {
			return err
		}
		if after-before <= atRest {
			return nil
		}
	}
	return nil
}

// used is the processor time of processes, in steps of 10 ms.
func used(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, themis.Errorf(themis.Internal, "process %d of the benchmark has ended: %w", pid, err)
		}
		t, err := parseUsed(b)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		sum += t
	}
	return sum, nil
}

// parseUsed reads user and system time, fields 14 and 15 of /proc/<pid>/stat, whose second may hold spaces.
func parseUsed(b []byte) (time.Duration, error) {
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const user, system, tick = 11, 12, 10 * time.Millisecond
	if len(f) <= system {
		return 0, fmt.Errorf("%d fields behind the name", len(f))
	}
	u, err := strconv.ParseInt(f[user], 10, 64)
	if err != nil {
		return 0, err
	}
	k, err := strconv.ParseInt(f[system], 10, 64)
	return time.Duration(u+k) * tick, err
}
