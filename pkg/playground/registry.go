package playground

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// The registry is a directory with one file for each playground of the user, which holds its path. It keeps playgrounds from
// choosing each other's ports, and List finds them. An entry whose playground is gone is taken away by whoever meets it.

func entryName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:8]) + ".path"
}

// register lists the playground and reserves ports for fresh, which are nodes of s, with nobody else at it.
func (p *Playground) register(ctx context.Context, s *state, fresh []member) error {
	taken := map[string]bool{}
	take := func(list []member) {
		for i := range list {
			for _, q := range list[i].ports() {
				taken[*q.addr] = true
			}
		}
	}
	take(s.Nodes)
	if p.host.Registry == "" {
		return errors.Join(reserve(ctx, fresh, taken), p.write(s))
	}
	if err := os.MkdirAll(p.host.Registry, 0o700); err != nil {
		return themis.Errorf(themis.InvalidArgument, "list of playgrounds: %w", err).Do("set HOME, or XDG_CONFIG_HOME, to a directory of yours")
	}
	l, err := lockFile(ctx, filepath.Join(p.host.Registry, lockName), "another command is choosing ports for a playground")
	if err != nil {
		return err
	}
	defer l.Close() //nolint:errcheck // closing gives the lock back
	for _, dir := range registered(p.host.Registry) {
		other, err := (&Playground{Dir: dir}).read()
		if err == nil && other != nil && dir != p.Dir {
			take(other.Nodes)
		}
	}
	if err := reserve(ctx, fresh, taken); err != nil {
		return err
	}
	if err := p.write(s); err != nil { // before the lock is given back: from now on others see the ports
		return err
	}
	return replaceFile(filepath.Join(p.host.Registry, entryName(p.Dir)), []byte(p.Dir+"\n"))
}

// registered are the directories of the playgrounds that are still there.
func registered(registry string) []string {
	entries, err := os.ReadDir(registry)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		name := filepath.Join(registry, e.Name())
		if !strings.HasSuffix(name, ".path") {
			continue
		}
		b, err := os.ReadFile(name) //nolint:gosec // the user's own directory
		if err != nil {
			continue
		}
		dir := strings.TrimSuffix(string(b), "\n")
		if _, err := os.Stat(filepath.Join(dir, stateName)); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(name)
			continue
		}
		out = append(out, dir)
	}
	slices.Sort(out)
	return out
}

// List finds the playgrounds of this user that were finished, in the order of their directories' names.
func List(h Host) ([]Info, error) {
	h, err := h.complete()
	if err != nil {
		return nil, err
	}
	out := []Info{}
	for _, dir := range registered(h.Registry) {
		p, err := Open(dir, h)
		if err != nil {
			continue // half made, or of another version
		}
		info, err := p.Info()
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}
