package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

const (
	shipBytes   = 1 << 20                // frames in one message, where more than one batch is on its way
	openShips   = 8                      // messages with frames that a follower may owe an answer for: what comes meanwhile goes in one
	queueBytes  = 16 << 20               // batches held for one follower; beyond that it reads from the log
	silentLimit = 3 * time.Second        // a stream on which nothing comes back for so long is opened anew
	retryMax    = 500 * time.Millisecond // between attempts
)

// shipper brings one follower what it lacks, for as long as the reign lasts.
type shipper struct {
	rg     *reigning
	to     cluster.Member
	stop   context.CancelCauseFunc
	wake   chan struct{}
	wanted atomic.Bool // a message is wanted, with frames or without
	made   *checkpoint // of run alone: what an install that broke off goes on with; nil: none

	freed time.Duration // under rg.mu: when the follower was first told in this stream that it is free; 0: not yet
	bound bool          // under rg.mu: there is a stream, and no answer to that yet

	out    sync.Mutex // whoever has it may send
	stream Outgoing   // nil: there is none
	abort  context.CancelCauseFunc
	next   themis.Seq // the follower gets, or has got, everything before it
	scan   *wal.Scanner

	mu      sync.Mutex
	queue   []wal.Batch
	held    themis.Bytes
	owed    []time.Duration // when the messages with frames that are not answered yet were sent
	problem string          // why there is no stream
	install *InstallProgress
}

// InstallProgress is how far a copy that gets the primary's state is.
type InstallProgress struct {
	Began   time.Time
	Resumed themis.Bytes // of Sent, what an earlier try had sent
	Sent    themis.Bytes
	Total   themis.Bytes
}

// Left is how long the rest takes at the pace so far; 0 while that can't be said: buffers take the first bytes at once.
func (p InstallProgress) Left(now time.Time) time.Duration {
	done, took := p.Sent-p.Resumed, now.Sub(p.Began)
	if done <= 0 || took < time.Second {
		return 0
	}
	return time.Duration(float64(took) * float64(p.Total-p.Sent) / float64(done))
}

func (s *shipper) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// want asks for a message now.
func (s *shipper) want() {
	s.wanted.Store(true)
	s.poke()
}

// offer sends a batch that is on its way to the local disk, or holds it. It never blocks: a follower that has answered everything has
// room for one more message, and else the shipper sends it; what doesn't fit is read from the log later.
func (s *shipper) offer(b wal.Batch) {
	s.mu.Lock()
	s.queue = append(s.queue, b)
	s.held += themis.Bytes(len(b.Frames))
	for s.held > queueBytes && len(s.queue) > 1 { // one batch may be larger than all that is held usually
		s.drop()
	}
	rests := len(s.owed) == 0
	s.mu.Unlock()
	if !rests || !s.shipNow() {
		s.poke()
	}
}

// shipNow sends what is held, unless the shipper is about to.
func (s *shipper) shipNow() bool {
	if !s.out.TryLock() {
		return false
	}
	defer s.out.Unlock()
	if s.stream == nil {
		return false
	}
	frames, last := s.take(s.next)
	if frames == nil {
		return false
	}
	if err := s.message(frames, last); err != nil {
		s.abort(err)
	}
	return true
}

func (s *shipper) drop() {
	s.held -= themis.Bytes(len(s.queue[0].Frames))
	s.queue = s.queue[1:]
}

// take returns the frames of the held batches from next on, about shipBytes of them, and drops those before them; nil: none is held.
func (s *shipper) take(next themis.Seq) (frames []byte, last themis.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 && s.queue[0].First < next {
		s.drop()
	}
	for len(s.queue) > 0 && s.queue[0].First == next && (frames == nil || len(frames)+len(s.queue[0].Frames) <= shipBytes) {
		b := s.queue[0]
		if frames == nil {
			frames = b.Frames[:len(b.Frames):len(b.Frames)] // others read it, too: appending copies it
		} else {
			frames = append(frames, b.Frames...)
		}
		last, next = b.Last, b.Last+1
		s.drop()
	}
	return frames, last
}

// answered takes what the follower has had, and wakes send where it waits for that.
func (s *shipper) answered(echo time.Duration) {
	s.mu.Lock()
	full, n := len(s.owed) >= openShips, 0
	for n < len(s.owed) && s.owed[n] <= echo {
		n++
	}
	s.owed = append(s.owed[:0], s.owed[n:]...)
	s.mu.Unlock()
	if full && n > 0 {
		s.poke()
	}
}

// busy says whether the follower has enough to do.
func (s *shipper) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.owed) >= openShips
}

func (s *shipper) say(problem string) {
	s.mu.Lock()
	s.problem = problem
	s.mu.Unlock()
}

func (s *shipper) run(ctx context.Context) error {
	wait := 20 * time.Millisecond
	defer s.dropCheckpoint()
	for ctx.Err() == nil {
		began := time.Now()
		if s.made != nil && began.Sub(s.made.used) > keepCheckpoint {
			s.dropCheckpoint()
		}
		err := s.session(ctx)
		if err != nil {
			s.say(err.Error())
			s.rg.r.o.Logger.Info("stream ended", "node", s.to.Node, "epoch", s.rg.epoch, "err", err)
		}
		if time.Since(began) > time.Second || err == nil {
			wait = 20 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMax)
	}
	return nil // the reign's own end is its context's business
}

// session is one stream, from its hello to its end. Without error: an install was done, begin anew.
func (s *shipper) session(ctx context.Context) error {
	r := s.rg.r
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := s.hello()
	stream, w, err := r.o.Transport.Open(ctx, s.to, h)
	switch {
	case err != nil:
		return err
	case w.Promised > s.rg.epoch:
		s.rg.end(fmt.Errorf("%s has promised epoch %d", s.to.Node, w.Promised))
		return fmt.Errorf("%s has promised epoch %d", s.to.Node, w.Promised)
	case !w.Accepted:
		return fmt.Errorf("%s refused: %s", s.to.Node, w.Refused)
	case w.Install:
		s.rg.mu.Lock()
		s.rg.core.Emptied(s.to, time.Now())
		s.rg.mu.Unlock()
		return s.sendState(ctx, h)
	}
	s.rg.mu.Lock()
	s.rg.core.Reset(s.to, w.Common, time.Now())
	s.freed, s.bound = 0, true
	s.rg.mu.Unlock()
	s.mu.Lock()
	s.owed = nil
	s.mu.Unlock()
	defer func() {
		s.rg.mu.Lock()
		defer s.rg.mu.Unlock()
		s.rg.core.Lost(s.to)
		s.bound = false
	}()
	s.say("")
	g, ctx := errgroup.WithContext(ctx)
	heard := make(chan struct{}, 1)
	g.Go(func() error { return s.receive(stream, heard) })
	g.Go(func() error { return s.watch(ctx, heard, cancel) })
	g.Go(func() error {
		err := s.send(ctx, stream, w.Common+1, cancel)
		cancel(err) // ends the stream, and with it receive
		return err
	})
	return g.Wait()
}

func (s *shipper) hello() Hello {
	r := s.rg.r
	s.rg.mu.Lock()
	defer s.rg.mu.Unlock()
	last := r.log.Durable() // it may have more, and is cut back to that
	s.rg.core.Asked(s.to, last)
	s.rg.streams++
	return Hello{
		Cluster: r.o.Cluster, Shard: r.o.Shard, Epoch: s.rg.epoch, Primary: r.o.Self, Follower: s.to.Storage,
		Lineage: r.log.Lineage(), First: r.shippable(), Last: last, Barrier: s.rg.core.barrier,
		Acked:      s.rg.core.Acked(s.to),
		Stream:     s.rg.streams,
		AckedAlone: s.rg.core.Shard().AckedAlone(),
	}
}

// watch ends a stream on which nothing comes back.
func (s *shipper) watch(ctx context.Context, heard <-chan struct{}, cancel context.CancelCauseFunc) error {
	t := time.NewTimer(silentLimit)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-heard:
			t.Reset(silentLimit)
		case <-t.C:
			err := fmt.Errorf("%s has been silent for %s", s.to.Node, silentLimit)
			cancel(err)
			return err
		}
	}
}

func (s *shipper) receive(stream Outgoing, heard chan<- struct{}) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case heard <- struct{}{}:
		default:
		}
		if m.Promised > s.rg.epoch {
			err := fmt.Errorf("%s has promised epoch %d", s.to.Node, m.Promised)
			s.rg.end(err)
			return err
		}
		if m.Refused != "" {
			return fmt.Errorf("%s ended the stream: %s", s.to.Node, m.Refused)
		}
		s.answered(m.Echo)
		s.rg.mu.Lock()
		s.rg.core.Heard(s.to, Ack{Durable: m.Durable, Applied: m.Applied, LSN: m.LSN, Mute: m.Mute, Sent: s.rg.began.Add(m.Echo)}, time.Now())
		if s.freed > 0 && m.Echo >= s.freed {
			s.bound = false
		}
		s.rg.mu.Unlock()
		s.rg.progress()
	}
}

// send ships from next on, until ctx ends.
func (s *shipper) send(ctx context.Context, stream Outgoing, next themis.Seq, abort context.CancelCauseFunc) error {
	s.out.Lock()
	s.stream, s.next, s.abort = stream, next, abort
	s.out.Unlock()
	defer func() {
		s.out.Lock()
		defer s.out.Unlock()
		s.stream = nil
		s.endScan()
	}()
	beat := time.NewTicker(s.rg.r.o.Heartbeat)
	defer beat.Stop()
	for s.wanted.Store(true); ; {
		if err := s.ship(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wake:
		case <-beat.C:
			s.wanted.Store(true)
		}
	}
}

// ship sends what there is: held batches where they fit on, the log otherwise, and a message without frames where one is wanted.
func (s *shipper) ship() error {
	s.out.Lock()
	defer s.out.Unlock()
	for {
		frames, last, err := s.frames()
		if err != nil || frames == nil && !s.wanted.Load() {
			return err
		}
		if err := s.message(frames, last); err != nil {
			return err
		}
	}
}

// message sends frames, or none, and what else the follower is to know; out is held.
func (s *shipper) message(frames []byte, last themis.Seq) error {
	s.wanted.Store(false)
	s.rg.mu.Lock()
	m := Ship{
		Frames: frames, Commit: themis.Seq(s.rg.r.commit.Load()), Sent: time.Since(s.rg.began),
		Whole: s.rg.core.Shard().InSync(s.to), Free: s.rg.core.Free(s.to),
	}
	if m.Free && s.freed == 0 {
		s.freed = m.Sent
	}
	s.rg.mu.Unlock()
	if frames != nil {
		s.next = last + 1
		s.mu.Lock()
		s.owed = append(s.owed, m.Sent)
		s.mu.Unlock()
	}
	return s.stream.Send(m)
}

// frames returns what comes next, or nil when there is nothing yet, or when the follower owes too many answers; out is held.
func (s *shipper) frames() ([]byte, themis.Seq, error) {
	if s.busy() {
		return nil, 0, nil
	}
	if frames, last := s.take(s.next); frames != nil {
		return frames, last, nil
	}
	if s.rg.r.log.Durable() < s.next {
		return nil, 0, nil
	}
	if s.scan != nil && s.scan.Pos().Seq+1 != s.next {
		s.endScan()
	}
	if s.scan == nil {
		sc, err := s.rg.r.log.Scan(s.next)
		if err != nil {
			s.rg.r.damaged(err)
			return nil, 0, err // trimmed away: the next hello asks for an install
		}
		s.scan = sc
	}
	b, err := s.scan.NextFrames(nil, shipBytes)
	if errors.Is(err, io.EOF) {
		return nil, 0, nil
	}
	s.rg.r.damaged(err)
	return b.Frames, b.Last, err
}

func (s *shipper) endScan() {
	if s.scan != nil {
		_ = s.scan.Close()
		s.scan = nil
	}
}

// Installed is the reason of the event "install": what a copy got.
type Installed struct {
	Node  themis.NodeID
	Bytes themis.Bytes
	Seq   themis.Seq
	Took  time.Duration // whole milliseconds
}

const installedText = "%s got %d bytes up to seq %d in %d ms"

func (i Installed) String() string {
	return fmt.Sprintf(installedText, i.Node, i.Bytes, i.Seq, i.Took.Milliseconds())
}

// ParseInstalled reads what String wrote.
func ParseInstalled(reason string) (i Installed, err error) {
	var ms int64
	if _, err := fmt.Sscanf(reason, installedText, &i.Node, &i.Bytes, &i.Seq, &ms); err != nil {
		return i, fmt.Errorf("read %q: %w", reason, err)
	}
	i.Took = time.Duration(ms) * time.Millisecond
	return i, nil
}

func upTo(l []themis.EpochStart, seq themis.Seq) []themis.EpochStart {
	for i, x := range l {
		if x.Seq > seq {
			return l[:i]
		}
	}
	return l
}
