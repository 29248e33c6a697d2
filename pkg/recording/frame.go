package recording

import (
	"encoding/json"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Frame reads a state frame as it is sent and recorded. What a newer version added is left out.
func Frame(m *nodev1.StateFrame) (health.Frame, error) {
	f := health.Frame{ReportJSON: m.GetReportJson(), Observed: map[themis.NodeID]time.Time{}}
	if err := json.Unmarshal(m.GetReportJson(), &f.Report); err != nil {
		return f, themis.Errorf(themis.Internal, "health report: %w", err)
	}
	var err error
	if f.HLC, err = themis.ParseHLC(m.GetHlc()); err != nil {
		return f, err
	}
	if f.Events, err = Events(m.GetEventsJson()); err != nil {
		return f, err
	}
	for id, ms := range m.GetObservedAtMs() {
		f.Observed[themis.NodeID(id)] = time.UnixMilli(int64(ms)) //nolint:gosec // a time
	}
	return f, nil
}

// Events reads events as they are sent, one a line.
func Events(lines [][]byte) ([]cluster.Event, error) {
	out := make([]cluster.Event, 0, len(lines))
	for _, b := range lines {
		var e cluster.Event
		if err := json.Unmarshal(b, &e); err != nil {
			return nil, themis.Errorf(themis.Internal, "event: %w", err)
		}
		out = append(out, e)
	}
	return out, nil
}
