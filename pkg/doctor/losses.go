package doctor

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Rescued is one file of writes that a copy had acknowledged, that the shard's new log lacks, and that were kept before they were cut.
type Rescued struct {
	Node     themis.NodeID  `json:"node"`
	Shard    themis.ShardID `json:"shard"`
	File     string         `json:"file"`
	Bytes    themis.Bytes   `json:"bytes"`
	Modified time.Time      `json:"modified"`
	Writes   int            `json:"writes"` // puts and deletes
	Puts     int            `json:"puts"`
	Deletes  int            `json:"deletes"`
	Epoch    themis.Epoch   `json:"epoch"` // of the last of them
	First    themis.Seq     `json:"first_seq"`
	Last     themis.Seq     `json:"last_seq"`
	Problem  string         `json:"problem"` // why not all of it could be read; empty: it could
}

// SetAside is a part of a copy that was damaged and moved away before the copy was rebuilt.
type SetAside struct {
	Node  themis.NodeID  `json:"node"`
	Shard themis.ShardID `json:"shard"`
	Part  string         `json:"part"` // wal or store
	Dir   string         `json:"dir"`
	Time  time.Time      `json:"time"`
}

// LossReport is what losses answers.
type LossReport struct {
	Time     time.Time  `json:"time"`
	Copies   int        `json:"copies"` // that were looked at
	Writes   int        `json:"writes"`
	Rescued  []Rescued  `json:"rescued"`
	SetAside []SetAside `json:"set_aside"`
	Problems []Unlooked `json:"inconclusive"`
}

// Exit is 1 where something was rescued or set aside, 3 where one could not look, else 0.
func (r LossReport) Exit() int {
	switch {
	case len(r.Rescued)+len(r.SetAside) > 0:
		return themis.ExitFailed
	case len(r.Problems) > 0:
		return themis.ExitInconclusive
	}
	return themis.ExitOK
}

// Losses lists what the copies below directories keep in rescued/, and what of them was set aside as damaged. It only reads. dirs and
// shard are as for FindLogs.
func Losses(dirs []string, shard themis.ShardID, now time.Time) (LossReport, error) {
	out := LossReport{Time: now.UTC(), Rescued: []Rescued{}, SetAside: []SetAside{}, Problems: []Unlooked{}}
	shards, err := findShards(dirs)
	if err != nil {
		return out, err
	}
	for _, s := range shards {
		if s.gone != "" {
			out.Problems = append(out.Problems, Unlooked{"losses", string(s.id.Node), s.gone, "ls -l " + s.dir})
			continue
		}
		if s.dir == "" || shard != "" && s.shard != shard {
			continue
		}
		out.Copies++
		if err := out.add(s); err != nil {
			out.Problems = append(out.Problems, Unlooked{"losses", s.dir, err.Error(), "ls -l " + s.dir})
		}
	}
	if out.Copies == 0 && len(out.Problems) == 0 {
		return out, themis.Errorf(themis.InvalidArgument, "no copy of a shard below %s", strings.Join(dirs, ", "))
	}
	return out, nil
}

var asideName = regexp.MustCompile(`^(wal|store)\.damaged-([0-9]{1,12})$`)

func (r *LossReport) add(s shardDir) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if m := asideName.FindStringSubmatch(e.Name()); m != nil && e.IsDir() {
			var at int64
			_, _ = fmt.Sscan(m[2], &at) // digits
			r.SetAside = append(r.SetAside, SetAside{s.id.Node, s.shard, m[1], filepath.Join(s.dir, e.Name()), time.Unix(at, 0).UTC()})
		}
	}
	files, err := os.ReadDir(filepath.Join(s.dir, rescuedDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range files {
		if !strings.HasSuffix(e.Name(), ".ndjson") {
			continue
		}
		f, err := readRescued(filepath.Join(s.dir, rescuedDir, e.Name()))
		if err != nil {
			return err
		}
		f.Node, f.Shard = s.id.Node, cmp.Or(s.shard, f.Shard)
		r.Rescued = append(r.Rescued, f)
		r.Writes += f.Writes
	}
	slices.SortStableFunc(r.Rescued, func(a, b Rescued) int {
		return cmp.Or(strings.Compare(string(a.Node), string(b.Node)), natural(string(a.Shard), string(b.Shard)), cmp.Compare(a.First, b.First))
	})
	return nil
}

// rescuedLine is the part of a rescued write that is counted.
type rescuedLine struct {
	Shard themis.ShardID `json:"shard"`
	Seq   themis.Seq     `json:"seq"`
	Epoch themis.Epoch   `json:"epoch"`
	Op    string         `json:"op"`
}

func readRescued(path string) (out Rescued, err error) {
	f, err := os.Open(path)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return out, err
	}
	out = Rescued{File: path, Bytes: themis.Bytes(st.Size()), Modified: st.ModTime().UTC()}
	d := json.NewDecoder(bufio.NewReader(f))
	for {
		var l rescuedLine
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err == nil && l.Op != "put" && l.Op != "delete" {
			err = fmt.Errorf("%q is no operation", l.Op)
		}
		if err != nil {
			out.Problem = fmt.Sprintf("behind write %d: %v", out.Writes, err)
			return out, nil
		}
		out.Writes++
		if l.Op == "put" {
			out.Puts++
		} else {
			out.Deletes++
		}
		out.Shard, out.Epoch = l.Shard, max(out.Epoch, l.Epoch)
		if out.First == 0 || l.Seq < out.First {
			out.First = l.Seq
		}
		out.Last = max(out.Last, l.Seq)
	}
}
