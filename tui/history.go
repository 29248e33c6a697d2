package tui

import (
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	bucketFor  = 2 * time.Second // frames come every second, so none stays empty while they come
	buckets    = 150
	historyFor = buckets * bucketFor
	noValue    = int64(-1)
	lagMost    = int64(10 * 365 * 24 * time.Hour / time.Millisecond) // so that no arithmetic on what a node claims overflows
)

// History remembers how far every copy lagged in the last five minutes, in ms. It is fed with reports, live or recorded, and goes
// by their time. The zero value is ready; one goroutine at a time.
type History struct {
	newest int64 // number of the newest bucket: unix time / bucketFor
	copies map[copyID]*[buckets]int64
}

type copyID struct {
	shard themis.ShardID
	node  themis.NodeID
}

// Add takes the report in. Of several values in one bucket the largest stays. A report of a node whose clock is behind counts as
// new: what is drawn never runs backwards.
func (h *History) Add(r health.Report) {
	now := max(h.newest, r.Time.UnixMilli()/bucketFor.Milliseconds())
	if h.copies == nil {
		h.copies, h.newest = map[copyID]*[buckets]int64{}, now
	}
	for ; h.newest < now; h.newest++ {
		if now-h.newest > buckets {
			h.newest = now - buckets
		}
		for _, c := range h.copies {
			c[(h.newest+1)%buckets] = noValue
		}
	}
	for _, s := range r.Shards {
		for _, c := range s.Replicas {
			if c.LagMs == nil {
				continue
			}
			at := h.ring(copyID{s.ID, c.Node})
			at[now%buckets] = max(at[now%buckets], min(max(*c.LagMs, 0), lagMost))
		}
	}
	for id, c := range h.copies {
		if empty(c) {
			delete(h.copies, id)
		}
	}
}

func (h *History) ring(id copyID) *[buckets]int64 {
	c := h.copies[id]
	if c == nil {
		c = new([buckets]int64)
		for i := range c {
			c[i] = noValue
		}
		h.copies[id] = c
	}
	return c
}

func empty(c *[buckets]int64) bool {
	for _, v := range c {
		if v != noValue {
			return false
		}
	}
	return true
}

// Series is the copy's lag in n steps, oldest first; noValue where it wasn't known. Of what falls into one step the largest counts.
func (h *History) Series(shard themis.ShardID, node themis.NodeID, n int) []int64 {
	out := make([]int64, max(0, n))
	var c *[buckets]int64
	if h != nil {
		c = h.copies[copyID{shard, node}]
	}
	for i := range out {
		out[i] = noValue
		if c == nil {
			continue
		}
		from := i * buckets / n
		for b := from; b < max(from+1, (i+1)*buckets/n); b++ {
			out[i] = max(out[i], c[(h.newest+1+int64(b))%buckets])
		}
	}
	return out
}
