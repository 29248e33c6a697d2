package store

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/themisdb/themis/pkg/themis"
)

// batchBytes is how large a batch grows before it is handed over and the next one begun. An entry is never divided.
const batchBytes = 2 << 20

// Result is what applying one entry did. Barriers have no operations.
type Result struct {
	Seq themis.Seq
	Ops []OpResult
	// Repeated: the entry's request id was already in the window. The entry has been applied all the same, as the log
	// says; whoever appends to the log asks Request first, so this counts as a fault of theirs.
	Repeated bool
}

// Apply applies committed entries, in order, from Applied().Seq + 1 on. Each takes effect whole; reads see a call's entries
// in a few steps when they are large. The results are those of the entries that were applied, also beside an error, and then
// Applied tells how far it came. They alias the entries' payloads.
//
// Entries that don't follow are ErrOutOfOrder. A kind, version or value type that this code doesn't serve is UNIMPLEMENTED
// with a detail that begins with UPGRADE_NEEDED; the entries before it are applied, it and what follows are not. An entry
// that can't be read is CORRUPT. After an error of disk or data every further call answers Fault.
func (s *Store) Apply(entries []themis.Entry) ([]Result, error) {
	if err := s.users.enter(); err != nil {
		return nil, err
	}
	defer s.users.leave()
	s.writing.Lock()
	defer s.writing.Unlock()
	results := make([]Result, 0, len(entries))
	for len(entries) > 0 {
		if err := s.Fault(); err != nil {
			return results, err
		}
		group, refusal := s.group(entries)
		r, err := s.applyGroup(group)
		results = append(results, r...)
		if err != nil {
			return results, err
		}
		if refusal != nil {
			return results, refusal
		}
		entries = entries[len(group):]
	}
	return results, s.Fault()
}

// checked is an entry with its operations.
type checked struct {
	themis.Entry
	ops []themis.Op
}

// group takes the entries that go into one batch: as many as can be applied, until they are large or refused.
func (s *Store) group(entries []themis.Entry) (group []checked, refusal error) {
	at := s.Applied()
	group = make([]checked, 0, min(len(entries), 512))
	for size := 0; len(group) < len(entries) && size < s.batch; {
		e := entries[len(group)]
		ops, err := check(at, e)
		if err != nil {
			return group, err
		}
		if s.bare {
			ops, e.Tags.RequestID = nil, ""
		}
		group = append(group, checked{e, ops})
		at = themis.Position{Seq: e.Seq, Epoch: e.Epoch}
		size += len(e.Payload)
	}
	return group, nil
}

// applyGroup applies all of the group, or nothing of it and returns an error.
func (s *Store) applyGroup(group []checked) ([]Result, error) {
	if len(group) == 0 {
		return nil, nil
	}
	w := s.newWriter()
	defer w.close()
	if err := w.load(group); err != nil {
		return nil, err
	}
	results := make([]Result, 0, len(group))
	for _, e := range group {
		r, err := w.add(e.Entry, e.ops)
		if err != nil {
			s.aging = aging{} // it may have lost what the batch was to drop
			return nil, err
		}
		results = append(results, r)
	}
	if err := w.commit(); err != nil {
		s.aging = aging{}
		return nil, err
	}
	return results, nil
}

// check says why e can't be applied after position at, or returns its operations.
func check(at themis.Position, e themis.Entry) ([]themis.Op, error) {
	if e.Seq != at.Seq+1 {
		return nil, fmt.Errorf("apply seq %d after %d: %w", e.Seq, at.Seq, ErrOutOfOrder)
	}
	if e.Epoch < at.Epoch {
		return nil, fmt.Errorf("apply seq %d of epoch %d after epoch %d: %w", e.Seq, e.Epoch, at.Epoch, ErrOutOfOrder)
	}
	if e.Version != themis.EntryVersion || !e.Kind.Served() {
		return nil, themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: entry %d is of kind %s, version %d; this version applies neither later kinds nor versions", e.Seq, e.Kind, e.Version).
			Do("upgrade this node")
	}
	if e.Kind == themis.KindBarrier {
		return nil, nil
	}
	ops, err := themis.DecodeOps(e.Payload)
	if err != nil {
		return nil, themis.Errorf(themis.Corrupt, "apply seq %d: %w", e.Seq, err)
	}
	for i, o := range ops {
		if o.Type != themis.TypeDocument && (o.Code != themis.OpDelete || o.Type != 0) {
			return nil, themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: operation %d of entry %d writes a value of type %d; this version knows documents only", i, e.Seq, o.Type).
				Do("upgrade this node")
		}
	}
	return ops, nil
}

// held is what the store holds under a document's key.
type held struct {
	present, tombstone bool // neither: nothing
	seq                themis.Seq
	created            themis.HLC
	bytes              int
}

// writer collects the effects of entries in one batch. Nothing outside it changes before commit.
type writer struct {
	s       *Store
	batch   *pebble.Batch
	it      *pebble.Iterator // the store before the batch
	state   state
	counts  map[themis.CollectionID]Count // differences
	docs    map[string]held               // what the batch has written
	ids     map[string]aged               // request ids that the batch has written; seq 0: removed
	added   []aged                        // of ids, oldest first
	key     []byte
	val     []byte
	entries int
	agesEnd bool // all of the index by age in Pebble has been read ahead
}

func (s *Store) newWriter() *writer {
	return &writer{
		s: s, batch: s.db.NewBatch(), state: *s.state.Load(),
		counts: map[themis.CollectionID]Count{}, docs: map[string]held{}, ids: map[string]aged{},
	}
}

func (w *writer) close() {
	if w.it != nil {
		_ = w.it.Close()
	}
	_ = w.batch.Close()
}

// find looks key up as the store was before the batch. The value is good until the next call.
func (w *writer) find(key []byte) ([]byte, bool, error) {
	if w.it == nil {
		// Most keys of a load are new, and most of the store is in the lowest level: its filters are worth their memory.
		it, err := w.s.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
		if err != nil {
			return nil, false, w.s.failed("look up", err)
		}
		w.it = it
	}
	if !w.it.SeekPrefixGE(key) {
		if err := w.it.Error(); err != nil {
			return nil, false, w.s.failed("look up", err)
		}
		return nil, false, nil
	}
	v, err := w.it.ValueAndErr()
	if err != nil {
		return nil, false, w.s.failed("look up", err)
	}
	return v, true, nil
}

// load looks up what the store holds under the group's keys, in order of key: neighbours share blocks, and a seek forward
// to a near key is the cheapest. It is most of the work of applying.
func (w *writer) load(group []checked) error {
	var keys [][]byte
	for _, e := range group {
		for _, o := range e.ops {
			keys = append(keys, documentKey(make([]byte, 0, 16+len(o.Placement)+len(o.Key)), o.Collection, o.Placement, o.Key))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	for _, k := range keys {
		h, err := w.held(k)
		if err != nil {
			return err
		}
		w.docs[string(k)] = h
	}
	return nil
}

func (w *writer) held(key []byte) (held, error) {
	if h, ok := w.docs[string(key)]; ok {
		return h, nil
	}
	if w.s.absent.surely(key) {
		return held{}, nil
	}
	v, ok, err := w.find(key)
	if err != nil || !ok {
		return held{}, err
	}
	r, document, err := decodeRecord(key, v)
	if err != nil {
		return held{}, w.s.damaged("look up", err)
	}
	return held{present: !r.tombstone, tombstone: r.tombstone, seq: r.seq, created: r.created, bytes: len(document)}, nil
}

// add puts the effects of e into the batch. After an error the batch must be thrown away.
func (w *writer) add(e themis.Entry, ops []themis.Op) (Result, error) {
	res := Result{Seq: e.Seq}
	if len(ops) > 0 {
		res.Ops = make([]OpResult, 0, len(ops))
	}
	for i, o := range ops {
		version := e.HLC + themis.HLC(i) //nolint:gosec // i is small
		existed, err := w.write(e, o, version)
		if err != nil {
			return res, err
		}
		res.Ops = append(res.Ops, OpResult{Collection: o.Collection, Placement: o.Placement, Version: version, Existed: existed})
	}
	w.state.position = themis.Position{Seq: e.Seq, Epoch: e.Epoch, LSN: e.LSN + themis.LSN(e.FrameBytes())} //nolint:gosec // never negative
	w.state.hlc = max(w.state.hlc, e.HLC+themis.HLC(max(len(ops), 1)-1))                                    //nolint:gosec // small
	w.entries++
	var err error
	if e.Tags.RequestID != "" && e.Kind == themis.KindWrite {
		if res.Repeated, err = w.remember(e, res.Ops); err != nil {
			return res, err
		}
	}
	return res, w.forget()
}

func (w *writer) write(e themis.Entry, o themis.Op, version themis.HLC) (existed bool, err error) {
	key := documentKey(w.key[:0], o.Collection, o.Placement, o.Key)
	w.key = key
	was, err := w.held(key)
	if err != nil {
		return false, err
	}
	var diff Count
	if was.present {
		diff.Documents--
		diff.Bytes -= themis.Bytes(was.bytes)
	}
	if was.tombstone {
		diff.Tombstones--
		if err := w.batch.Delete(tombstoneKey(nil, was.seq, key), nil); err != nil {
			return false, w.s.failed("apply", err)
		}
	}
	r := record{typ: themis.TypeDocument, version: version, seq: e.Seq, request: e.Tags.RequestID, origin: e.Tags.Origin}
	now := held{seq: e.Seq}
	var document []byte
	if o.Code == themis.OpPut {
		r.created = version
		if was.present {
			r.created = was.created
		}
		document = o.Value
		now.present, now.created, now.bytes = true, r.created, len(document)
		diff.Documents++
		diff.Bytes += themis.Bytes(len(document))
	} else {
		r.tombstone, now.tombstone = true, true
		diff.Tombstones++
		if err := w.batch.Set(tombstoneKey(nil, e.Seq, key), nil, nil); err != nil {
			return false, w.s.failed("apply", err)
		}
	}
	w.val = appendRecord(w.val[:0], key, r, document)
	w.s.absent.add(key, !was.present && !was.tombstone)
	if err := w.batch.Set(key, w.val, nil); err != nil {
		return false, w.s.failed("apply", err)
	}
	w.docs[string(key)] = now
	w.counts[o.Collection] = w.counts[o.Collection].plus(diff)
	return was.present, nil
}

// remember puts the entry's request id into the window. The last entry with an id is the one that counts.
func (w *writer) remember(e themis.Entry, ops []OpResult) (repeated bool, err error) {
	id := e.Tags.RequestID
	key := requestKey(w.key[:0], id)
	w.key = key
	old, known := w.ids[id]
	if !known && !w.s.absentRequests.surely(key) {
		v, ok, err := w.find(key)
		if err != nil {
			return false, err
		}
		if ok {
			r, err := decodeRequest(key, v)
			if err != nil {
				return false, w.s.damaged("look up request "+id, err)
			}
			old = aged{seq: r.Seq, hlc: r.HLC, size: themis.Bytes(len(v)), id: id}
		}
	}
	if old.seq != 0 {
		if err := w.dropAge(old); err != nil {
			return false, err
		}
		w.s.aging.drop(old.seq)
	}
	w.val = appendRequest(w.val[:0], key, RequestRecord{Digest: e.Tags.BodyDigest, Seq: e.Seq, HLC: e.HLC, Ops: ops})
	w.s.absentRequests.add(key, old.seq == 0)
	g := aged{seq: e.Seq, hlc: e.HLC, size: themis.Bytes(len(w.val)), id: id}
	if err := w.batch.Set(key, w.val, nil); err != nil {
		return false, w.s.failed("apply", err)
	}
	if err := w.batch.Set(ageKey(nil, e.Seq), g.encode(), nil); err != nil {
		return false, w.s.failed("apply", err)
	}
	w.state.requests++
	w.state.requestBytes += g.size
	w.ids[id] = g
	w.added = append(w.added, g)
	return old.seq != 0, nil
}

// forget drops the oldest requests while the window is over one of its bounds. It runs after every entry, so what is left
// doesn't depend on how entries were grouped.
func (w *writer) forget() error {
	for w.state.requests > 0 {
		g, err := w.oldest()
		if err != nil {
			return err
		}
		if !w.s.window.full(w.state, g.hlc) {
			return nil
		}
		if err := w.batch.Delete(requestKey(nil, g.id), nil); err != nil {
			return w.s.failed("apply", err)
		}
		if err := w.dropAge(g); err != nil {
			return err
		}
		w.ids[g.id] = aged{}
		if !w.s.aging.remove(g.seq) {
			w.added = w.added[1:]
			w.s.aging.next = g.seq + 1
		}
	}
	return nil
}

func (w *writer) dropAge(g aged) error {
	w.state.requests--
	w.state.requestBytes -= g.size
	if err := w.batch.Delete(ageKey(nil, g.seq), nil); err != nil {
		return w.s.failed("apply", err)
	}
	return nil
}

// oldest is the request that goes first: from what is in Pebble, else from what this batch added.
func (w *writer) oldest() (aged, error) {
	ages := &w.s.aging
	if len(ages.ahead) == 0 && !w.agesEnd {
		if err := ages.fill(w.s); err != nil {
			return aged{}, err
		}
		w.agesEnd = len(ages.ahead) < readAhead
	}
	if len(ages.ahead) > 0 {
		return ages.ahead[0], nil
	}
	for len(w.added) > 0 {
		g := w.added[0]
		if w.ids[g.id].seq == g.seq {
			return g, nil
		}
		w.added = w.added[1:] // the same id came again behind it
	}
	return aged{}, w.s.damaged("ages of requests", fmt.Errorf("%w: %d in the window, none in the index", themis.ErrMalformed, w.state.requests))
}

// commit hands the batch to Pebble together with the position it brings the store to.
func (w *writer) commit() error {
	if w.entries == 0 {
		return nil
	}
	w.entries = 0
	for c, diff := range w.counts {
		if diff == (Count{}) {
			continue
		}
		key := countKey(c)
		var err error
		if now := w.s.counts.get(c).plus(diff); now == (Count{}) {
			err = w.batch.Delete(key, nil)
		} else {
			err = w.batch.Set(key, encodeCount(key, now), nil)
		}
		if err != nil {
			return w.s.failed("apply", err)
		}
	}
	if err := w.batch.Set(keyApplied, encodeState(w.state), nil); err != nil {
		return w.s.failed("apply", err)
	}
	if err := w.batch.Commit(pebble.NoSync); err != nil {
		return w.s.failed("apply", err)
	}
	w.s.aging.gone = nil
	w.s.counts.change(w.counts)
	st := w.state
	w.s.state.Store(&st)
	return nil
}
