package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

// prober is a client of the cluster that reads and writes one document of each shard every few milliseconds, and knows the
// longest time without a success. A pause is that time: from the end of the last success before it to the end of the first after
// it. Without any fault it is the probes' spacing and what one request takes.
type prober struct {
	probes []*probe
	disk   *probe // a file of 4 KB beside the nodes', written and synced alone: what the disk does by itself
	stop   context.CancelFunc
	all    sync.WaitGroup
}

const probeCollection = "probes"

// probe is one shard's reads, or its writes. One is under way at a time.
type probe struct {
	shard themis.ShardID
	write bool
	call  func(context.Context) error
	close func() error // of the disk's

	mu      sync.Mutex
	last    time.Time     // end of the last success
	started time.Time     // begin of it
	worst   time.Duration // longest time without a success since the last take
	errs    map[themis.Code]int
}

// newProber begins to probe; each shard's document is written first. file is made on the disk of the nodes.
func newProber(ctx context.Context, c *client.Client, every time.Duration, file string) (*prober, error) {
	m, err := c.Map(ctx)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // the benchmark's own
	if err != nil {
		return nil, fmt.Errorf("probe the disk: %w", err)
	}
	block := make([]byte, 4096)
	p := &prober{disk: &probe{call: func(context.Context) error {
		if _, err := f.WriteAt(block, 0); err != nil {
			return err
		}
		return fdatasync(f)
	}, close: f.Close}}
	for _, s := range m.Shards {
		key := keyIn(m, s.ID)
		write := func(ctx context.Context) error {
			_, err := c.Put(ctx, probeCollection, key, []byte(`{"probe":true}`))
			return err
		}
		read := func(ctx context.Context) error {
			_, err := c.Get(ctx, probeCollection, key)
			return err
		}
		if err := write(ctx); err != nil {
			return nil, err
		}
		p.probes = append(p.probes, &probe{shard: s.ID, call: read}, &probe{shard: s.ID, write: true, call: write})
	}
	ctx, p.stop = context.WithCancel(ctx)
	for _, x := range append(slices.Clone(p.probes), p.disk) {
		x.last, x.errs = time.Now(), map[themis.Code]int{}
		p.all.Go(func() { x.run(ctx, every) })
	}
	return p, nil
}

// keyIn is a key of the shard.
func keyIn(m *client.Map, id themis.ShardID) string {
	for i := 0; ; i++ {
		if k := fmt.Sprint("probe-", i); m.ShardOf(k) == id {
			return k
		}
	}
}

func (p *prober) close() error {
	p.stop()
	p.all.Wait()
	return p.disk.close()
}

// probeTimeout is the time of one request: long enough for a rebuild.
const probeTimeout = 2 * time.Minute

func (x *probe) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		began := time.Now()
		try, cancel := context.WithTimeout(ctx, probeTimeout)
		err := x.call(try)
		cancel()
		if ctx.Err() != nil {
			return
		}
		x.ended(began, time.Now(), err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (x *probe) ended(began, now time.Time, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		x.errs[themis.CodeOf(err)]++
		return
	}
	x.worst = max(x.worst, now.Sub(x.last))
	x.last, x.started = now, began
}

// take returns the longest pause that ended since it was last called.
func (x *probe) take() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	d := x.worst
	x.worst = 0
	return d
}

// since answers whether a request that began after t has succeeded.
func (x *probe) since(t time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.started.After(t)
}

// take is every probe's longest pause since the last call, and the longest of all.
func (p *prober) take() (by map[*probe]time.Duration, worst time.Duration) {
	by = map[*probe]time.Duration{}
	for _, x := range p.probes {
		by[x] = x.take()
		worst = max(worst, by[x])
	}
	return by, worst
}

// await waits until every probe has succeeded with a request that began after t.
func (p *prober) await(ctx context.Context, t time.Time) error {
	for {
		var waits []string
		for _, x := range p.probes {
			if !x.since(t) {
				waits = append(waits, x.String())
			}
		}
		if len(waits) == 0 {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return errors.Join(themis.Errorf(themis.Deadline, "no success of %v since %s ago", waits, time.Since(t).Round(time.Millisecond)), err)
		}
	}
}

func (x *probe) String() string {
	if x.write {
		return "writes of " + string(x.shard)
	}
	return "reads of " + string(x.shard)
}

// errors counts what was answered instead of a success.
func (p *prober) errors() map[string]int {
	out := map[string]int{}
	for _, x := range p.probes {
		x.mu.Lock()
		for code, n := range x.errs {
			kind := "read "
			if x.write {
				kind = "write "
			}
			out[kind+string(code)] += n
		}
		x.mu.Unlock()
	}
	return out
}
