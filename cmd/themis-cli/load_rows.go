package main

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

// rowFlags are those of `load --dataset`.
type rowFlags struct {
	dataset, config string
	rows            int64
	seed            uint64
	again, force    bool
}

func (f *rowFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.dataset, "dataset", "", "the data set: oltp or vectors")
	fs.Int64Var(&f.rows, "rows", 0, "rows of the data set")
	fs.Uint64Var(&f.seed, "seed", 1, "what the rows follow from")
	fs.StringVar(&f.config, "config", "", "`FILE` with the configuration that the cluster must have")
	fs.BoolVar(&f.again, "again", false, "write the rows that are there, too")
	fs.BoolVar(&f.force, "force", false, "load although the disks can't hold it, or the configuration is another")
}

// given is a flag that says something about rows.
func (f *rowFlags) given(cmd *cobra.Command) string {
	for _, name := range []string{"rows", "seed", "config", "again", "force"} {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

func (a *app) loadRows(cmd *cobra.Command, args []string, f loadFlags) error {
	switch {
	case f.rows.dataset == "":
		return usage.Wrong("what to load is missing: want FILE.ndjson, or --dataset oltp --rows N").Do("themis-cli load --help")
	case len(args) > 0:
		return usage.Wrong("%s and --dataset %s: want one of them", args[0], f.rows.dataset)
	case f.run != "" || cmd.Flags().Changed("key-field"):
		return usage.Wrong("--resume and --key-field are for files; a data set goes on by itself: repeat the command")
	case f.rows.rows < 1 || f.rows.rows > workload.MaxRows:
		return usage.Wrong("--rows %d: want 1 to %d", f.rows.rows, int64(workload.MaxRows))
	}
	set, err := workload.ParseDataset(f.rows.dataset)
	if err != nil {
		return err
	}
	if f.collection == "" {
		f.collection = f.rows.dataset
	}
	if err := f.check(""); err != nil {
		return err
	}
	var settings []byte
	if f.rows.config != "" {
		if settings, err = readSettings(cmd.Context(), f.rows.config); err != nil {
			return err
		}
	}
	return a.withClient(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
		if settings != nil && !f.rows.force {
			if err := sameConfig(ctx, c, f.rows.config, settings); err != nil {
				return err
			}
		}
		src := &rowSource{set: set, seed: f.rows.seed, rows: f.rows.rows}
		return a.load(ctx, c, src, loadAnswer{Dataset: f.rows.dataset, Seed: &f.rows.seed, Present: new(int64)}, f)
	})
}

// readSettings reads a file of settings that has no fault.
func readSettings(ctx context.Context, path string) ([]byte, error) {
	b, err := readLimited(ctx, path, settingsMax)
	if err != nil {
		return nil, err
	}
	_, err = config.Load([]config.Source{{Name: path, Data: b}}, nil, nil)
	return b, err
}

// sameConfig refuses a file that would change the cluster's settings: the load would measure or fill another cluster than is meant.
func sameConfig(ctx context.Context, c *client.Client, path string, settings []byte) error {
	done, err := c.ApplyConfig(ctx, filepath.Base(path), settings, true)
	if err != nil {
		return err
	}
	var changes []config.Change
	if err := json.Unmarshal(done.Changes, &changes); err != nil {
		return themis.Errorf(themis.Internal, "changes: %w", err)
	}
	if len(changes) == 0 {
		return nil
	}
	var keys []string
	for _, ch := range changes {
		keys = append(keys, ch.Key)
	}
	return themis.Errorf(themis.RefusedUnsafe, "the cluster's configuration differs from %s in %s; --force loads all the same", path, strings.Join(keys, ", ")).
		Do("themis-cli cluster apply-config %s", path)
}

// fill writes the rows that are not there yet, or all of them where that is asked for, if there is room, and answers which those are.
func (a *app) fill(ctx context.Context, l *loader, rows *rowSource) (written *rowSource, err error) {
	if !l.f.rows.again {
		l.begin("looking")
		rest, err := rows.rest(ctx, l.c, l.f.collection)
		if err != nil {
			return nil, err
		}
		rows = rest
	}
	l.note(func() { *l.out.Present = rows.rows - rows.left() })
	if rows.left() > 0 && !l.f.rows.force {
		frame, err := l.c.Frame(ctx)
		if err == nil {
			err = roomFor(frame.Report, rows.left(), rows.set.RowBytes(rows.seed))
		}
		if err != nil {
			return nil, err
		}
	}
	return rows, l.write(ctx, rows)
}

// packed is the least part of a document's bytes that a disk surely needs for it: what is stored is compressed.
const packed = 0.25

// roomFor refuses rows that the disks surely can't hold.
func roomFor(r health.Report, rows int64, rowBytes themis.Bytes) error {
	type disk struct{ host, name string }
	type load struct {
		nodes []string
		free  themis.Bytes
		rows  float64
	}
	disks := map[disk]*load{}
	for _, n := range r.Nodes {
		if n.DiskFree == nil {
			continue // it can't be said
		}
		host, _, _ := net.SplitHostPort(n.GRPC) //nolint:errcheck // then all of those are one
		at := disk{host, n.Disk}
		if n.Disk == "" {
			at.host = string(n.ID) // its own
		}
		if disks[at] == nil {
			disks[at] = &load{free: *n.DiskFree}
		}
		d := disks[at]
		d.nodes, d.free = append(d.nodes, string(n.ID)), min(d.free, *n.DiskFree)
		for _, s := range r.Shards {
			for _, x := range s.Replicas {
				if x.Node == n.ID && s.TokenShare != nil {
					d.rows += float64(rows) * *s.TokenShare
				}
			}
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(disks), func(x, y disk) int { return strings.Compare(x.host+x.name, y.host+y.name) }) {
		d := disks[at]
		need := d.rows * float64(rowBytes) * packed
		if need <= float64(d.free) {
			continue
		}
		return themis.Errorf(themis.RefusedUnsafe, "the disk of %s can't hold it: %d rows in copies come there, of %d bytes each, packed to a quarter at best %s; %s is free. --force loads all the same",
			strings.Join(d.nodes, ", "), int64(d.rows), rowBytes, humanBytes(int64(need)), humanBytes(int64(d.free))).Do("themis-cli node list -o wide")
	}
	return nil
}
