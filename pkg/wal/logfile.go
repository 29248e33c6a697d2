package wal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"github.com/themisdb/themis/pkg/themis"
)

// logFormat is the format of the directory that this code writes.
const logFormat = 1

// Identity is whose log a directory holds. An empty field stands for any, where one is asked for.
type Identity struct {
	Cluster themis.ClusterID `json:"cluster"`
	Shard   themis.ShardID   `json:"shard"`
	Storage themis.StorageID `json:"storage"`
}

// logFile is the content of LOG: one line of JSON, then a line with the CRC32C of the first.
type logFile struct {
	Format int `json:"format"`
	Identity
	Base      themis.Position     `json:"base"`      // the log begins behind it: its first entry is Base.Seq + 1
	Epochs    []themis.EpochStart `json:"epochs"`    // oldest first; one covers Base
	Resetting bool                `json:"resetting"` // all segments there are are from before a Reset and must go
}

func (l logFile) encode() []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	b = append(b, '\n')
	return append(b, sumLine(b)...)
}

// sumLine is the second line of LOG, for its first.
func sumLine(first []byte) string {
	return fmt.Sprintf("crc32c %08x\n", crc32.Checksum(first, castagnoli))
}

// decodeLogFile reads what encode wrote, byte for byte; anything else is themis.ErrMalformed, a later format ErrUpgrade.
func decodeLogFile(b []byte) (logFile, error) {
	var l logFile
	line, sum, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return l, fmt.Errorf("%w: %s: cut short", themis.ErrMalformed, logName)
	}
	if string(sum) != sumLine(b[:len(line)+1]) {
		return l, fmt.Errorf("%w: %s: checksum does not match", themis.ErrMalformed, logName)
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return l, fmt.Errorf("%w: %s: %w", themis.ErrMalformed, logName, err)
	}
	if l.Format > logFormat {
		return l, fmt.Errorf("%w: %s has format %d", ErrUpgrade, logName, l.Format)
	}
	if !bytes.Equal(l.encode(), b) {
		return l, fmt.Errorf("%w: %s: not as it was written", themis.ErrMalformed, logName)
	}
	if err := checkLineage(l.Base, l.Epochs); err != nil {
		return l, fmt.Errorf("%w: %s: %w", themis.ErrMalformed, logName, err)
	}
	return l, nil
}

func (l logFile) write(dir string) error {
	if err := replace(filepath.Join(dir, logName), l.encode()); err != nil {
		return fmt.Errorf("replace %s: %w", filepath.Join(dir, logName), err)
	}
	return nil
}

// readLogFile reads LOG; os.ErrNotExist where there is none.
func readLogFile(dir string) (logFile, error) {
	b, err := os.ReadFile(filepath.Join(dir, logName))
	if err != nil {
		return logFile{}, err
	}
	return decodeLogFile(b)
}

// foreign says that a directory belongs to somebody else, naming both.
func (i Identity) foreign(want Identity, dir string) error {
	for _, f := range []struct{ what, is, want string }{
		{"cluster", string(i.Cluster), string(want.Cluster)},
		{"shard", string(i.Shard), string(want.Shard)},
		{"storage", string(i.Storage), string(want.Storage)},
	} {
		if f.want != "" && f.is != f.want {
			return themis.Errorf(themis.InvalidArgument, "log %s belongs to %s %q, not to %q", dir, f.what, f.is, f.want).
				In(want.Shard).Do("check data_dir: each node needs its own; the log was left as it is")
		}
	}
	return nil
}

// checkLineage says what is wrong with a list of epoch starts over a log that begins behind base.
func checkLineage(base themis.Position, starts []themis.EpochStart) error {
	for i, s := range starts {
		if s.Seq == 0 || s.Epoch == 0 {
			return fmt.Errorf("epoch %d starts at seq %d: both begin at 1", s.Epoch, s.Seq)
		}
		if i > 0 && (s.Epoch <= starts[i-1].Epoch || s.Seq <= starts[i-1].Seq) {
			return fmt.Errorf("epoch %d from seq %d behind epoch %d from seq %d", s.Epoch, s.Seq, starts[i-1].Epoch, starts[i-1].Seq)
		}
	}
	if base.Seq == 0 && (base.Epoch != 0 || base.LSN != 0) {
		return errors.New("a base of seq 0 has epoch 0 and lsn 0")
	}
	if at := epochAt(starts, base.Seq); at != base.Epoch {
		return fmt.Errorf("base seq %d has epoch %d, the epoch starts say %d", base.Seq, base.Epoch, at)
	}
	return nil
}

// epochAt is the epoch of the entry at seq; 0 before the first start.
func epochAt(starts []themis.EpochStart, seq themis.Seq) themis.Epoch {
	for _, s := range slices.Backward(starts) {
		if s.Seq <= seq {
			return s.Epoch
		}
	}
	return 0
}

// startsUpTo are the starts of entries that are still there when the log ends at last.
func startsUpTo(starts []themis.EpochStart, last themis.Seq) []themis.EpochStart {
	n := len(starts)
	for n > 0 && starts[n-1].Seq > last {
		n--
	}
	return slices.Clone(starts[:n])
}

// oldStarts is how many starts of epochs are kept that began before the log does: they tell where a copy that was away that long left
// the others.
const oldStarts = 64

// startsFrom are the starts that still matter when the log begins behind base: the one that covers it, all later ones, and the newest of
// those before.
func startsFrom(starts []themis.EpochStart, base themis.Seq) []themis.EpochStart {
	n := 0
	for n+1 < len(starts) && starts[n+1].Seq <= base {
		n++
	}
	return slices.Clone(starts[max(0, n-oldStarts):])
}
