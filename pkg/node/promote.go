package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/themis"
)

// promotion asks a member that runs to take a part in the control plane; done hears what became of it, once.
type promotion struct {
	as   joined
	done chan error
}

// told makes the node what a founding or joining node says it is: a member, or a member with a part in the control plane.
func (n *Node) told(ctx context.Context, j joined) error {
	if own := n.source.Info().Cluster; own != j.Name {
		return themis.Errorf(themis.InvalidArgument, "cluster %s: the certificate of %s is of cluster %s", j.Name, n.id.Node, own).
			Do("name the cluster %s, or issue certificates of cluster %s: themis-cli pki issue --node NODE --cluster %s", own, j.Name, j.Name)
	}
	have := n.joined()
	switch {
	case have == nil:
		if err := n.checkExternal(ctx, j.Name); err != nil {
			return err
		}
	case have.ID == j.ID && j.ControlMember && !have.ControlMember:
		p := promotion{as: j, done: make(chan error, 1)}
		select {
		case n.promotions <- p:
		case <-ctx.Done():
			return themis.Errorf(themis.Deadline, "%s does not take a part in the control plane: %w", n.id.Node, ctx.Err()).Do("run the same command again; see its log")
		}
		select {
		case err := <-p.done:
			return err
		case <-ctx.Done():
			return themis.Errorf(themis.OutcomeUnknown, "%s begins to take a part in the control plane: %w", n.id.Node, ctx.Err())
		}
	}
	return n.become(j)
}

// controlPart is the node's part in the control plane: none, until it is promoted; its embedded member; the controller.
func (n *Node) controlPart(ctx context.Context, m *control.Map, kv *control.Etcd) error {
	loop := &controlLoop{n: n, m: m}
	if !n.embedded() {
		return loop.run(ctx)
	}
	for {
		s := n.etcd.Load()
		if s == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case p := <-n.promotions:
				p.done <- n.promote(ctx, p.as)
				continue
			}
		}
		if voter, err := n.awaitVoter(ctx, s); err != nil || !voter {
			if err == nil {
				err = n.demote(s)
			}
			if err != nil {
				return err
			}
			continue
		}
		// The member in this process shares its fate, so it is the one to ask: no other can hang and this one not.
		kv.SetEndpoints(endpointsOf([]string{s.ClientURL()}))
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return loop.run(ctx) })
		g.Go(func() error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.Done():
				return fmt.Errorf("control plane: %w", errors.Join(control.ErrStopped, s.Err()))
			}
		})
		return g.Wait()
	}
}

// promote starts the member, and remembers it: a start that fails leaves the node as it was.
func (n *Node) promote(ctx context.Context, as joined) error {
	s, err := n.startControl(ctx, &as)
	if err != nil {
		return err
	}
	if err := n.setControl(true, as); err != nil {
		return errors.Join(err, s.Stop())
	}
	n.log.Info("takes a part in the control plane", "peers", as.InitialCluster)
	n.etcd.Store(s)
	return nil
}

// demote undoes promote, where the other members took the learner back before it could vote.
func (n *Node) demote(s *control.Server) error {
	n.etcd.Store(nil)
	n.log.Warn("no part in the control plane: the other members removed it before it could vote", "err", s.Err())
	return errors.Join(s.Stop(), n.setControl(false, joined{}))
}

func (n *Node) setControl(member bool, as joined) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	next, id := *n.id.Joined, n.id
	next.ControlMember, next.Existing, next.InitialCluster = member, member, as.InitialCluster
	id.Joined = &next
	if err := id.write(n.cfg.Node.DataDir); err != nil {
		return err
	}
	n.id.Joined = &next
	return nil
}

// awaitVoter waits until the member votes; false: it ended while it learnt.
func (n *Node) awaitVoter(ctx context.Context, s *control.Server) (bool, error) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-s.Ready():
			if st := s.Status(ctx); !st.Learner && st.Quorum {
				return true, nil
			}
		default:
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-s.Done():
			if n.joined().Existing {
				return false, nil
			}
			return false, fmt.Errorf("control plane: %w", errors.Join(control.ErrStopped, s.Err()))
		case <-t.C:
		}
	}
}

// otherControl are the members of the embedded control plane without this node.
func (n *Node) otherControl(j *joined) []string {
	own := n.controlURL(n.cfg.Control.ClientListen)
	return slices.DeleteFunc(slices.Clone(j.Endpoints), func(u string) bool { return u == own })
}

// firstEndpoints are those to begin with: the own member where it votes already, all others else.
func (n *Node) firstEndpoints(ctx context.Context, j *joined) []string {
	s := n.etcd.Load()
	if s == nil {
		return j.Endpoints
	}
	others := n.otherControl(j)
	select {
	case <-s.Ready():
		if !s.Status(ctx).Learner {
			others = nil
		}
	default:
	}
	if len(others) == 0 {
		return []string{s.ClientURL()}
	}
	return others
}
