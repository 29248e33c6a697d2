package tui

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write testdata anew")

// golden compares with a file below testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; -rewrite writes it anew\n--- got\n%s\n--- want\n%s", file, got, want)
	}
}

var sizes = []Size{{40, 24}, {80, 24}, {120, 40}, {200, 50}}

// TestFrames holds what every screen looks like in each situation and width.
func TestFrames(t *testing.T) {
	all := scenes()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, s := range sizes {
			for page := range screens {
				l := look{screen: page, selected: 1}.clamp(all[name], s)
				golden(t, fmt.Sprintf("%s-%s-%d.txt", name, screenNames[page], s.Width), bare(draw(all[name], l, s)))
			}
		}
	}
}
