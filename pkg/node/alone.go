package node

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/themis"
)

// Of two processes with one identity, such as a node and a copy of its data directory, the first stays and the second is refused.
// The second asks at the address where the first was last reached; whether the first is gone is told by
//
//	its answer         another process runs: refused
//	a refused dial     the process is gone: on
//	silence            the machine is gone, paused or cut off: on once its lease in the control plane has ended
//
// A node that comes back at its own address asks nobody: the address is its own by now.

const (
	bootHeader   = "x-themis-boot" // of who asks, so that the one who is asked hears of its double
	doubleAsk    = 2 * time.Second
	doublePatent = 30 * time.Second // for a lease to end that should have ended in a few seconds
)

var errSilent = errors.New("it may still run")

// checkAlone asks for a double at addr, where this node was last reached. errSilent: it can't be told.
func (n *Node) checkAlone(ctx context.Context, addr string) error {
	if addr == "" || addr == n.addr.GRPC || !guard.On(guard.OneIdentity) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, doubleAsk)
	defer cancel()
	d, err := n.describe(ctx, addr)
	switch {
	case rpc.IsRefused(err):
		return nil
	case err != nil:
		return themis.Errorf(themis.Unreachable, "%s was last reached at %s, where nothing answers: %w: %w", n.id.Node, addr, errSilent, err)
	case d.GetNodeId() != string(n.id.Node) || d.GetBootId() == string(n.boot):
		return nil // the address was given to another node, or leads here
	}
	disk := "the same disk"
	if d.GetStorageId() != string(n.id.Storage) {
		disk = "another disk"
	}
	return themis.Errorf(themis.RefusedUnsafe, "another process runs as %s with %s: boot %s, pid %d, at %s; this is boot %s at %s", n.id.Node, disk, d.GetBootId(), d.GetPid(), addr, n.boot, n.addr.GRPC).
		Do("if node.data_dir %s is a copy, remove it and join a new node; if the node was moved, stop the other process first", n.cfg.Node.DataDir)
}

// beforeControl is checkAlone for a member of the embedded control plane: a double of it must not even begin to vote there. Silence
// is resolved by the other members, where the lease of a process that is gone ends.
func (n *Node) beforeControl(ctx context.Context, j *joined) error {
	err := n.checkAlone(ctx, n.lastAddress())
	if !errors.Is(err, errSilent) {
		return err
	}
	n.log.Warn("waiting for the other members of the control plane to say that no other process runs under this name", "err", err)
	ctx, cancel := context.WithTimeout(ctx, doublePatent)
	defer cancel()
	gone, askErr := n.leaseEnds(ctx, j)
	if gone {
		return nil
	}
	return themis.Errorf(themis.RefusedUnsafe, "%w; its lease has not been seen to end: %w", err, askErr).
		Do("make sure that no other process runs as %s, and start it at its old address, or with the other members of the control plane up", n.id.Node)
}

// leaseEnds waits until the other members of the control plane know no heartbeat of this node.
func (n *Node) leaseEnds(ctx context.Context, j *joined) (bool, error) {
	d, err := n.controlDial(j.Name, n.otherControl(j))
	if err != nil {
		return false, err
	}
	kv, err := control.Connect(ctx, d)
	if err != nil {
		return false, err
	}
	defer func() { _ = kv.Close() }()
	m, err := control.NewMap(kv, j.ID, control.Options{TTL: n.cfg.Control.LeaseTTL})
	if err != nil {
		return false, err
	}
	for {
		v, err := m.View(ctx)
		if _, alive := v.Alive[n.id.Node]; err == nil && !alive {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, errors.Join(ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// mayReplaceProcess judges the announcement of another process under this node's name that has not ended yet.
func (n *Node) mayReplaceProcess(ctx context.Context, m *control.Map) func(cluster.Alive) error {
	return func(cluster.Alive) error {
		v, err := m.View(ctx)
		if err != nil {
			return err
		}
		return n.checkAlone(ctx, v.Nodes[n.id.Node].GRPC)
	}
}

// lastAddress is where this node said it was reached when it last ran.
func (n *Node) lastAddress() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id.Address
}

// markAddress remembers where this node is reached.
func (n *Node) markAddress() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.id.Address == n.addr.GRPC {
		return nil
	}
	n.id.Address = n.addr.GRPC
	return n.id.write(n.cfg.Node.DataDir)
}

// hearDouble is loud when the one who asks runs under this node's identity.
func (n *Node) hearDouble(ctx context.Context) {
	p, ok := rpc.Peer(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	boot := md.Get(bootHeader)
	if !ok || p.Node != n.id.Node || len(boot) != 1 || boot[0] == string(n.boot) {
		return
	}
	n.metrics.doubles.Inc()
	n.log.Error("another process was started with this node's identity", "boot", boot[0], "certificate", p.Serial)
	n.event(cluster.Event{
		Actor: n.actor(), Action: "second_process", Subject: string(n.id.Node), Outcome: "refused", Rule: "one-identity",
		Reason: "boot " + boot[0] + " asked under this node's certificate while boot " + string(n.boot) + " runs",
	})
}

// withBoot says on a call which process asks.
func (n *Node) withBoot(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, bootHeader, string(n.boot))
}
