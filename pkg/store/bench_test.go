package store

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// benchEntries are single-document entries of 1 KB with a random token each, as a loader of new documents makes them; with
// keys > 0 they go over that many keys again and again.
func benchEntries(rng *rand.Rand, j *journal, n, keys int, tagged bool) []themis.Entry {
	j.entries = j.entries[:0]
	body := make([]byte, 1024)
	for i := range body {
		body[i] = byte(rng.IntN(64) + 32) // compresses somewhat, as JSON does
	}
	for range n {
		token := themis.Token(rng.Uint32())
		if keys > 0 {
			token = themis.Token(rng.IntN(keys)) * 2654435761
		}
		tags := themis.Tags{}
		if tagged {
			tags = themis.Tags{RequestID: fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64()), BodyDigest: 1}
		}
		j.add(themis.KindWrite, tags, put(token, fmt.Sprintf("document-%010d", token), string(body)))
	}
	return j.entries
}

func BenchmarkApply(b *testing.B) {
	for _, c := range []struct {
		name         string
		batch, keys  int
		tagged, load bool
	}{
		{"new/batch=1", 1, 0, false, false},
		{"new/batch=64", 64, 0, false, false},
		{"new/batch=512", 512, 0, false, false},
		{"new+id/batch=64", 64, 0, true, false},
		{"over200k/batch=64", 64, 200_000, false, true},
		{"over200k/batch=512", 512, 200_000, false, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			cache := NewCache(256 << 20)
			defer cache.Close()
			s, err := Open(b.TempDir(), Options{Cache: cache})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			rng, j := rand.New(rand.NewPCG(1, 1)), newJournal()
			if c.load {
				for range c.keys / 512 {
					mustApply(b, s, benchEntries(rng, j, 512, c.keys, c.tagged)...)
				}
			}
			b.SetBytes(1024)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += c.batch {
				b.StopTimer()
				entries := benchEntries(rng, j, c.batch, c.keys, c.tagged)
				b.StartTimer()
				mustApply(b, s, entries...)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "docs/s")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	const keys = 200_000
	cache := NewCache(512 << 20)
	defer cache.Close()
	s, err := Open(b.TempDir(), Options{Cache: cache})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	rng, j := rand.New(rand.NewPCG(1, 1)), newJournal()
	for i := 0; i < keys; i += 500 {
		for n := range 500 {
			token := themis.Token(i+n) * 2654435761
			j.write(put(token, fmt.Sprintf("document-%010d", token), string(make([]byte, 1024))))
		}
		mustApply(b, s, j.entries...)
		j.entries = j.entries[:0]
	}
	if _, err := s.Flush(); err != nil {
		b.Fatal(err)
	}
	for name, found := range map[string]bool{"present": true, "absent": false} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				token := themis.Token(rng.IntN(keys)) * 2654435761
				key := fmt.Sprintf("document-%010d", token)
				if !found {
					key += "x"
				}
				if _, ok, err := s.Get(7, token.Placement(), key); ok != found || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
