package node

import (
	"context"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// TestUnknownStaysUnknown: a repetition that is refused says nothing of the attempt before it, whose entry may yet be committed.
func TestUnknownStaysUnknown(t *testing.T) {
	unknown, full := themis.Errorf(themis.OutcomeUnknown, "time ran out"), themis.Errorf(themis.ReadOnly, "a disk is full")
	nobody, late := themis.Errorf(themis.NoPrimary, "nobody leads"), themis.Errorf(themis.Unreachable, "no connection")
	for _, c := range []struct {
		what       string
		repeatable bool
		ends       []error // of the attempts; with the last one time is over
		want       themis.Code
	}{
		{"refused at once", true, []error{full}, themis.ReadOnly},
		{"not done, then refused", true, []error{nobody, full}, themis.ReadOnly},
		{"unknown, then refused", true, []error{unknown, full}, themis.OutcomeUnknown},
		{"unknown, then not done until time is over", true, []error{unknown, nobody, nobody}, themis.OutcomeUnknown},
		{"unknown, then not reached until time is over", true, []error{unknown, late}, themis.OutcomeUnknown},
		{"unknown, then done", true, []error{unknown, nobody, nil}, ""},
		{"unknown, and not to be repeated", false, []error{unknown}, themis.OutcomeUnknown},
		{"not reached until time is over", true, []error{late, late}, themis.NoPrimary},
	} {
		r := &router{n: &Node{}}
		r.n.view.Store(&cluster.View{})
		ctx, cancel := context.WithCancel(t.Context())
		tries := 0
		err := r.try(ctx, c.repeatable, false, func(cluster.View) error {
			tries++
			if tries == len(c.ends) {
				cancel()
			}
			return c.ends[tries-1]
		})
		if got := themis.CodeOf(err); err == nil && c.want != "" || err != nil && got != c.want || tries != len(c.ends) {
			t.Errorf("%s: %v after %d attempts, want %q", c.what, err, tries, c.want)
		}
		cancel()
	}
}
