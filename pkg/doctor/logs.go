package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// Log is one shard's log in a directory of this machine.
type Log struct {
	Dir     string
	Node    themis.NodeID // by the node.json above it; empty: none is there
	Shard   themis.ShardID
	Want    wal.Identity // whose log it should be; empty fields are not known
	WantErr string       // why whose log it should be can't be told, though there is a node.json
	Gone    string       // why the node's logs are not where they should be: Dir is its data directory; empty: this is a log
}

const (
	identityName = "node.json"
	shardsDir    = "shards"
	walDir       = "wal"
	rescuedDir   = "rescued"
)

// FindLogs finds the logs below directories, each of them once: each is a playground's directory, a node's data directory, one of its
// shards, or a log itself. shard is the only one that counts; empty: all. INVALID_ARGUMENT where a directory is none of these.
func FindLogs(dirs []string, shard themis.ShardID) ([]Log, error) {
	shards, err := findShards(dirs)
	if err != nil {
		return nil, err
	}
	var out []Log
	for _, s := range shards {
		if shard == "" || s.shard == shard || s.gone != "" {
			out = append(out, Log{
				Dir: s.log, Node: s.id.Node, Shard: s.shard, WantErr: s.idErr, Gone: s.gone,
				Want: wal.Identity{Cluster: s.id.cluster(), Shard: s.shard, Storage: s.id.Storage},
			})
		}
	}
	if len(out) == 0 && shard != "" {
		var have []string
		for _, s := range shards {
			if s.gone == "" && !slices.Contains(have, string(s.shard)) {
				have = append(have, string(s.shard))
			}
		}
		return nil, themis.Errorf(themis.InvalidArgument, "no log of %s below %s; there are: %s", shard, strings.Join(dirs, ", "), orNone(have))
	}
	return out, nil
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// shardDir is where one copy of a shard is kept.
type shardDir struct {
	dir   string // …/shards/shard-1; empty: only the log was named
	log   string
	shard themis.ShardID // empty: not told by any name
	id    nodeFile
	idErr string
	gone  string // why the copies of a node that should be here are not found; dir and log are its data directory
}

// nodeFile is the part of node.json that says whose directory it is.
type nodeFile struct {
	Node    themis.NodeID    `json:"node_id"`
	Storage themis.StorageID `json:"storage_id"`
	Joined  *struct {
		ID themis.ClusterID `json:"cluster_id"`
	} `json:"joined"`
}

func (n nodeFile) cluster() themis.ClusterID {
	if n.Joined == nil {
		return ""
	}
	return n.Joined.ID
}

// findShards finds the copies below directories. One that two of them lead to counts once, by its real path.
func findShards(dirs []string) ([]shardDir, error) {
	var out []shardDir
	at := map[string]int{}
	for _, dir := range dirs {
		shards, err := findShardsIn(dir)
		if err != nil {
			return nil, err
		}
		for _, s := range shards {
			path, err := filepath.EvalSymlinks(s.log)
			if err != nil {
				path = s.log // what is wrong with it shows when it is read
			}
			i, twice := at[path]
			switch {
			case !twice:
				at[path] = len(out)
				out = append(out, s)
			case out[i].dir == "":
				out[i] = s // which tells more
			}
		}
	}
	return out, nil
}

func findShardsIn(dir string) ([]shardDir, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "data directory: %w", err)
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "data directory: %w", err)
	}
	switch {
	case isFile(filepath.Join(dir, client.PlaygroundFile)):
		return ofPlayground(dir)
	case isDir(filepath.Join(dir, shardsDir)):
		return ofNode(dir)
	case isDir(filepath.Join(dir, walDir)):
		return []shardDir{ofShard(dir)}, nil
	case isLog(dir):
		s := shardDir{log: dir}
		if parent := ofShard(filepath.Dir(dir)); parent.log == dir {
			s = parent
		}
		return []shardDir{s}, nil
	case isFile(filepath.Join(dir, identityName)):
		return nil, themis.Errorf(themis.InvalidArgument, "%s is a node's data directory and holds no shard", dir)
	}
	return nil, themis.Errorf(themis.InvalidArgument, "%s is no data directory: it has neither %s, %s, %s nor log segments", dir, client.PlaygroundFile, shardsDir, walDir).
		Do("themisdb-repl-doctor validate-wal --data-dir DIR")
}

func ofPlayground(dir string) ([]shardDir, error) {
	p, err := client.LoadPlayground(dir)
	if err != nil {
		return nil, err
	}
	var out []shardDir
	for _, n := range p.Nodes {
		if _, err := os.Stat(filepath.Join(n.DataDir, identityName)); err != nil { // every node makes it when it is started for the first time
			why := fmt.Sprintf("its copies can't be looked at: %v", err)
			if errors.Is(err, fs.ErrNotExist) {
				why += ": the data directory is gone, is not mounted, or was never used"
			}
			out = append(out, shardDir{dir: n.DataDir, log: n.DataDir, id: nodeFile{Node: n.ID}, gone: why})
			continue
		}
		shards, err := ofNode(n.DataDir)
		if err != nil {
			return nil, fmt.Errorf("data directory of %s: %w", n.ID, err)
		}
		out = append(out, shards...)
	}
	return out, nil
}

func ofNode(dir string) ([]shardDir, error) {
	entries, err := os.ReadDir(filepath.Join(dir, shardsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "data directory: %w", err)
	}
	var out []shardDir
	for _, e := range entries {
		if id, err := themis.ParseShardID(e.Name()); err == nil && e.IsDir() && string(id) == e.Name() {
			out = append(out, ofShard(filepath.Join(dir, shardsDir, e.Name())))
		}
	}
	slices.SortFunc(out, func(a, b shardDir) int { return natural(string(a.shard), string(b.shard)) })
	return out, nil
}

// natural orders shard-2 before shard-10.
func natural(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// ofShard reads who dir belongs to from its name and from the node.json above it.
func ofShard(dir string) shardDir {
	s := shardDir{dir: dir, log: filepath.Join(dir, walDir)}
	if id, err := themis.ParseShardID(filepath.Base(dir)); err == nil && string(id) == filepath.Base(dir) {
		s.shard = id
	}
	name := filepath.Join(filepath.Dir(filepath.Dir(dir)), identityName)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err == nil {
		err = json.Unmarshal(b, &s.id)
	}
	if err != nil {
		s.id, s.idErr = nodeFile{}, fmt.Sprintf("%s can't be read: %v", name, err)
	}
	return s
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// isLog says whether dir holds what a log consists of: LOG, MARK, or a segment.
func isLog(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() == logName || e.Name() == markName || isSegment(e.Name())
	})
}

const (
	logName    = "LOG"
	markName   = "MARK"
	segmentLen = 20
)

func isSegment(name string) bool {
	return len(name) == segmentLen && strings.Trim(name, "0123456789") == ""
}
