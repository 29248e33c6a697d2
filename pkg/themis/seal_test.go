package themis

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

type sealed struct {
	Format int               `json:"format"`
	Name   string            `json:"name"`
	Peers  map[string]string `json:"peers,omitempty"`
	List   []string          `json:"list"`
	Sum    string            `json:"crc32c"`
}

func TestSealFindsEveryFlippedBit(t *testing.T) {
	in := sealed{Format: 1, Name: "node-1", Peers: map[string]string{"a": "1", "b": "2"}, List: []string{"x"}}
	b, err := Seal(&in, &in.Sum)
	if err != nil {
		t.Fatal(err)
	}
	var out sealed
	if err := Unseal(b, &out, &out.Sum); err != nil || out.Name != in.Name || out.Peers["b"] != "2" {
		t.Fatalf("%+v: %v", out, err)
	}
	for i := range 8 * len(b) {
		bad := slices.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		var out sealed
		if err := Unseal(bad, &out, &out.Sum); !errors.Is(err, ErrMalformed) {
			t.Fatalf("bit %d of %s was flipped, and it was read as %+v: %v", i, b, out, err)
		}
	}
	for n := range b {
		var out sealed
		if err := Unseal(b[:n], &out, &out.Sum); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d of %d bytes were read: %v", n, len(b), err)
		}
	}
}

// TestUnsealTellsNewerFromDamaged: what a newer version wrote is no damage, of which the advice is to give it up.
func TestUnsealTellsNewerFromDamaged(t *testing.T) {
	type more struct {
		Format int            `json:"format"`
		Name   string         `json:"name"`
		Peers  map[string]int `json:"peers"` // another type
		Also   string         `json:"also"`
		Sum    string         `json:"crc32c"`
	}
	for name, newer := range map[string]more{
		"a field more":   {Format: 1, Name: "node-1", Also: "x"},
		"another format": {Format: 2, Name: "node-1", Peers: map[string]int{"a": 1}},
	} {
		b, err := Seal(&newer, &newer.Sum)
		if err != nil {
			t.Fatal(err)
		}
		var out sealed
		if err := Unseal(b, &out, &out.Sum); CodeOf(err) != Unimplemented || !strings.Contains(err.Error(), "UPGRADE_NEEDED") || errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		b[len(b)/2] ^= 1
		if err := Unseal(b, &out, &out.Sum); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s, and damaged: %v", name, err)
		}
	}
}

func FuzzUnseal(f *testing.F) {
	in := sealed{Format: 1, Name: "node-1", List: []string{"x"}}
	b, err := Seal(&in, &in.Sum)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		var out sealed
		if Unseal(b, &out, &out.Sum) != nil {
			return
		}
		if again, err := Seal(&out, &out.Sum); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("changed on the way: %s, %s: %v", b, again, err)
		}
	})
}
