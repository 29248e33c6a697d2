package playground

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/themisdb/themis/pkg/client"
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
		return p.host.step(fmt.Sprintf("%d processes stopped", n), func() error { return end(ctx, all) })
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
		return true, end(ctx, []running{{m.Process, m.ID, m.command}})
	})
}

// StartNode starts a stopped node with the files it had, and waits until it answers on its ports.
func (p *Playground) StartNode(ctx context.Context, id themis.NodeID) (bool, error) {
	return p.one(ctx, id, func(s *state, m *member, st ProcessState) (bool, error) {
		switch st {
		case Running:
			return false, nil
		case Paused:
			return false, themis.Errorf(themis.InvalidArgument, "%s is paused", id).Do("themis-cli playground node resume %s --data-dir %s", id, p.Dir)
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

// Add would add a node to the running cluster. No version of the server takes one yet, so nothing is started.
func (p *Playground) Add(context.Context, themis.NodeID) error {
	return themis.Errorf(themis.Unimplemented, "this version's clusters take no further nodes; nothing was started").
		Do("themis-cli playground --nodes N --data-dir ANOTHER")
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
	for i := 1; i < 100; i++ {
		name := base
		if i > 1 {
			name = fmt.Sprintf("%s-%d", base, i)
		}
		if other, err := p.host.Contexts.Load(name); err == nil && other.CA != c.CA {
			if _, err := os.Stat(other.CA); !errors.Is(err, os.ErrNotExist) {
				continue
			}
		}
		s.Context = name
		return p.host.Contexts.Save(name, c)
	}
	return themis.Errorf(themis.InvalidArgument, "contexts: %s-99 and all below are taken", base).Do("themis-cli context list")
}
