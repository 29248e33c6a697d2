package playground

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// Stop ends every process: it asks them to end, and kills those that have not after 20 seconds, or when ctx ends. It answers how
// many there were; 0: it was stopped already.
func (p *Playground) Stop(ctx context.Context) (int, error) {
	n := 0
	err := p.change(context.WithoutCancel(ctx), func(s *state) error {
		all := p.living(s)
		n = len(all)
		if n == 0 {
			return nil
		}
		return p.host.step(fmt.Sprintf("%d processes stopped", n), func() error { return end(ctx, syscall.SIGINT, all) })
	})
	return n, err
}

// Kill ends a node's process as a crash would. Like the other verbs on one node it answers whether there was anything to do.
func (p *Playground) Kill(ctx context.Context, id themis.NodeID) (bool, error) {
	return p.one(ctx, id, func(_ *state, m *member, st ProcessState) (bool, error) {
		if st == Stopped {
			return false, nil
		}
		return true, kill(ctx, []running{{m.Process, m.ID, m.command}})
	})
}

// StopNode asks a node's process to end and waits for it.
func (p *Playground) StopNode(ctx context.Context, id themis.NodeID) (bool, error) {
	return p.one(ctx, id, func(_ *state, m *member, st ProcessState) (bool, error) {
		if st == Stopped {
			return false, nil
		}
		return true, end(ctx, syscall.SIGTERM, []running{{m.Process, m.ID, m.command}})
	})
}

// StartNode starts a stopped node with the files it had, and waits until it answers on its ports.
func (p *Playground) StartNode(ctx context.Context, id themis.NodeID) (bool, error) {
	return p.one(ctx, id, func(s *state, m *member, st ProcessState) (bool, error) {
		switch st {
		case Running:
			return false, nil
		case Paused:
			return false, p.isPaused(id)
		}
		return true, p.launch(ctx, s, []*member{m})
	})
}

// Pause freezes a node's process: it keeps its connections and answers nothing.
func (p *Playground) Pause(ctx context.Context, id themis.NodeID) (bool, error) {
	return p.one(ctx, id, func(_ *state, m *member, st ProcessState) (bool, error) {
		switch st {
		case Stopped:
			return false, themis.Errorf(themis.InvalidArgument, "%s is stopped; there is nothing to pause", id).Do("themis-cli playground node start %s --data-dir %s", id, p.Dir)
		case Paused:
			return false, nil
		}
		if err := m.Process.signal(m.command, syscall.SIGSTOP); err != nil {
			return false, err
		}
		return true, p.await(ctx, m, Paused)
	})
}

// Resume lets a paused node go on.
func (p *Playground) Resume(ctx context.Context, id themis.NodeID) (bool, error) {
	return p.one(ctx, id, func(_ *state, m *member, st ProcessState) (bool, error) {
		switch st {
		case Stopped:
			return false, themis.Errorf(themis.InvalidArgument, "%s is stopped, not paused", id).Do("themis-cli playground node start %s --data-dir %s", id, p.Dir)
		case Running:
			return false, nil
		}
		if err := m.Process.signal(m.command, syscall.SIGCONT); err != nil {
			return false, err
		}
		return true, p.await(ctx, m, Running)
	})
}

// Add makes one more node, of the same build and under the same CA, starts it, and has the cluster take it in. Repeated after a
// failure on the way it goes on. false: it was a member already.
func (p *Playground) Add(ctx context.Context, id themis.NodeID) (did bool, err error) {
	if err := themis.CheckNode(string(id)); err != nil {
		return false, err
	}
	c, err := p.Client(ctx) // before anything is made or started: there must be a cluster to join
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	err = p.change(ctx, func(s *state) error {
		m, err := p.member(ctx, s, id)
		if err != nil {
			return err
		}
		switch p.look(*m) {
		case Paused:
			return p.isPaused(id)
		case Stopped:
			if err := p.launch(ctx, s, []*member{m}); err != nil {
				return err
			}
		}
		var out struct {
			Changed bool `json:"changed"`
		}
		ctx, cancel := context.WithTimeout(ctx, joinWithin)
		defer cancel()
		if err := c.Act(ctx, "node.join", map[string]string{"addr": m.GRPC}, false, &out); err != nil {
			return fmt.Errorf("%s runs, but the cluster has not taken it in: %w", id, err)
		}
		did = out.Changed
		return p.saveContext(s)
	})
	return did, err
}

const joinWithin = time.Minute

// member finds the node, or makes what it needs to be started.
func (p *Playground) member(ctx context.Context, s *state, id themis.NodeID) (*member, error) {
	for i := range s.Nodes {
		if s.Nodes[i].ID == id {
			return &s.Nodes[i], nil
		}
	}
	n := len(s.Nodes)
	if n >= maxNodes {
		return nil, themis.Errorf(themis.InvalidArgument, "%s: there are %d nodes already, at most %d", id, n, maxNodes)
	}
	ca, err := pki.LoadCA(p.path(pkiDir))
	if err != nil {
		return nil, err
	}
	s.Nodes = append(s.Nodes, member{ID: id, Role: cluster.RoleActive})
	fresh := s.Nodes[n:]
	if err = p.register(ctx, s, fresh); err == nil {
		err = p.issue(ca, requests(fresh))
	}
	if err == nil {
		err = p.configure(fresh)
	}
	if err != nil {
		s.Nodes = s.Nodes[:n]
		return nil, fmt.Errorf("add %s: %w", id, err)
	}
	p.commands(s)
	return &s.Nodes[n], nil
}

func (p *Playground) isPaused(id themis.NodeID) error {
	return themis.Errorf(themis.InvalidArgument, "%s is paused", id).Do("themis-cli playground node resume %s --data-dir %s", id, p.Dir)
}

// one changes one node.
func (p *Playground) one(ctx context.Context, id themis.NodeID, do func(*state, *member, ProcessState) (bool, error)) (did bool, err error) {
	err = p.change(ctx, func(s *state) error {
		var names []string
		for i := range s.Nodes {
			if s.Nodes[i].ID == id {
				did, err = do(s, &s.Nodes[i], p.look(s.Nodes[i]))
				return err
			}
			names = append(names, string(s.Nodes[i].ID))
		}
		return themis.Errorf(themis.InvalidArgument, "no node %q in this playground; there are: %s", id, strings.Join(names, ", ")).
			Do("themis-cli playground status --data-dir %s", p.Dir)
	})
	return did, err
}

func (p *Playground) await(ctx context.Context, m *member, want ProcessState) error {
	ctx, cancel := context.WithTimeout(ctx, killWithin)
	defer cancel()
	for p.look(*m) != want {
		if !pause(ctx, pollEvery) {
			return themis.Errorf(themis.Deadline, "%s is %s, and should be %s", m.ID, p.look(*m), want).Do("run the same command again")
		}
	}
	return nil
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// saveContext writes a context for the playground under a name that no other cluster has, unless its files are gone.
func (p *Playground) saveContext(s *state) error {
	if p.host.Contexts == nil {
		return nil
	}
	base := "playground"
	if own := strings.Trim(notInName.ReplaceAllString(filepath.Base(p.Dir), "-"), "-."); own != "" && own != base {
		base += "-" + own[:min(len(own), 40)]
	}
	f := p.files()
	c := client.Context{Cluster: s.Cluster, CA: f.CA, Cert: f.Cert, Key: f.Key}
	for _, m := range s.Nodes {
		c.Endpoints = append(c.Endpoints, m.GRPC)
	}
	name, err := p.host.Contexts.SaveBeside(base, c)
	if err == nil {
		s.Context = name
	}
	return err
}
