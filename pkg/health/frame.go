package health

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Frame is the state of the cluster at one moment, with the events since the frame before.
type Frame struct {
	HLC        themis.HLC
	Report     Report
	ReportJSON json.RawMessage // as it was sent
	Events     []cluster.Event
	Observed   map[themis.NodeID]time.Time // when each node was last heard
}

// Source is where the faces take frames from: a cluster that lives (*client.Client) or what its nodes recorded (*recording.Recording).
type Source interface {
	// Watch yields frames with the events behind from, and an error each time it fails. A living cluster yields one at least once
	// a second, from 0 on with what is new, and goes on by itself after an error until ctx ends or the loop is left. A recording
	// yields the frames behind from as fast as they are taken, and ends.
	Watch(ctx context.Context, from themis.HLC) iter.Seq2[Frame, error]
	// At is the last frame not after t; its HLC tells how long before. NOT_FOUND: nothing that early is recorded.
	At(ctx context.Context, t themis.HLC) (Frame, error)
}
