package replication

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// rescued is one line of a file in rescued/: a write that this copy had in its log and the shard's new log lacks.
type rescued struct {
	Shard      themis.ShardID      `json:"shard"`
	Seq        themis.Seq          `json:"seq"`
	Epoch      themis.Epoch        `json:"epoch"`
	HLC        themis.HLC          `json:"hlc"`
	Op         string              `json:"op"` // put or delete
	Collection themis.CollectionID `json:"collection_id"`
	Key        string              `json:"key"`
	Placement  []byte              `json:"placement"`
	Value      json.RawMessage     `json:"value,omitempty"`
	RequestID  string              `json:"request_id,omitempty"`
}

// The files of rescued/ say by their name whether the shard's mode had let the writes in them be acknowledged.
const (
	rescuedAcked  = "acknowledged" // under ASYNC: somebody was told that they were done
	rescuedOpen   = "unconfirmed"  // nobody was; clients were told that the outcome is unknown
	rescuedUnsure = "-unsure"      // behind either: the shard's log may have some of them
)

// rescuedWrites is how many acknowledged writes lie in rescued/, as the files' names say.
func (r *Replica) rescuedWrites() (n int) {
	files, err := filepath.Glob(filepath.Join(r.o.Dir, "rescued", rescuedAcked+"-*.ndjson"))
	if err != nil {
		return 0
	}
	for _, f := range files {
		_, count, _ := strings.Cut(strings.TrimSuffix(filepath.Base(f), ".ndjson"), "-writes-")
		if writes, err := strconv.Atoi(count); err == nil {
			n += writes
		}
	}
	return n
}

// rescue writes the entries from…to as NDJSON, durably, before they are cut (promise 12): those in the log, and of those that the log has let
// go, as an ASYNC primary's does that nobody follows, the last write of each document. It returns the file's name, empty when there was no
// write among them, and the number of writes. Those of reigns up to alone may have been acknowledged; of unsure ones the shard may have some.
func (r *Replica) rescue(from, to themis.Seq, alone themis.Epoch, unsure bool) (name string, n int, err error) {
	if !guard.On(guard.RescueFirst) {
		return "", 0, nil
	}
	f := rescueFile{dir: r.o.Dir, shard: r.o.Shard, alone: alone, unsure: unsure}
	defer f.abandon()
	if base := r.log.Base().Seq; base >= from { // only before an install: what is cut back is in the log
		err := f.addLetGo(r.openStore(), from, base, r.log.Lineage())
		if themis.CodeOf(err) == themis.Corrupt { // what could be read of it is saved, and the rest stays where people find it: the copy must be built anew all the same
			r.o.Event("rescue", "not_done", "corruption", fmt.Sprintf("which of seq %d to %d this copy had alone can't all be read: %v", from, base, err), r.promise.Promised)
			if err = nil; r.openStore().Fault() != nil {
				err = r.setStoreAside(fmt.Errorf("store is damaged: %w", r.openStore().Fault()))
			}
		}
		if err != nil {
			return "", 0, err
		}
	}
	if err := f.addLog(r.log, max(from, r.log.Base().Seq+1), to); err != nil {
		return "", 0, err
	}
	return f.finish(r.log.Last().Epoch, from, to)
}

// rescueBeforeInstall saves what this copy has behind the common seq before a checkpoint takes its place. Where the two logs no longer tell
// up to where they were one, it saves all that is not surely in the primary's, and says so. A store that outlives its log is set aside. An install
// has begun, so that nobody changes the log.
func (r *Replica) rescueBeforeInstall(common themis.Seq, h Hello) error {
	err := r.rescueTail(common, h)
	last, a := r.log.Last(), r.openStore().Applied()
	if err != nil || a.Seq <= last.Seq || a.Epoch > h.AckedAlone || len(r.promise.Lineage) > 0 || !guard.On(guard.RescueFirst) {
		return err
	}
	return r.setStoreAside(fmt.Errorf("the log ends at seq %d, the store had applied seq %d: what of that no other copy has is in the store only", last.Seq, a.Seq))
}

func (r *Replica) rescueTail(common themis.Seq, h Hello) error {
	last, told := r.log.Last(), common > 0 || whole(r.log.Lineage()) && whole(h.Lineage)
	from := common + 1
	if !told {
		from = r.surelyCommon(h.AckedAlone) + 1
	}
	if len(r.promise.Lineage) > 0 { // an install had begun: what the log lacks was saved by then, and the store may be the primary's since
		from = max(from, r.log.Base().Seq+1)
	}
	if last.Seq < from {
		return nil
	}
	file, n, err := r.rescue(from, last.Seq, h.AckedAlone, !told)
	switch {
	case err != nil:
		return err
	case told:
		r.o.Event("log_cut", "done", "lineage", fmt.Sprintf("the copy is built anew, and seq %d to %d are not in the log of epoch %d; %d writes saved to %s", from, last.Seq, h.Epoch, n, file), h.Epoch)
	case n > 0:
		r.o.Event("log_cut", "done", "lineage", fmt.Sprintf("the copy is built anew, and which of seq %d to %d are in the log of epoch %d can no longer be told: all %d writes saved to %s, of which some may not be lost", from, last.Seq, h.Epoch, n, file), h.Epoch)
	}
	return nil
}

// whole says whether the epochs are told from the first entry on.
func whole(l []themis.EpochStart) bool { return len(l) == 0 || l[0].Seq == 1 }

// surelyCommon is the last seq that every later primary has, whatever its epochs tell: what was committed in a reign that needed more than
// one copy for that; 0: none is known.
func (r *Replica) surelyCommon(alone themis.Epoch) themis.Seq {
	if committed := themis.Seq(r.commit.Load()); lineageAt(r.log.Lineage(), committed) > alone {
		return committed
	}
	return 0
}

// setStoreAside puts an empty store in the place of one whose documents can't be told from those that all have; it stays where people find it.
func (r *Replica) setStoreAside(why error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out(); err != nil {
		return err
	}
	return r.exchangeStore(func() error { return r.quarantine("store", why) })
}

// Rescue does the same with all entries behind a seq of a copy that nobody has open: dir is its directory. They count as acknowledged if one is of
// a reign up to alone, or if the log knows that one of them was committed. A log that is not sound, or a store that lacks what the log has let go,
// is CORRUPT.
func Rescue(dir string, own wal.Identity, behind themis.Seq, alone themis.Epoch) (name string, n int, err error) {
	f := rescueFile{dir: dir, shard: own.Shard, alone: alone}
	defer f.abandon()
	in, err := wal.Inspect(filepath.Join(dir, "wal"), own, func(v wal.Visited) error {
		if v.Entry.Seq <= behind {
			return nil
		}
		return f.add(&v.Entry)
	})
	if err != nil {
		return "", 0, err
	}
	if !in.Sound() {
		return "", 0, themis.Errorf(themis.Corrupt, "the log in %s is damaged: %s", dir, in.Findings[0].Fault)
	}
	if in.Base.Seq > behind {
		s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
		if err != nil {
			return "", 0, err
		}
		err = f.addLetGo(s, behind+1, in.Base.Seq, in.Lineage)
		if err = errors.Join(err, s.Close()); err != nil {
			return "", 0, err
		}
	}
	f.acked = f.acked || in.MaxCommit > behind
	return f.finish(in.Last.Epoch, behind+1, in.Last.Seq)
}

// rescueFile is a file of rescued/ that is being written: it is there only with the first write, and counts only when it is finished.
type rescueFile struct {
	dir   string // of the copy
	shard themis.ShardID
	alone themis.Epoch // writes of reigns up to this one may have been acknowledged
	acked bool         // one of them may
	n     int          // writes in it

	unsure bool // whether the shard's log has them

	f   *os.File
	out *bufio.Writer
	enc *json.Encoder

	sync func(*os.File) error // in tests; nil: fsync
}

// addLog adds the log's entries from…to.
func (x *rescueFile) addLog(log *wal.Log, from, to themis.Seq) error {
	scan, err := log.Scan(from)
	if err != nil {
		return err
	}
	defer func() { _ = scan.Close() }()
	for scan.Pos().Seq < to {
		e, err := scan.Next()
		if err == nil {
			err = x.add(&e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addLetGo adds what the store tells of the entries from…to, which the log has let go: the last write of each document, if it is one of
// them. A store that did not get to them is CORRUPT.
func (x *rescueFile) addLetGo(s *store.Store, from, to themis.Seq, lineage []themis.EpochStart) error {
	if at := s.Applied().Seq; at < to {
		return themis.Errorf(themis.Corrupt, "the store is at seq %d, the log begins behind seq %d", at, to)
	}
	v, err := s.View()
	if err != nil {
		return err
	}
	defer v.Close()
	return v.Each(nil, nil, func(d store.Document) error {
		if d.Seq < from || d.Seq > to {
			return nil
		}
		line := rescued{x.shard, d.Seq, lineageAt(lineage, d.Seq), d.Version, "put", d.Collection, d.Key, d.Placement, d.Value, d.RequestID}
		if d.Deleted {
			line.Op, line.Value = "delete", nil
		}
		return x.line(line)
	})
}

// lineageAt is the epoch of the entry; that of the first start for one before it.
func lineageAt(lineage []themis.EpochStart, seq themis.Seq) (e themis.Epoch) {
	for i, s := range lineage {
		if i == 0 || s.Seq <= seq {
			e = s.Epoch
		}
	}
	return e
}

func (x *rescueFile) line(l rescued) error {
	x.acked = x.acked || l.Epoch <= x.alone
	if x.f == nil {
		if err := x.create(); err != nil {
			return err
		}
	}
	x.n++
	return x.enc.Encode(l)
}

// add appends the writes of an entry.
func (x *rescueFile) add(e *themis.Entry) error {
	if e.Kind != themis.KindWrite {
		return nil
	}
	ops, err := themis.DecodeOps(e.Payload)
	if err != nil {
		return fmt.Errorf("seq %d: %w", e.Seq, err)
	}
	for i, o := range ops {
		line := rescued{x.shard, e.Seq, e.Epoch, e.HLC + themis.HLC(i), "put", o.Collection, o.Key, o.Placement, o.Value, e.Tags.RequestID} //nolint:gosec // a small index
		if o.Code == themis.OpDelete {
			line.Op, line.Value = "delete", nil
		}
		if err := x.line(line); err != nil {
			return fmt.Errorf("seq %d: %w", e.Seq, err)
		}
	}
	return nil
}

func (x *rescueFile) create() (err error) {
	dir := filepath.Join(x.dir, "rescued")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syncDir(x.dir, x.durable); err != nil {
		return err
	}
	x.f, err = os.OpenFile(filepath.Join(dir, "unfinished.new"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // a path of our own
	x.out = bufio.NewWriterSize(x.f, 64<<10)
	x.enc = json.NewEncoder(x.out)
	x.enc.SetEscapeHTML(false)
	return err
}

// finish makes the file durable under its name.
func (x *rescueFile) finish(epoch themis.Epoch, from, to themis.Seq) (name string, n int, err error) {
	if x.f == nil {
		return "", 0, nil
	}
	kind := rescuedOpen
	if x.acked {
		kind = rescuedAcked
	}
	if x.unsure {
		kind += rescuedUnsure
	}
	dir := filepath.Join(x.dir, "rescued")
	name = filepath.Join(dir, fmt.Sprintf("%s-epoch-%d-seq-%d-%d-writes-%d.ndjson", kind, epoch, from, to, x.n))
	if err = x.out.Flush(); err == nil {
		err = x.durable(x.f)
	}
	err = errors.Join(err, x.f.Close())
	if err == nil {
		err = os.Rename(x.f.Name(), name)
	}
	if err == nil {
		x.f, err = nil, syncDir(dir, x.durable)
	}
	if err != nil {
		return "", 0, fmt.Errorf("write %s: %w", name, err)
	}
	return name, x.n, nil
}

// durable makes a file, or the names in a directory, durable.
func (x *rescueFile) durable(f *os.File) error {
	switch {
	case !guard.On(guard.RescuedSync):
		return nil
	case x.sync != nil:
		return x.sync(f)
	}
	return f.Sync()
}

// abandon takes an unfinished file away.
func (x *rescueFile) abandon() {
	if x.f != nil {
		_ = x.f.Close()
		_ = os.Remove(x.f.Name())
	}
}
