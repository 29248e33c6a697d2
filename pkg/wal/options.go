package wal

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

const (
	defaultSegmentBytes = 8 << 20
	defaultBatchBytes   = 1 << 20
	defaultQueueBytes   = 64 << 20
	defaultLinger       = 300 * time.Microsecond
	lingerAlone         = 100 * time.Microsecond // without a newcomer

	maxOps = 1 << 16 // operations in one entry
)

// Options are the settings of one log. Zero values take the defaults. Open copies them.
type Options struct {
	Cluster themis.ClusterID // must be that in LOG; a new log takes it
	Shard   themis.ShardID
	Storage themis.StorageID

	SegmentBytes themis.Bytes  // roll after this much; 1 to 64 MiB, default 8 MiB
	BatchBytes   themis.Bytes  // one write and fsync takes at most this much; 4 KiB to 16 MiB, default 1 MiB
	QueueBytes   themis.Bytes  // Begin answers OVERLOADED when this much waits; BatchBytes to 1 GiB, default 64 MiB
	Linger       time.Duration // a leader waits at most this long for writers seen around the last commit; at most 10 ms, default 300 µs, negative: never

	// Tap gets every batch of Begin just before it is written here, so that it can be shipped at the same time. It is called
	// under the commit lock, one batch after the other in order of seq: it must not block and must not call the log.
	Tap func(Batch)
	// Gather is called by the leader of a batch before it closes the batch. It may wait a moment for what brings more writers,
	// such as the answers to those of the batch before. It is called under the commit lock and must not change the log.
	Gather func()
	// OnSync gets the length of every write and fsync, and what it made durable. It is called under the commit lock.
	OnSync func(took time.Duration, entries, bytes int)

	sync func(*os.File) error // fdatasync, but in tests
}

// Batch is a run of frames, one behind the other as they are in the log. Frames is never changed again: it may be held.
type Batch struct {
	Frames  []byte
	First   themis.Seq
	Last    themis.Seq
	Entries int
	Prev    themis.Position // before First
	End     themis.Position // behind Last
}

func (o Options) withDefaults() Options {
	def := func(v *themis.Bytes, d themis.Bytes) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.SegmentBytes, defaultSegmentBytes)
	def(&o.BatchBytes, defaultBatchBytes)
	def(&o.QueueBytes, max(defaultQueueBytes, o.BatchBytes))
	if o.Linger == 0 {
		o.Linger = defaultLinger
	}
	if o.sync == nil {
		o.sync = fdatasync
	}
	return o
}

// Validate names every setting that is out of bounds, as one INVALID_ARGUMENT.
func (o Options) Validate() error {
	o = o.withDefaults()
	var faults []error
	within := func(name string, v, low, high themis.Bytes) {
		if v < low || v > high {
			faults = append(faults, fmt.Errorf("%s %d: want %d to %d", name, v, low, high))
		}
	}
	given := func(name, v string) {
		if v == "" {
			faults = append(faults, fmt.Errorf("%s: empty", name))
		}
	}
	given("cluster", string(o.Cluster))
	given("shard", string(o.Shard))
	given("storage", string(o.Storage))
	within("segment_bytes", o.SegmentBytes, 1<<20, 64<<20)
	within("batch_bytes", o.BatchBytes, 4<<10, 16<<20)
	within("queue_bytes", o.QueueBytes, o.BatchBytes, 1<<30)
	if o.Linger > 10*time.Millisecond {
		faults = append(faults, fmt.Errorf("linger %s: want at most 10ms", o.Linger))
	}
	if len(faults) == 0 {
		return nil
	}
	return themis.Errorf(themis.InvalidArgument, "log options: %w", errors.Join(faults...)).In(o.Shard)
}
