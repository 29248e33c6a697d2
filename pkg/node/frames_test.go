package node

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/recording"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// A living cluster and what its nodes recorded are one kind of source: both tell the same states and events.
func TestTheClusterIsSeenAsItWas(t *testing.T) {
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.found(initArgs{Name: "demo", Shards: 2, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Sync})
	well := func(r health.Report) bool { return r.Status == health.Healthy }
	f.until("node-1", "HEALTHY", well)
	c, err := client.New(t.Context(), client.Options{Endpoints: []string{f.nodes["node-1"].addr.GRPC}, Files: pki.FilesIn(f.path("pki"), "operator")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // it was only asked
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	var live []health.Frame
	down := false
	for frame, err := range c.Watch(ctx, 0) {
		if err != nil {
			t.Logf("live: %v", err)
			continue
		}
		live = append(live, frame)
		switch {
		case len(live) == 3:
			f.stop("node-3") // which is told to stop, and hands over what it leads
		case len(live) > 3 && frame.Report.Status != health.Healthy:
			down = true
		}
		if down && len(live) >= 10 {
			break
		}
	}
	if !down {
		t.Fatalf("in %d frames the cluster was never seen without node-3", len(live))
	}
	end := live[len(live)-1].HLC

	past, err := recording.Open(recording.Dir(f.path("node-1")))
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]health.Source{"cluster": c, "recording": past}
	for name, source := range sources {
		for _, moment := range []themis.HLC{live[2].HLC, end} {
			var got health.Frame
			for { // what is recorded of now comes in the next second
				if got, err = source.At(ctx, moment); err == nil && moment.Time().Sub(got.HLC.Time()) < 1500*time.Millisecond {
					break
				}
				select {
				case <-ctx.Done():
					t.Fatalf("%s: of %s there is %s, %v", name, moment.Time(), got.HLC.Time(), err)
				case <-time.After(100 * time.Millisecond):
				}
			}
			if got.HLC > moment {
				t.Errorf("%s: at %s it tells of %s, which came later", name, moment, got.HLC)
			}
			if up := well(got.Report); up != (moment != end) || len(got.Report.Nodes) != 3 {
				t.Errorf("%s: at %s (of %s) %s with %d nodes", name, moment, end, got.Report.Status, len(got.Report.Nodes))
			}
		}
		if _, err := source.At(ctx, 1); themis.CodeOf(err) != themis.NotFound {
			t.Errorf("%s: of 1970: %v", name, err)
		}
	}

	at, err := past.Last(ctx, end)
	if err != nil {
		t.Fatal(err)
	}
	told, err := f.admin("node-1").GetState(ctx, &nodev1.GetStateRequest{AtHlc: end.String()})
	if err != nil || told.GetHlc() != at.GetHlc() || !bytes.Equal(told.GetReportJson(), at.GetReportJson()) {
		t.Errorf("node-1 tells of %s, %v; its recording of %s", told.GetHlc(), err, at.GetHlc())
	}

	// every event that the watch told is in the recording, once
	times := map[string]int{}
	for frame, err := range past.Watch(ctx, 0) {
		if err != nil {
			t.Error(err)
		}
		for _, e := range frame.Events {
			times[e.ID]++
		}
	}
	want := 0
	for _, frame := range live[:len(live)-2] { // the two may be ahead of each other
		for _, e := range frame.Events {
			if want++; times[e.ID] != 1 {
				t.Errorf("%s %s is in the recording %d times", e.Action, e.Subject, times[e.ID])
			}
		}
	}
	if want == 0 || slices.Max(append([]int{0}, valuesOf(times)...)) != 1 {
		t.Errorf("%d events were told; in the recording %v", want, times)
	}
}

func valuesOf(m map[string]int) (out []int) {
	for _, n := range m {
		out = append(out, n)
	}
	return out
}
