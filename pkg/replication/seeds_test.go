package replication

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// The world of the simulation: one shard, a handful of nodes, a control plane that is one record, a network of streams, a
// virtual clock. The decisions are those of this package, of election and of cluster; only the doing is imitated. Everything
// follows from the seed.

type world struct {
	rng     *rand.Rand
	now     time.Duration
	nodes   []*simNode
	record  cluster.Shard
	failed  map[themis.NodeID]bool
	stops   map[themis.NodeID]bool
	handed  int      // reigns that went to another node while theirs still ran
	pending []func() // transactions on their way to the control plane
	ballots []election.Ballot
	asked   themis.Epoch

	value   int
	waiting map[int]bool // values appended, not acknowledged
	acked   map[int]bool
	burnt   map[int]bool            // values that a disk had before it was lost; its ack may still be on its way
	loose   map[themis.Epoch]bool   // reigns that an election under ASYNC ended: what they still say stands nowhere
	changes map[string]int          // policies that came into force, by their modes
	reigns  map[themis.Epoch]string // who acknowledged in an epoch: node and boot
	control *simController          // nil: elections, verdicts and copies come at random
	trace   []string
	tracing bool
	wipes   int
	likely  [events]int
	total   int
	fault   string
}

var simStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) logf(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%7.3f ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
		w.logf("FAULT %s", w.fault)
	}
}

func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{rng: rng, failed: map[themis.NodeID]bool{}, stops: map[themis.NodeID]bool{}, waiting: map[int]bool{}, acked: map[int]bool{}, burnt: map[int]bool{},
		loose: map[themis.Epoch]bool{}, changes: map[string]int{}, reigns: map[themis.Epoch]string{}}
	w.likely = draw(rng)
	for _, l := range w.likely {
		w.total += l
	}
	count := 3 + rng.IntN(2)
	rf := 2 + rng.IntN(2)
	mode, k := themis.Sync, 1
	switch rng.IntN(8) {
	case 0:
		mode = themis.Async
	case 1, 2, 3:
		mode = themis.SemiSync
	}
	w.record = cluster.Shard{Format: 1, ID: "shard-1", Revision: 1, Have: cluster.Policy{Mode: mode, K: k, RF: rf}}
	w.record.Want = w.record.Have
	for i := range count {
		n := &simNode{w: w, id: themis.NodeID("node-" + strconv.Itoa(i+1)), rate: 0.97 + rng.Float64()*0.06, streams: map[themis.NodeID]*simStream{}}
		n.disk.storage = w.storage(n.id)
		w.nodes = append(w.nodes, n)
		if i < rf {
			w.record.Replicas = append(w.record.Replicas, cluster.Replica{Member: n.self(), Class: cluster.Voter})
			w.record.ISR = append(w.record.ISR, n.self())
		}
		n.start()
	}
	return w
}

func (w *world) storage(id themis.NodeID) themis.StorageID {
	w.wipes++
	return themis.StorageID(fmt.Sprintf("%s.%d", id, w.wipes))
}

// checkCopies: an acknowledged write is on 1 + k disks (I1, I2).
func (w *world) checkCopies(s themis.Seq, e simEntry) {
	copies := 0
	for _, n := range w.nodes {
		if int(s) <= len(n.disk.log) && n.disk.log[s-1] == e {
			copies++
		}
	}
	if w.burnt[e.value] {
		copies++
	}
	if copies < 1+w.record.Have.K && w.record.Have.Mode != themis.Async {
		w.fail("write %d was acknowledged with %d copies", e.value, copies)
	}
}

// leaveBehind is what an election under ASYNC costs: the writes that its winner lacks.
func (w *world) leaveBehind(seen cluster.Shard) {
	w.loose[seen.Epoch] = true
	have := w.node(w.record.Primary.Node).values(themis.Seq(math.MaxInt64))
	for v := range w.acked {
		if !have[v] {
			delete(w.acked, v)
			w.logf("%d is left behind", v)
		}
	}
}

// want asks for another policy at any moment.
func (w *world) want() {
	next := w.record
	next.Want.Mode = []themis.Mode{themis.Sync, themis.Sync, themis.SemiSync, themis.SemiSync, themis.Async}[w.rng.IntN(5)]
	next.Want.K = 1 + w.rng.IntN(next.Have.RF-1)
	next.Revision++
	w.record = next
	w.logf("record %d: wants %s, k %d", next.Revision, next.Want.Mode, next.Want.K)
}

// checkPrimary: whoever the control plane names as primary has every acknowledged write.
func (w *world) checkPrimary() {
	if len(w.acked) == 0 {
		return
	}
	for _, n := range w.nodes {
		if n.self() != w.record.Primary {
			continue
		}
		have := n.values(n.last())
		for v := range w.acked {
			if !have[v] {
				w.fail("the primary %s of epoch %d lacks the acknowledged write %d", n.id, w.record.Epoch, v)
			}
		}
	}
}

// change is the control plane.
func (w *world) change(seen, next cluster.Shard) (cluster.Shard, error) {
	next, err := changed(w.record, w.failed, seen, next)
	if err == nil {
		w.record = next
	}
	return next, err
}

func (w *world) node(id themis.NodeID) *simNode {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *simNode) bool { return n.id == id })]
}

// rolling stops the node and lets all others stay, as a rolling restart does; sometimes several stop at once.
func (w *world) rolling(n *simNode) {
	if w.rng.IntN(3) > 0 && !w.record.Primary.IsZero() {
		n = w.node(w.record.Primary.Node)
	}
	for _, o := range w.nodes {
		if o != n && w.rng.IntN(4) > 0 {
			o.hand(false)
		}
	}
	n.hand(n.up && w.rng.IntN(4) > 0)
}

func with(m map[themis.NodeID]bool, id themis.NodeID, v bool) map[themis.NodeID]bool {
	next := maps.Clone(m)
	next[id] = v
	return next
}

// elect is the controller: it asks for ballots at any moment it likes, whatever the truth about the primary.
func (w *world) elect() {
	next := w.record.Epoch + 1
	if w.asked != next {
		w.asked, w.ballots = next, nil
	}
	voters := w.record.Voters()
	voter := voters[w.rng.IntN(len(voters))]
	if p := w.record.Primary; !p.IsZero() && w.node(p.Node).handing && w.rng.IntN(4) > 0 {
		if w.node(p.Node).ready == 0 {
			return // the controller waits for its word
		}
		voter = p
	}
	if b, ok := w.ballot(voter, next); ok {
		w.ballots = slices.DeleteFunc(w.ballots, func(b election.Ballot) bool { return b.Voter.Node == voter.Node })
		w.ballots = append(w.ballots, b)
	}
	req := election.Request{Shard: w.record, Epoch: next, Ballots: w.ballots, Stopping: w.stops}
	if res := election.Count(req); res.Winner != nil && w.rng.IntN(3) > 0 {
		w.crown(req, res, func(bool) {})
	}
}

// ballot asks a voter for its ballot.
func (w *world) ballot(voter cluster.Member, next themis.Epoch) (b election.Ballot, given bool) {
	v := w.node(voter.Node)
	if !v.awake() || v.disk.storage != voter.Storage {
		return b, false
	}
	if !v.disk.exists {
		v.create(next)
	}
	if _, no := Vote(v.standing(), next, v.clock()); no != "" {
		return b, false
	}
	v.sync()
	v.checkOpen()
	if guard.On(guard.Promise) {
		v.disk.promised = max(v.disk.promised, next)
		v.endReign()
	}
	b, _ = Vote(v.standing(), next, v.clock())
	b.Boot = themis.BootID(strconv.Itoa(v.boot))
	w.logf("%s gives its ballot for %d: %v lease %v resigned %d", v.id, next, b.Last, b.LeaseRemaining, b.Resigned)
	return b, true
}

// crown sends a winner's coronation on its way; landed hears whether it took effect.
func (w *world) crown(req election.Request, res election.Result, landed func(bool)) {
	seen := req.Shard
	crowned, err := seen.Crown(res.Winner.Voter, res.Winner.Boot, res.Wait, false)
	if err != nil && guard.On(guard.ISRElection) {
		landed(false)
		return
	}
	if err != nil {
		crowned = seen
		crowned.Epoch, crowned.Primary, crowned.Boot, crowned.ISR = req.Epoch, res.Winner.Voter, res.Winner.Boot, []cluster.Member{res.Winner.Voter}
	}
	w.pending = append(w.pending, func() {
		landed(w.record.Revision == seen.Revision)
		if w.record.Revision != seen.Revision {
			return
		}
		crowned.Revision = seen.Revision + 1
		w.record = crowned
		w.logf("record %d: %s leads epoch %d, ISR %v", crowned.Revision, crowned.Primary, crowned.Epoch, crowned.ISR)
		if seen.Have.Mode == themis.Async {
			w.leaveBehind(seen)
		}
		w.checkPrimary()
	})
}

// mend is the rest of the controller: verdicts (right or wrong), rehousing, joining and dropping copies.
func (w *world) mend() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch {
	case w.failed[n.id]:
		if n.up || w.rng.IntN(4) == 0 {
			w.setFailed(n.id, false)
		}
	case !n.up || w.rng.IntN(10) == 0:
		w.setFailed(n.id, true)
	}
	seen := w.record
	change := func(next cluster.Shard, err error) {
		if err != nil || seen.Revision != w.record.Revision {
			return
		}
		next.Revision = seen.Revision + 1
		w.record = next
		w.logf("record %d: replicas %v ISR %v", next.Revision, next.Replicas, next.ISR)
	}
	if rep, ok := seen.Replica(n.id); ok && rep.Storage != n.disk.storage {
		if guard.On(guard.Incarnation) {
			change(seen.Rehouse(n.id, n.disk.storage))
		}
		return
	}
	if w.rng.IntN(6) > 0 || seen.Epoch == 0 {
		return
	}
	for _, rep := range seen.Replicas {
		if rep.Class == cluster.Async && (w.failed[rep.Node] || w.rng.IntN(8) == 0) {
			change(seen.Drop(rep.Member))
			return
		}
		if rep.Class == cluster.Voter && w.failed[rep.Node] && rep.Member != seen.Primary {
			if _, there := seen.Replica(n.id); !there && n.up {
				old := rep.Member
				change(seen.Join(cluster.Replica{Member: n.self(), Replaces: &old}))
				return
			}
		}
	}
}

func (w *world) setFailed(id themis.NodeID, v bool) {
	w.failed = with(w.failed, id, v)
	w.logf("%s declared failed: %v", id, v)
}

func (w *world) land() {
	if len(w.pending) == 0 {
		return
	}
	i := w.rng.IntN(len(w.pending))
	f := w.pending[i]
	w.pending = slices.Delete(w.pending, i, i+1)
	f()
}

// The kinds of events, and how likely each is. A seed draws its own likelihoods, so that some worlds know only crashes, some
// only pauses and cuts, some no faults of a kind at all (swarm testing, Groce et al., 2012).
const (
	evCrash = iota
	evPause
	evWipe
	evLeap
	evCut
	evQuit
	evHand
	evWant
	evMend
	evElect
	evLand
	evLearn
	evWrite
	evSync
	evShip
	evPropose
	evDeliver
	events
)

func draw(rng *rand.Rand) (likely [events]int) {
	faults := [events]int{evCrash: 12, evPause: 8, evWipe: 3, evLeap: 6, evCut: 12, evQuit: 14, evHand: 40, evWant: 20, evMend: 30, evElect: 40}
	work := [events]int{evLand: 60, evLearn: 80, evWrite: 60, evSync: 60, evShip: 80, evPropose: 40, evDeliver: 160}
	for i := range likely {
		likely[i] = 1 + work[i] + rng.IntN(work[i]+1)
		if i <= evElect {
			likely[i] = faults[i] * rng.IntN(4) / 3
		}
	}
	likely[evElect] = max(likely[evElect], 6)
	likely[evMend] = max(likely[evMend], 4)
	return likely
}

// step is one random event. Quiet steps bring no faults.
func (w *world) step(quiet bool) {
	w.now += time.Duration(w.rng.IntN(20)) * time.Millisecond
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	x, kind := w.rng.IntN(w.total), 0
	for ; x >= w.likely[kind]; kind++ {
		x -= w.likely[kind]
	}
	if quiet && kind <= evWant {
		kind = evDeliver
	}
	switch kind {
	case evCrash:
		if n.up {
			n.crash()
		} else {
			n.start()
		}
	case evPause:
		n.paused = w.now + time.Duration(w.rng.IntN(4000))*time.Millisecond
		w.logf("%s pauses until %v", n.id, n.paused)
	case evWipe:
		w.wipe(n)
	case evLeap:
		w.now += time.Duration(w.rng.IntN(2500)) * time.Millisecond
	case evCut:
		for _, m := range w.nodes {
			if st := m.streams[n.id]; st != nil {
				st.closed = true
			}
		}
	case evQuit:
		if n.awake() {
			n.quit()
		} else if !n.up {
			n.start()
		}
	case evHand:
		w.rolling(n)
	case evWant:
		w.want()
	case evMend:
		if w.control == nil {
			w.mend()
		} else if !quiet {
			w.control.suffers()
		}
	case evElect:
		if w.control == nil && (!quiet || !w.reigning()) {
			w.elect()
		}
	case evLand:
		w.land()
	default:
		if n.awake() {
			n.work(kind)
		}
	}
	if w.control != nil {
		w.control.step()
	}
	for _, n := range w.nodes {
		if n.awake() && n.reign != nil {
			n.reign.Tick(n.clock())
			n.acknowledge()
			n.quiet()
			n.read()
		}
	}
}

func (w *world) reigning() bool {
	for _, n := range w.nodes {
		if n.reign != nil && n.reign.Shard().Epoch == w.record.Epoch && n.self() == w.record.Primary {
			return true
		}
	}
	p := w.record.Primary
	return !p.IsZero() && w.node(p.Node).seenRecord.Revision < w.record.Revision && strconv.Itoa(w.node(p.Node).boot) == string(w.record.Boot)
}

// wipe replaces a disk by an empty one. At most one copy is lost at a time: more than k at once is beyond the promise.
func (w *world) wipe(n *simNode) {
	if len(w.pending) > 0 {
		return // a crown for the lost disk may be on its way: two faults at once
	}
	for _, o := range w.nodes {
		if o != n && (o.disk.blank != "" || !o.up || !o.disk.exists) {
			return
		}
	}
	if w.record.Primary.Node == n.id || len(w.record.ISR) < 2 && w.record.InSync(n.self()) || !w.whole(n) {
		return
	}
	if n.up {
		n.crash()
	}
	w.ballots = slices.DeleteFunc(w.ballots, func(b election.Ballot) bool { return b.Voter.Node == n.id })
	if w.control != nil {
		w.control.forgets(n.id)
	}
	w.logf("%s gets an empty disk", n.id)
	if guard.On(guard.Incarnation) { // else its acks are taken for those of the empty disk
		for _, e := range n.disk.log {
			w.burnt[e.value] = true
		}
	}
	n.disk = simDisk{storage: w.storage(n.id), promised: w.record.Epoch}
	if !guard.On(guard.Incarnation) {
		for _, r := range w.record.Replicas {
			if r.Node == n.id {
				n.disk.storage = r.Storage // back under its old name, and nobody the wiser
			}
		}
		n.disk.exists = true
	}
}

// whole says that every voter but n has all that was acknowledged, so that the loss of n alone is within the promise.
func (w *world) whole(n *simNode) bool {
	for _, m := range w.record.Voters() {
		o := w.node(m.Node)
		if o == n || o.self() != m {
			continue
		}
		have := 0
		for _, e := range o.disk.log {
			if w.acked[e.value] {
				have++
			}
		}
		if have < len(w.acked) {
			return false
		}
	}
	return true
}

func (w *world) run(steps int) {
	for range steps {
		w.step(false)
		if w.fault != "" {
			return
		}
	}
}

// heal ends all faults and demands progress: a new write is acknowledged and every voter is in sync again.
func (w *world) heal() {
	for _, n := range w.nodes {
		n.paused = 0
		n.hand(false)
		if n.quitting && n.up {
			n.quit()
		}
		if !n.up {
			n.start()
		}
	}
	if w.control != nil {
		w.control.still, w.control.cut = 0, map[themis.NodeID]time.Duration{}
	}
	for i := range 6000 {
		w.step(true)
		if w.fault != "" {
			return
		}
		if i%50 == 0 && w.control == nil {
			for _, n := range w.nodes {
				w.setFailed(n.id, false)
			}
		}
		if i > 300 && w.settled() {
			return
		}
	}
	w.fail("no progress: record %+v, acked %d, waiting %d", w.record, len(w.acked), len(w.waiting))
}

func (w *world) settled() bool {
	if len(w.record.ISR) < w.record.Have.RF || w.record.Have != w.record.Want {
		return false
	}
	for _, n := range w.nodes {
		if n.reign != nil && n.self() == w.record.Primary && n.reign.Ready() && n.commit == n.last() {
			return true
		}
	}
	return false
}

func seeds(t *testing.T) int {
	if s := os.Getenv("THEMIS_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("THEMIS_SEEDS=%q: %v", s, err)
		}
		return n
	}
	return 1000
}

func simulate(seed uint64, tracing bool) *world {
	w := newWorld(seed)
	w.tracing = tracing
	w.run(700)
	if w.fault == "" {
		w.heal()
	}
	return w
}

// TestSeeds runs the pure core of replication, election and the shard record through random faults. A fault prints its seed
// and the whole run; THEMIS_SEED=n repeats one.
func TestSeeds(t *testing.T) {
	if s := os.Getenv("THEMIS_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		w := simulate(seed, true)
		t.Logf("%s", strings.Join(w.trace, "\n"))
		if w.fault != "" {
			t.Fatal(w.fault)
		}
		return
	}
	acked, epochs, handed, changes := 0, 0, 0, map[string]int{}
	for seed := range uint64(seeds(t)) {
		w := simulate(seed, false)
		acked += len(w.acked)
		epochs += int(w.record.Epoch)
		handed += w.handed
		for c, n := range w.changes {
			changes[c] += n
		}
		if w.fault != "" {
			w = simulate(seed, true)
			t.Fatalf("seed %d: %s\n%s", seed, w.fault, strings.Join(w.trace, "\n"))
		}
	}
	if n := seeds(t); acked < n || epochs < 2*n || handed < n/50 || len(changes) < 6 {
		t.Fatalf("the simulation does too little to show anything: %d writes acknowledged, %d epochs, %d of them handed over, policies changed %v, in %d runs", acked, epochs, handed, changes, n)
	}
	t.Logf("%d writes acknowledged, %d epochs, %d handed over, policies changed %v", acked, epochs, handed, changes)
}
