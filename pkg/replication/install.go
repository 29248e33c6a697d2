package replication

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

const keepCheckpoint = 10 * time.Minute // for an install that broke off to go on with; it holds back room on the disk

// checkpoint is what is installed on a follower, for as long as that takes: when the way breaks off, the next session goes on with it.
type checkpoint struct {
	dir  string // of its own; the files are in store/
	snap store.Snapshot
	used time.Time // when an install of it ended last
}

func (c *checkpoint) files() string { return filepath.Join(c.dir, "store") }

// checkpoint is the one there is, if the log still goes on behind it, else a new one.
func (s *shipper) checkpoint() (*checkpoint, error) {
	r := s.rg.r
	if s.made != nil && r.log.First() <= s.made.snap.Position.Seq+1 {
		return s.made, nil
	}
	s.dropCheckpoint()
	dir, err := os.MkdirTemp(r.o.Dir, checkpointPrefix+"*")
	if err != nil {
		return nil, err
	}
	c := &checkpoint{dir: dir, used: time.Now()}
	if c.snap, err = r.openStore().Checkpoint(c.files()); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	c.snap.ID = rand.Text()
	s.made = c
	return c, nil
}

func (s *shipper) dropCheckpoint() {
	if s.made != nil {
		_ = os.RemoveAll(s.made.dir) // what is left goes at the next start
		s.made = nil
	}
}

const checkpointPrefix = "checkpoint-"

// dropCheckpoints removes what a process left that ended in the middle of an install.
func dropCheckpoints(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, checkpointPrefix+"*"))
	for _, name := range left {
		if err == nil {
			err = os.RemoveAll(name)
		}
	}
	return err
}

// sendState gives a follower the whole store as it is now, or was when an install that broke off began; the log goes on from there.
func (s *shipper) sendState(ctx context.Context, h Hello) error {
	r := s.rg.r
	c, err := s.checkpoint()
	if err != nil {
		return fmt.Errorf("checkpoint for %s: %w", s.to.Node, err)
	}
	snap := c.snap
	p := &InstallProgress{Began: time.Now(), Total: snap.Bytes()}
	show := func(p *InstallProgress) {
		s.mu.Lock()
		s.install = p
		s.mu.Unlock()
	}
	show(p)
	defer show(nil)
	r.o.Logger.Info("install begins", "node", s.to.Node, "epoch", s.rg.epoch, "seq", snap.Position.Seq, "bytes", p.Total, "snapshot", snap.ID)
	started := false
	err = r.o.Transport.Install(ctx, s.to, h, snap, c.files(), func(sent themis.Bytes) {
		now := *p
		if now.Sent = sent; !started {
			started, now.Resumed = true, sent
		}
		p = &now
		show(p)
	})
	c.used = time.Now()
	if err == nil || slices.Contains([]themis.Code{themis.Corrupt, themis.RefusedUnsafe, themis.InvalidArgument, themis.Unimplemented}, themis.CodeOf(err)) {
		s.dropCheckpoint() // done, or it would end the same way again
	}
	if err != nil {
		return fmt.Errorf("install on %s: %w", s.to.Node, err)
	}
	in := Installed{Node: s.to.Node, Bytes: p.Total, Seq: snap.Position.Seq, Took: time.Since(p.Began)}
	r.o.Event("install", "done", "", in.String(), s.rg.epoch)
	return nil
}
