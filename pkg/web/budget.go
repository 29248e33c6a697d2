package web

import "sync/atomic"

// budget bounds what all requests hold together.
type budget struct {
	max  int64
	held atomic.Int64
}

// take answers whether there was room for n more, and holds it.
func (b *budget) take(n int64) bool {
	if b.held.Add(n) > b.max {
		b.held.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.held.Add(-n) }
