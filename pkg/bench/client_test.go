package bench

import (
	"os"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/playground"
)

// Two real clusters of three processes, and both clients.
func TestClient(t *testing.T) {
	dir := t.TempDir()
	nodes := playground.Host{Environ: append(os.Environ(), beNode+"=1")}
	c, err := Client(t.Context(), nodes, testHost(t), Options{Dir: dir, Writers: []int{2}, Rounds: 1, Each: 50 * time.Millisecond, EntryBytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Rows) != 2 || c.Rows[0].Op != opPut || c.Rows[1].Op != opGet {
		t.Fatalf("rows: %+v", c.Rows)
	}
	for _, r := range c.Rows {
		if r.AtOnce != 2 || r.Ours <= 0 || r.Base <= 0 || r.Target == nil || r.Goal != 1 {
			t.Errorf("%+v", r)
		}
	}
	empty(t, dir)
}

func TestParseUsed(t *testing.T) {
	const fields = ") S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 1 0 999"
	for _, name := range []string{"7 (themis", "7 (a) b (c"} {
		if got, err := parseUsed([]byte(name + fields)); err != nil || got != 4*time.Second {
			t.Errorf("%s: %s, %v; want 4s", name, got, err)
		}
	}
	for _, bad := range []string{"", "7 (x) S 1 2", "7 (x" + ") S 1 2 3 4 5 6 7 8 9 10 a 150 0"} {
		if _, err := parseUsed([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
