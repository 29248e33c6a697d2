// Package store keeps the documents of one replica of one shard, in Pebble. It applies committed log entries and nothing
// else: the log is the truth, the store is what the log says up to Applied.
//
// Pebble's own log is off. Documents, counts, the window of request ids and the applied position change in one batch, so a
// crash takes the store back to some earlier applied entry, whole, and the shard's log is applied again from there. Flush and
// DurableApplied say how much of the log is no longer needed for that. Replicas that applied the same entries hold equal
// content, however the entries were grouped into calls and wherever restarts fell; Digest is how that is compared.
//
//	0 applied                                                    state: position, clock, size of the window, tombstone floor
//	0 format · 0 count collection                                format number; documents, bytes and tombstones of a collection
//	1 collection u32 · placement (escaped) · document key        record header | document bytes exactly as they were sent
//	2 request id                                                 what the write with that id did
//	3 seq u64                                                    the request id of that entry: the window's order of age
//	4 seq u64 · key of a document in space 1                     tombstones by age
//
// Numbers in keys are big endian, so that scans run in order of placement; numbers in values are little endian. Every value
// carries a CRC32C that covers its key too, beside Pebble's block checksums: damage is an error with the code CORRUPT, never
// "not found".
//
// All methods may be called by many goroutines at once. Apply, CollectTombstones and the last step of Checkpoint run one at
// a time. After damage or a failed write to disk the store takes no more entries: Fault says why, and the replica is rebuilt.
package store

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/themisdb/themis/pkg/themis"
)

// FormatVersion is the layout of keys and values that this code reads and writes.
const FormatVersion = 1

var (
	// ErrClosed is what every call answers after Close.
	ErrClosed = errors.New("store is closed")
	// ErrOutOfOrder is wrapped by Apply when entries don't continue where the store is.
	ErrOutOfOrder = errors.New("entry out of order")
)

// Cache is the memory for blocks read from disk, shared by the stores of a node.
type Cache struct{ c *pebble.Cache }

// NewCache makes a cache of that size. Its owner calls Close after closing the stores that use it.
func NewCache(size themis.Bytes) *Cache { return &Cache{c: pebble.NewCache(int64(size))} }

// Close gives up the owner's hold; the memory is freed with the last store that uses it.
func (c *Cache) Close() { c.c.Unref() }

// Options are the settings of a store. The zero value works.
type Options struct {
	Cache         *Cache       // nil: a cache of its own of 64 MiB
	FS            vfs.FS       // nil: the disk
	Logger        *slog.Logger // nil: silence
	MemTableBytes themis.Bytes // collected in memory before it is written to a table; default 32 MiB, at most four of them at once
	MaxOpenFiles  int          // default 500
	PositionOnly  bool         // apply nothing of an entry but its position: to measure what stands around a store

	window window // tests use a small one; part of the format, so never a setting
	batch  int    // tests use a small one; default batchBytes
}

const (
	defaultCacheBytes    = 64 << 20
	defaultMemTableBytes = 32 << 20
	minMemTableBytes     = 256 << 10
	maxMemTableBytes     = 1 << 30
	defaultMaxOpenFiles  = 500
	blockBytes           = 16 << 10 // documents are about 1 KB: with Pebble's 4 KiB a flush writes, sums and indexes four times as often
)

// Validate names every fault of the settings.
func (o Options) Validate() error {
	var errs []error
	if o.MemTableBytes != 0 && (o.MemTableBytes < minMemTableBytes || o.MemTableBytes > maxMemTableBytes) {
		errs = append(errs, themis.Errorf(themis.InvalidArgument, "memtable_bytes %d: want %d to %d", o.MemTableBytes, minMemTableBytes, maxMemTableBytes))
	}
	if o.MaxOpenFiles < 0 {
		errs = append(errs, themis.Errorf(themis.InvalidArgument, "max_open_files %d: want 0 or more", o.MaxOpenFiles))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = defaultMemTableBytes
	}
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = defaultMaxOpenFiles
	}
	if o.window == (window{}) {
		o.window = theWindow
	}
	if o.batch == 0 {
		o.batch = batchBytes
	}
	return o
}

// Store is an open store.
type Store struct {
	db     *pebble.DB
	dir    string
	fs     vfs.FS
	log    *slog.Logger
	lock   *pebble.Lock
	cache  *Cache // ours to close; nil when it was passed in
	window window
	batch  int
	bare   bool // Options.PositionOnly

	writing sync.Mutex            // held by whoever writes
	state   atomic.Pointer[state] // what the last batch left; replaced whole, never changed
	counts  counts
	aging   aging // the oldest requests, read ahead; writing is held
	fault   atomic.Pointer[themis.Error]
	faulty  chan struct{} // closed with the first fault
	durable atomic.Uint64 // highest seq seen on disk; never falls

	users users

	absent, absentRequests *absent
}

// Open opens the store in dir and makes an empty one where there is none. A replacement that a crash interrupted is finished
// or discarded first (see Install). A directory that another process has open is an error with the code REFUSED_UNSAFE, a
// format newer than this code UNIMPLEMENTED ("UPGRADE_NEEDED …"), damage CORRUPT.
func Open(dir string, o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	dir, err := absolute(o.FS, dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	if err := recoverInstall(o.FS, dir); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return open(dir, o, false)
}

// absolute is dir's full name on a real disk, since locks are known by name.
func absolute(fs vfs.FS, dir string) (string, error) {
	if fs != vfs.Default {
		return dir, nil
	}
	return filepath.Abs(dir)
}

func open(dir string, o Options, readOnly bool) (_ *Store, err error) {
	s := &Store{
		faulty: make(chan struct{}), dir: dir, fs: o.FS, log: o.Logger, window: o.window, batch: o.batch, bare: o.PositionOnly,
		absent: newAbsentDocuments(), absentRequests: newAbsentRequests(o.window),
	}
	s.users.init()
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if err := o.FS.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	if s.lock, err = pebble.LockDirectory(dir, o.FS); err != nil {
		return nil, themis.Errorf(themis.RefusedUnsafe, "store %s is in use: %w", dir, err).Do("stop the other process that uses the directory")
	}
	cache := o.Cache
	if cache == nil {
		s.cache = NewCache(defaultCacheBytes)
		cache = s.cache
	}
	db, err := pebble.Open(dir, s.pebbleOptions(o, cache, readOnly))
	if err != nil {
		return nil, s.openError(err)
	}
	s.db = db
	if err := s.load(readOnly); err != nil {
		return nil, err
	}
	if a := s.Applied(); a.Seq > 0 {
		o.Logger.Info("store opened", "dir", dir, "seq", a.Seq, "epoch", a.Epoch, "lsn", a.LSN, "documents", s.Stats().Documents)
	}
	if readOnly {
		return s, nil
	}
	if s.Applied().Seq == 0 {
		s.absent.filled()
		s.absentRequests.filled()
		return s, nil
	}
	s.users.inside++ // nobody else has the store yet
	go s.learnKeys()
	return s, nil
}

func (s *Store) pebbleOptions(o Options, cache *Cache, readOnly bool) *pebble.Options {
	po := &pebble.Options{
		FS:                          o.FS,
		Cache:                       cache.c,
		Lock:                        s.lock,
		ReadOnly:                    readOnly,
		DisableWAL:                  true,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                uint64(o.MemTableBytes), //nolint:gosec // checked by Validate
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                o.MaxOpenFiles,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLog{s},
		EventListener:               &pebble.EventListener{BackgroundError: s.backgroundError, DataCorruption: s.dataCorruption},
	}
	po.TargetFileSizes[0] = int64(o.MemTableBytes) // one file for each flush: a lookup opens one file a level, and neighbours share it
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		po.Levels[i].BlockSize = blockBytes
	}
	return po
}

func (s *Store) openError(err error) error {
	if pebble.IsCorruptionError(err) {
		return themis.Errorf(themis.Corrupt, "open store %s: %w", s.dir, err)
	}
	if newer, name := foreignFormat(s.fs, s.dir); newer {
		return themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: store %s was written by a newer version (%s): %w", s.dir, name, err)
	}
	return fmt.Errorf("open store %s: %w", s.dir, err)
}

// Applied is the position of the last entry; the zero position when there is none. Reads that begin after Applied answered see
// at least that much, and at times the batch that Apply is just handing over: the seq that a read was at is the higher of
// Document.Seq and of Applied before it, or exactly View.Position.
func (s *Store) Applied() themis.Position { return s.state.Load().position }

// AppliedHLC is the highest timestamp that an applied operation carries; a clock that goes on from here never repeats a version.
func (s *Store) AppliedHLC() themis.HLC { return s.state.Load().hlc }

// Fault says why the store takes no more entries; nil while it does. CORRUPT for damage, READ_ONLY for a disk that failed.
func (s *Store) Fault() error {
	if f := s.fault.Load(); f != nil {
		return f
	}
	return nil
}

// Flush writes all that is applied to disk and returns what DurableApplied then is.
func (s *Store) Flush() (themis.Seq, error) {
	if err := s.users.enter(); err != nil {
		return 0, err
	}
	defer s.users.leave()
	if err := s.flush(); err != nil {
		return 0, err
	}
	return s.durableApplied()
}

func (s *Store) flush() error {
	if err := s.Fault(); err != nil {
		return err
	}
	done, err := s.db.AsyncFlush()
	if err != nil {
		return s.failed("flush", err)
	}
	select { // Pebble tries again and again on a disk that fails
	case <-done:
	case <-s.faulty:
	}
	return s.Fault()
}

// DurableApplied is the seq that the store is at, at the least, after a crash now. Entries up to it may leave the log, as far
// as this store is concerned. After a fault it stays where it was.
func (s *Store) DurableApplied() (themis.Seq, error) {
	if err := s.users.enter(); err != nil {
		return 0, err
	}
	defer s.users.leave()
	return s.durableApplied()
}

func (s *Store) durableApplied() (themis.Seq, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyApplied, UpperBound: after(keyApplied), OnlyReadGuaranteedDurable: true})
	if err != nil {
		return 0, s.failed("read the durable position", err)
	}
	defer func() { _ = it.Close() }()
	seq := themis.Seq(0)
	if it.First() {
		st, err := decodeState(it.Value())
		if err != nil {
			return 0, s.damaged("applied position", err)
		}
		seq = min(st.position.Seq, s.Applied().Seq) // a batch may be on disk a moment before Applied tells of it
	}
	if err := it.Error(); err != nil {
		return 0, s.failed("read the durable position", err)
	}
	if s.fault.Load() != nil { // what a failed disk shows is no promise
		return themis.Seq(s.durable.Load()), nil
	}
	for {
		old := s.durable.Load()
		if uint64(seq) <= old {
			return themis.Seq(old), nil
		}
		if s.durable.CompareAndSwap(old, uint64(seq)) {
			return seq, nil
		}
	}
}

// Close waits for the calls, scans and views under way and closes the store. What was not flushed is applied from the log
// again after the next Open.
func (s *Store) Close() error {
	if !s.users.close() {
		return ErrClosed
	}
	return s.release()
}

func (s *Store) release() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if s.cache != nil {
		s.cache.Close()
	}
	return errors.Join(errs...)
}

// users counts who is inside, so that Close can wait for them.
type users struct {
	mu     sync.Mutex
	none   *sync.Cond
	inside int
	closed bool
}

func (u *users) init() { u.none = sync.NewCond(&u.mu) }

func (u *users) enter() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return ErrClosed
	}
	u.inside++
	return nil
}

func (u *users) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.inside--; u.inside == 0 {
		u.none.Broadcast()
	}
}

// closing says whether somebody waits for those inside to leave.
func (u *users) closing() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.closed
}

// close lets nobody in any more and waits for those inside; false when it was closed before.
func (u *users) close() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.closed = true
	for u.inside > 0 {
		u.none.Wait()
	}
	return true
}
