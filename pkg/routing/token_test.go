package routing

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// slowMurmur3 is a second, plain implementation of MurmurHash3 x86_32 with seed 0, byte by byte: the oracle for TokenOf.
func slowMurmur3(s string) uint32 {
	rotl := func(x uint32, n uint) uint32 { return x<<n | x>>(32-n) }
	scramble := func(k uint32) uint32 { return rotl(k*0xcc9e2d51, 15) * 0x1b873593 }
	h, k := uint32(0), uint32(0)
	for i := range len(s) {
		k |= uint32(s[i]) << (8 * (i % 4))
		if i%4 == 3 {
			h = rotl(h^scramble(k), 13)*5 + 0xe6546b64
			k = 0
		}
	}
	h ^= scramble(k) // a tail of no bytes scrambles to 0
	h ^= uint32(len(s))
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

func TestTokenOfKnownKeys(t *testing.T) { // SHD-01
	for key, want := range map[string]themis.Token{"": 0, "test": 0xba6bd213, "Hello, world!": 0xc0363e43, "user_12345": 1848081969} {
		if got := TokenOf(key); got != want {
			t.Errorf("TokenOf(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestTokenOfAgainstSecondImplementation(t *testing.T) { // TST-17
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		b := make([]byte, rng.IntN(70))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if got, want := TokenOf(string(b)), slowMurmur3(string(b)); uint32(got) != want {
			t.Fatalf("TokenOf(%q) = %d, the second implementation says %d", b, got, want)
		}
	}
}

func FuzzTokenOf(f *testing.F) {
	for _, s := range []string{"", "a", "ab", "abc", "abcd", "user_12345", "\x00\xff\x80", "Straße"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := TokenOf(s), slowMurmur3(s); uint32(got) != want {
			t.Fatalf("TokenOf(%q) = %d, the second implementation says %d", s, got, want)
		}
	})
}

func TestTokenFromWire(t *testing.T) { // C-62
	if got, err := TokenFromWire(4294967295); err != nil || got != MaxToken {
		t.Errorf("largest token: %d, %v", got, err)
	}
	if _, err := TokenFromWire(4294967296); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("2^32: %v, want INVALID_ARGUMENT", err)
	}
}

func TestCompositeKeyIsUnambiguous(t *testing.T) { // SHD-08
	lists := [][]string{
		{}, {""}, {"", ""}, {"a"}, {"1:a"}, {"ab", "c"}, {"a", "bc"}, {"a", "b", "c"}, {"abc"}, {"a", "", "bc"}, {"a:2", "bc"},
		{"2:ab1:c"}, {"ab1:c"}, {"0:"}, {"10", "1"}, {"1", "01"}, {"ä", "b"}, {"\x00", "\x00\x00"}, {"\x00\x00", "\x00"},
	}
	seen := map[string]int{}
	for i, l := range lists {
		k := CompositeKey(l...)
		if j, ok := seen[k]; ok {
			t.Errorf("%q and %q both give %q", lists[j], l, k)
		}
		seen[k] = i
	}
	if got := CompositeKey("eu", "user:7"); got != "2:eu6:user:7" {
		t.Errorf("CompositeKey is part of what is stored and must not change: %q", got)
	}
}

// FuzzCompositeKey reads the key back: an encoding that can be decoded is one that no other list shares.
func FuzzCompositeKey(f *testing.F) {
	f.Add("a", "b", "c")
	f.Add("", "1:", ":")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		want := []string{a, b, c}
		rest := CompositeKey(a, b, c)
		for _, p := range want {
			n, i := 0, 0
			for ; rest[i] != ':'; i++ {
				n = n*10 + int(rest[i]-'0')
			}
			if rest = rest[i+1:]; rest[:n] != p {
				t.Fatalf("read back %q, want %q", rest[:n], p)
			}
			rest = rest[n:]
		}
		if rest != "" {
			t.Fatalf("%q left over", rest)
		}
	})
}

func TestModulo(t *testing.T) { // SHD-03, C-04: index i is shard-(i+1)
	for n, want := range map[int]themis.ShardID{3: "shard-3", 8: "shard-3"} {
		f, err := Modulo(n)
		if err != nil {
			t.Fatal(err)
		}
		if got := f(3847592834); got != want {
			t.Errorf("3847592834 mod %d: %s, want %s", n, got, want)
		}
	}
	for _, n := range []int{-1, 0, MaxShards + 1} {
		if _, err := Modulo(n); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("Modulo(%d): %v, want INVALID_ARGUMENT", n, err)
		}
	}
}

func TestStrategyByName(t *testing.T) {
	for _, name := range []string{"ring", "modulo"} {
		f, err := StrategyByName(name, 4)
		if err != nil {
			t.Fatal(err)
		}
		owned := map[themis.ShardID]int{}
		for i := range 4000 {
			owned[f(TokenOf("user_"+strconv.Itoa(i)))]++
		}
		if len(owned) != 4 {
			t.Errorf("%s: %d shards own keys, want 4", name, len(owned))
		}
	}
	if _, err := StrategyByName("hash%n", 4); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("unknown strategy: %v", err)
	}
}
