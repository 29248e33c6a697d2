package bench

import (
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestRestartOptionsThatCantBe(t *testing.T) {
	for _, o := range []RestartOptions{{Entries: -1}, {Entries: 10, Unapplied: 11}, {Rounds: -1}, {EntryBytes: 2 << 20}} {
		if _, err := Restarts(t.Context(), Host{}, o); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestRestartSum(t *testing.T) {
	x := Restart{LimitMs: 2000, Rounds: []float64{300, 100, 2100}}
	if x.sum(); x.ServingMs != 300 || x.WorstMs != 2100 || x.Met {
		t.Errorf("%+v", x)
	}
	x = Restart{Rounds: []float64{2100}}
	if x.sum(); !x.Met {
		t.Error("without a limit nothing is missed")
	}
}

// Real processes, real kills: what was acknowledged is there again, and "few" means as few as were asked for.
func TestRestarts(t *testing.T) {
	dir := t.TempDir()
	r, err := Restarts(t.Context(), testHost(t), RestartOptions{Dir: dir, Entries: 2000, Unapplied: 50, Rounds: 2, EntryBytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 3 || r.LogBytes < 2000*100 {
		t.Fatalf("%+v", r)
	}
	for i, x := range r.Rows {
		if x.ServingMs <= 0 || x.OpenMs <= 0 || x.WorstMs < x.ServingMs {
			t.Errorf("%+v", x)
		}
		if few := i < 2; few && (x.Unapplied < 50 || x.Unapplied > 60) || !few && x.Unapplied < 1000 {
			t.Errorf("%s: %d unapplied", x.Case, x.Unapplied)
		}
	}
	empty(t, dir)
}
