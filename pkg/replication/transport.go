package replication

import (
	"context"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

// Ship is one message of a primary to a follower: frames behind what was sent before, or none, as a heartbeat.
type Ship struct {
	Frames []byte // whole frames; not changed after it was sent
	Commit themis.Seq
	Sent   time.Duration // on the primary's own clock; comes back in the ack
	Whole  bool          // the record counts this follower: it is not blank any more
	Free   bool          // the primary relies on no read lease of this follower, and will not in this stream
}

// Reply is one answer of a follower.
type Reply struct {
	Durable, Applied themis.Seq
	LSN              themis.LSN    // behind the last durable entry
	Echo             time.Duration // Sent of the newest message that this answers
	Mute             bool          // it would give no ballot now
	Promised         themis.Epoch  // above the stream's epoch: the primary must step down
	Refused          string        // the stream ends, for this reason
}

// Outgoing is a primary's end of a stream. Send and Recv may be called at the same time, each by one goroutine.
type Outgoing interface {
	Send(Ship) error
	Recv() (Reply, error)
}

// Incoming is a follower's end of a stream.
type Incoming interface {
	Recv() (Ship, error)
	Send(Reply) error
}

// Transport carries a primary's words to its followers. Open ends with ctx; a Welcome that is not accepted comes with no stream.
type Transport interface {
	Open(ctx context.Context, to cluster.Member, h Hello) (Outgoing, Welcome, error)
	// Install sends a checkpoint: every file of snap in dir, but those that an earlier Install of the same snap.ID had brought whole
	// before it broke off; then where the log goes on. progress is told of bytes that are there or on their way, first of those from before.
	Install(ctx context.Context, to cluster.Member, h Hello, snap store.Snapshot, dir string, progress func(sent themis.Bytes)) error
}

// Registry commits changes of the shard's record in the control plane: only if the record still has the revision and the epoch
// of seen. STALE_PLAN: it had changed, and surely was not changed by this call. Any other error: not known; the same change
// may be submitted again, since it can take effect only once.
type Registry interface {
	ChangeShard(ctx context.Context, seen, next cluster.Shard) (cluster.Shard, error)
}
