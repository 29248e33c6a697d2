package replication

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// The nodes of the simulation, their disks, their streams: what is done there is imitated, what is decided is this package.

type simEntry struct {
	epoch themis.Epoch
	value int // 0: a barrier
}

type simStream struct {
	epoch   themis.Epoch
	from    *simNode
	to      *simNode
	opened  bool // the hello was answered
	sent    themis.Seq
	down    []simShip // to the follower, in order
	up      []simAck  // to the primary, in order
	closed  bool
	storage themis.StorageID
}

type simShip struct {
	hello   *Hello
	from    themis.Seq // entries behind it
	entries []simEntry
	commit  themis.Seq
	sent    time.Time
	whole   bool
	free    bool
	install []simEntry
}

type simAck struct {
	welcome *Welcome
	ack     Ack
}

type simNode struct {
	w          *world
	id         themis.NodeID
	rate       float64 // of its clock
	up         bool
	paused     time.Duration // until then nothing happens on it
	boot       int
	bootedAt   time.Time
	disk       simDisk
	unsynced   []simEntry
	commit     themis.Seq
	applied    themis.Seq
	leased     time.Time
	reign      *Reign
	seenRecord cluster.Shard
	streams    map[themis.NodeID]*simStream // of its reign
	proposal   *Proposal
	handing    bool         // it stops: its reigns are to be handed over
	ready      themis.Epoch // of its reign that was seen quiet
	quitting   bool         // it ends in order: it serves nothing, and follows nobody once it is free
	deaf       bool         // it was freed, and promises no further lease
	aged       bool         // an earlier run of it may have promised a lease
	resigned   themis.Epoch
}

// simDisk is what survives a crash.
type simDisk struct {
	storage  themis.StorageID
	log      []simEntry
	promised themis.Epoch
	blank    string
	exists   bool
	leases   bool // a read lease of it may be open
	applied  themis.Seq
}

func (n *simNode) clock() time.Time {
	return simStart.Add(time.Duration(float64(n.w.now) * n.rate))
}

func (n *simNode) self() cluster.Member { return cluster.Member{Node: n.id, Storage: n.disk.storage} }
func (n *simNode) awake() bool          { return n.up && n.w.now >= n.paused }
func (n *simNode) last() themis.Seq     { return themis.Seq(len(n.disk.log) + len(n.unsynced)) }

func (n *simNode) entry(s themis.Seq) simEntry {
	if int(s) <= len(n.disk.log) {
		return n.disk.log[s-1]
	}
	return n.unsynced[int(s)-len(n.disk.log)-1]
}

// values are the documents in its log up to seq.
func (n *simNode) values(to themis.Seq) map[int]bool {
	have := map[int]bool{}
	for s := themis.Seq(1); s <= min(to, n.last()); s++ {
		have[n.entry(s).value] = true
	}
	return have
}

func (n *simNode) lineage() (l []themis.EpochStart) {
	for s := themis.Seq(1); s <= n.last(); s++ {
		if e := n.entry(s); len(l) == 0 || l[len(l)-1].Epoch != e.epoch {
			l = append(l, themis.EpochStart{Epoch: e.epoch, Seq: s})
		}
	}
	return l
}

func (n *simNode) standing() Standing {
	s := Standing{
		Cluster: "c", Shard: "shard-1", Self: n.self(), Promised: n.disk.promised, Blank: n.disk.blank, Applied: n.applied,
		Lineage: n.lineage(), Booted: n.bootedAt, Leased: n.leased, EverPromised: n.aged, Resigned: n.resigned,
	}
	s.Last.Seq = n.last()
	if s.Last.Seq > 0 {
		s.Last.Epoch = n.entry(s.Last.Seq).epoch
	}
	return s
}

func (n *simNode) start() {
	n.up, n.boot = true, n.boot+1
	n.bootedAt = n.clock()
	n.unsynced, n.reign, n.proposal, n.leased = nil, nil, nil, time.Time{}
	n.resigned, n.quitting, n.deaf, n.aged = 0, false, false, n.disk.leases
	n.hand(false)
	n.commit, n.applied = n.disk.applied, n.disk.applied
	n.streams = map[themis.NodeID]*simStream{}
	n.seenRecord = cluster.Shard{}
}

func (n *simNode) crash() {
	n.w.logf("%s crashes", n.id)
	n.up, n.paused = false, 0
	keep := n.w.rng.IntN(len(n.unsynced) + 1) // what was not synced may be there or not
	n.disk.log = append(n.disk.log, n.unsynced[:keep]...)
	n.unsynced = nil
	n.disk.applied = themis.Seq(n.w.rng.IntN(int(n.applied) + 1))
	n.endReign()
}

// quit ends a node in order: first it serves nothing any more and tells its followers that they are free, some time later it ends,
// and notes that it has promised nothing if that is so.
func (n *simNode) quit() {
	if !n.quitting {
		n.quitting = true
		if n.reign != nil {
			n.reign.Retire()
		}
		n.w.logf("%s quits", n.id)
		return
	}
	n.sync()
	if !n.leased.After(n.clock()) || !guard.On(guard.LeaseNote) {
		n.disk.leases = false
	}
	n.w.logf("%s ends, leases may be open: %v", n.id, n.disk.leases)
	n.crash()
}

func (n *simNode) endReign() {
	if n.reign != nil {
		n.resigned = max(n.resigned, n.reign.Resigned())
	}
	n.reign, n.proposal, n.ready = nil, nil, 0
	for _, s := range n.streams {
		s.closed = true
	}
	n.streams = map[themis.NodeID]*simStream{}
}

func (n *simNode) sync() {
	n.disk.log = append(n.disk.log, n.unsynced...)
	n.unsynced = nil
	if n.reign != nil {
		n.reign.Durable(n.last(), n.clock())
		n.acknowledge()
	}
}

// learn shows the node the present record, as a watch does some time after a change.
func (n *simNode) learn() {
	r := n.w.record
	n.seenRecord = r
	if n.reign != nil {
		n.reign.Stopping(n.w.stops)
		if err := n.reign.Learn(r, n.w.failed, n.clock()); err != nil {
			n.w.logf("%s ends its reign: %v", n.id, err)
			n.endReign()
		} else {
			n.acknowledge()
		}
	}
	if n.reign == nil && r.Primary == n.self() && string(r.Boot) == strconv.Itoa(n.boot) && r.Epoch >= n.disk.promised && n.disk.blank == "" {
		if n.last() > 0 && n.entry(n.last()).epoch >= r.Epoch {
			return // this reign has begun and ended already
		}
		n.sync()
		n.disk.promised = r.Epoch
		n.unsynced = append(n.unsynced, simEntry{epoch: r.Epoch})
		n.reign = NewReign(r, n.commit, n.last(), n.clock(), DefaultRules())
		n.reign.failed, n.reign.stopping = n.w.failed, n.w.stops
		n.reign.Freeze(n.handing)
		n.w.logf("%s begins epoch %d, barrier %d", n.id, r.Epoch, n.last())
	}
}

func (n *simNode) write() {
	if n.reign == nil || n.reign.Writable(n.clock()) != nil || n.disk.promised > n.reign.Shard().Epoch {
		return
	}
	n.w.value++
	n.unsynced = append(n.unsynced, simEntry{n.reign.Shard().Epoch, n.w.value})
	n.reign.Appended(n.last(), n.clock())
	n.w.waiting[n.w.value] = true
	n.w.logf("%s appends %d at %d", n.id, n.w.value, n.last())
}

// acknowledge answers the writes that became committed, and applies them.
func (n *simNode) acknowledge() {
	for s := n.commit + 1; s <= n.reign.Commit(); s++ {
		if e := n.entry(s); e.value != 0 && n.w.waiting[e.value] {
			delete(n.w.waiting, e.value)
			if n.w.loose[n.reign.Shard().Epoch] {
				continue
			}
			n.w.acked[e.value] = true
			n.w.logf("%s acknowledges %d", n.id, e.value)
			if by, epoch := fmt.Sprint(n.id, " ", n.boot), n.reign.Shard().Epoch; n.w.reigns[epoch] == "" {
				n.w.reigns[epoch] = by
			} else if n.w.reigns[epoch] != by {
				n.w.fail("%s and %s acknowledge in epoch %d", n.w.reigns[epoch], by, epoch)
			}
			if e.epoch == n.reign.Shard().Epoch { // older ones were left open: their clients were told that the outcome is unknown
				n.w.checkCopies(s, e)
			}
			n.w.checkPrimary()
		}
	}
	n.commit = max(n.commit, n.reign.Commit())
	n.applied = n.commit
}

func (n *simNode) read() {
	if n.reign == nil || !n.reign.MayRead(n.clock()) || n.disk.promised > n.reign.Shard().Epoch || n.w.loose[n.reign.Shard().Epoch] {
		return
	}
	have := n.values(n.reign.Commit())
	for v := range n.w.acked {
		if !have[v] {
			n.w.fail("a strong read at %s in epoch %d misses the acknowledged write %d", n.id, n.reign.Shard().Epoch, v)
		}
	}
}

// ship opens streams and sends what each follower lacks.
func (n *simNode) ship() {
	if n.reign == nil {
		return
	}
	sh := n.reign.Shard()
	for _, rep := range sh.Replicas {
		to := n.w.node(rep.Node)
		st := n.streams[rep.Node]
		if rep.Member == n.self() {
			continue
		}
		if st == nil || st.closed || st.storage != rep.Storage {
			if !to.up {
				continue
			}
			st = &simStream{epoch: sh.Epoch, from: n, to: to, storage: rep.Storage}
			n.streams[rep.Node] = st
			synced := themis.Seq(len(n.disk.log))
			n.reign.Asked(rep.Member, synced)
			st.down = append(st.down, simShip{hello: &Hello{
				Cluster: "c", Shard: sh.ID, Epoch: sh.Epoch, Primary: n.self(), Follower: rep.Storage, Lineage: upTo(n.lineage(), synced), First: 1, Last: synced, Barrier: n.reign.barrier,
				Acked: n.reign.Acked(rep.Member),
			}})
			continue
		}
		if !st.opened || len(st.down) > 4 {
			continue
		}
		m := simShip{from: st.sent, commit: n.reign.Commit(), sent: n.clock(), whole: sh.InSync(rep.Member), free: n.reign.Free(rep.Member)}
		for s := st.sent + 1; s <= n.last() && len(m.entries) < 3; s++ {
			m.entries = append(m.entries, n.entry(s))
		}
		st.sent += themis.Seq(len(m.entries))
		st.down = append(st.down, m)
	}
}

// receive takes the oldest message of a stream at the follower.
func (st *simStream) receive() {
	n := st.to
	if len(st.down) == 0 || !n.awake() || n.deaf || st.closed {
		return
	}
	m := st.down[0]
	st.down = st.down[1:]
	if m.hello != nil {
		st.hello(m.hello)
		return
	}
	if st.epoch < n.disk.promised && guard.On(guard.Fence) {
		st.up = append(st.up, simAck{welcome: &Welcome{Promised: n.disk.promised}})
		return
	}
	if m.install != nil {
		n.disk.log, n.unsynced = slices.Clone(m.install), nil
		n.applied, n.commit, n.disk.applied = m.commit, m.commit, m.commit
	} else if m.from == n.last() {
		n.unsynced = append(n.unsynced, m.entries...)
	} else if m.from+themis.Seq(len(m.entries)) > n.last() {
		st.closed = true // not what was expected: begin anew
		return
	}
	if n.w.rng.IntN(8) > 0 || len(m.entries) == 0 {
		n.sync()
	} else {
		return // the ack comes with the next sync
	}
	n.leased = n.clock().Add(election.ReadLease)
	if m.free {
		n.leased, n.deaf = time.Time{}, n.quitting
	}
	if m.whole {
		n.disk.blank = ""
	}
	n.commit = max(n.commit, min(m.commit, n.last()))
	n.applied = n.commit
	if !guard.On(guard.CommitOnly) {
		n.applied = n.last()
	}
	st.up = append(st.up, simAck{ack: Ack{Durable: themis.Seq(len(n.disk.log)), Applied: n.applied, Sent: m.sent, Mute: n.disk.blank != "" || mute(n.aged, n.bootedAt, n.clock())}})
}

func (st *simStream) hello(h *Hello) {
	n := st.to
	if !n.disk.exists && h.Follower == n.disk.storage {
		n.create(h.Epoch)
	}
	wl := Receive(n.standing(), *h)
	if n.quitting {
		wl = Welcome{Refused: "quits"}
	}
	if wl.Accepted {
		n.disk.leases = true // noted before the first is promised
		if n.reign != nil {
			n.endReign()
		}
		n.disk.promised = max(n.disk.promised, h.Epoch)
		if wl.Lost != "" {
			n.w.fail("%s: %s", n.id, wl.Lost) // no disk here forgets under its own storage id
		}
		if !wl.Install {
			n.sync()
			for s := wl.Common + 1; s <= n.last(); s++ {
				n.w.logf("%s cuts %d (epoch %d)", n.id, s, n.entry(s).epoch)
			}
			n.disk.log = n.disk.log[:wl.Common]
		}
	}
	st.up = append(st.up, simAck{welcome: &wl})
}

// create makes the replica's directory: a member of the very first in-sync set is whole from the start, all others are blank.
func (n *simNode) create(e themis.Epoch) {
	n.disk.exists = true
	if e > 1 || !n.w.record.InSync(n.self()) {
		n.disk.blank = "new"
	}
}

// answer takes the oldest answer of a stream at the primary.
func (st *simStream) answer() {
	n := st.from
	if len(st.up) == 0 || !n.awake() || st.closed || n.reign == nil {
		return
	}
	a := st.up[0]
	st.up = st.up[1:]
	from := cluster.Member{Node: st.to.id, Storage: st.storage}
	switch {
	case a.welcome == nil:
		n.reign.Heard(from, a.ack, n.clock())
	case a.welcome.Promised > st.epoch:
		n.w.logf("%s learns of epoch %d and steps down", n.id, a.welcome.Promised)
		n.endReign()
		return
	case !a.welcome.Accepted:
		st.closed = true
		return
	case a.welcome.Install:
		st.opened, st.sent = true, n.reign.Commit()
		img := make([]simEntry, 0, st.sent)
		for s := themis.Seq(1); s <= st.sent; s++ {
			img = append(img, n.entry(s))
		}
		st.down = append(st.down, simShip{install: img, commit: st.sent, sent: n.clock()})
		n.reign.Emptied(from, n.clock())
	default:
		st.opened, st.sent = true, a.welcome.Common
		n.reign.Reset(from, a.welcome.Common, n.clock())
	}
	n.acknowledge()
}

// propose hands the reign's next wish to the control plane, where it lands some time later, or twice, or never.
func (n *simNode) propose() {
	if n.reign == nil || n.proposal != nil {
		return
	}
	p := n.reign.Next(n.clock())
	if p == nil {
		return
	}
	n.proposal = p
	n.w.logf("%s proposes ISR %v, %s, k %d (%s)", n.id, p.Next.ISR, p.Next.Have.Mode, p.Next.Have.K, p.Why)
	reign := n.reign
	submit := func() error {
		r, seen, next := &n.w.record, p.Seen, p.Next
		if !guard.On(guard.ISRVersion) { // a late change lands on whatever the record holds by then
			next, seen.Revision = *r, r.Revision
			if p.Policy() {
				next.Have = p.Next.Have
			} else if p.Add && !next.InSync(p.Member) {
				next.ISR = append(slices.Clone(next.ISR), p.Member)
			} else if !p.Add {
				next.ISR = slices.DeleteFunc(slices.Clone(next.ISR), func(m cluster.Member) bool { return m == p.Member })
			}
		}
		was := r.Have.Mode
		if _, err := n.w.change(seen, next); err != nil {
			return err
		}
		if p.Policy() {
			n.w.changes[fmt.Sprintf("%s to %s", was, r.Have.Mode)]++
		}
		n.w.logf("record %d: ISR %v, %s, k %d", r.Revision, r.ISR, r.Have.Mode, r.Have.K)
		return nil
	}
	n.w.pending = append(n.w.pending, func() { _ = submit() })
	answered := func() {
		if n.reign != reign || n.proposal != p {
			return
		}
		err := submit() // an unknown outcome is settled by submitting the very same change again
		n.proposal = nil
		if themis.CodeOf(err) == themis.RefusedUnsafe {
			n.reign.Refused(p, n.clock())
		}
		if n.w.record.Revision > p.Seen.Revision {
			n.learn()
		}
	}
	n.w.pending = append(n.w.pending, answered)
}

// hand begins or ends that the node stops: others do without it, and what it leads is held still.
func (n *simNode) hand(on bool) {
	if n.handing == on {
		return
	}
	n.handing, n.ready = on, 0
	n.w.stops = with(n.w.stops, n.id, on)
	n.w.logf("%s stops: %v", n.id, on)
	if n.reign != nil {
		n.reign.Freeze(on)
	}
}

// quiet takes note of a reign that could go to another node now.
func (n *simNode) quiet() {
	if n.handing && n.reign != nil && n.ready == 0 && n.reign.Quiet(n.clock()) {
		n.ready = n.reign.Shard().Epoch
		n.w.logf("%s is ready to hand epoch %d over", n.id, n.ready)
	}
}

// checkOpen: a reign that was ready to be handed over leaves no write of its own without an answer.
func (n *simNode) checkOpen() {
	if n.reign == nil || n.ready == 0 {
		return
	}
	n.w.handed++
	for s := n.reign.barrier; s <= n.last(); s++ {
		if e := n.entry(s); n.w.waiting[e.value] {
			n.w.fail("%s handed epoch %d over and left the write %d without an outcome", n.id, n.ready, e.value)
		}
	}
}

func (n *simNode) work(kind int) {
	switch kind {
	case evLearn:
		n.learn()
	case evWrite:
		n.write()
	case evSync:
		n.sync()
	case evShip:
		n.ship()
	case evPropose:
		n.propose()
	case evDeliver:
		for _, m := range n.w.nodes {
			for range 1 + n.w.rng.IntN(3) {
				if st := m.streams[n.id]; st != nil && n.w.rng.IntN(4) > 0 {
					st.receive()
					st.answer()
				}
			}
		}
	}
}
