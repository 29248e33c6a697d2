package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/themisdb/themis/pkg/themis"
)

// The states of a member.
const (
	MemberVoter   = "voter"
	MemberLearner = "learner"
	MemberDown    = "down"
)

// Member is one member of the embedded etcd.
type Member struct {
	ID        uint64
	Name      string // the node's id; empty until the member has run
	PeerURL   string
	ClientURL string
	State     string // voter, learner or down
	Leader    bool
}

const (
	memberPause = 250 * time.Millisecond // between tries; etcd refuses changes for 5 s after one, and then for a reason only
	statusLimit = 500 * time.Millisecond
)

// client asks all members that are known now; it is made when first needed.
func (s *Server) client() (*clientv3.Client, error) {
	endpoints := s.etcd.Server.Cluster().ClientURLs()
	if len(endpoints) == 0 {
		endpoints = []string{s.o.ClientURL}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin != nil {
		s.admin.SetEndpoints(endpoints...)
		return s.admin, nil
	}
	conf := clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialKeepAliveTime: keepAlivePing, DialKeepAliveTimeout: keepAliveTimeout}
	if s.o.CertFile != "" {
		var err error
		if conf.TLS, err = s.tls.ClientConfig(); err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
	}
	c, err := clientv3.New(conf)
	if err != nil {
		return nil, fmt.Errorf("connect to control plane: %w", err)
	}
	s.admin = c
	return c, nil
}

func (s *Server) closeAdmin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin != nil {
		_ = s.admin.Close() // its calls end with an error, which is theirs to tell
		s.admin = nil
	}
}

// patiently tries f until it succeeds, until its error is one that time won't heal, or until ctx ends.
func patiently(ctx context.Context, what string, f func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), attemptMax)
		err := f(attempt)
		cancel()
		if err == nil {
			return nil
		}
		heals := !permanent(err) || slices.ContainsFunc([]error{
			rpctypes.ErrUnhealthy, rpctypes.ErrMemberNotEnoughStarted, rpctypes.ErrMemberLearnerNotReady, rpctypes.ErrTooManyLearners,
		}, func(e error) bool { return errors.Is(err, e) })
		if !heals {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ctx.Err() != nil {
			return themis.Errorf(themis.Deadline, "%s: %w", what, errors.Join(ctx.Err(), err))
		}
		pause(ctx, memberPause)
	}
}

// AddLearner prepares the place of a new member and returns its id and the InitialCluster it must be started with, together
// with Existing. A place that was prepared before is found again. One member can be a learner at a time, and etcd refuses
// changes in the 5 s after one: it waits for that inside ctx.
func (s *Server) AddLearner(ctx context.Context, name, peerURL string) (id uint64, initial map[string]string, err error) {
	c, err := s.client()
	if err != nil {
		return 0, nil, err
	}
	var members []*pb.Member
	err = patiently(ctx, "add control-plane member "+name, func(ctx context.Context) error {
		list, err := c.MemberList(ctx) // linearizable: an earlier try without an answer shows here
		if err != nil {
			return err
		}
		members = list.Members
		if at := findMember(members, peerURL); at != nil {
			if !at.IsLearner || at.Name != "" && at.Name != name {
				return themis.Errorf(themis.RefusedUnsafe, "%s is the peer url of member %q", peerURL, at.Name)
			}
			id = at.ID
			return nil
		}
		added, err := c.MemberAddAsLearner(ctx, []string{peerURL})
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			// A member's id is made of its address and the second: in the second in which one was removed it is known as removed.
			return errors.New("a member with this peer url was removed a moment ago")
		}
		if err != nil {
			return err
		}
		id, members = added.Member.ID, added.Members
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	initial = map[string]string{name: peerURL}
	for _, m := range members {
		if m.Name != "" && len(m.PeerURLs) > 0 {
			initial[m.Name] = m.PeerURLs[0]
		}
	}
	return id, initial, nil
}

func findMember(members []*pb.Member, peerURL string) *pb.Member {
	i := slices.IndexFunc(members, func(m *pb.Member) bool { return slices.Contains(m.PeerURLs, peerURL) })
	if i < 0 {
		return nil
	}
	return members[i]
}

// Promote makes a learner a voter, as soon as it has caught up; it waits for that inside ctx. A voter is no error.
func (s *Server) Promote(ctx context.Context, id uint64) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	return patiently(ctx, fmt.Sprintf("promote control-plane member %x", id), func(ctx context.Context) error {
		_, err := c.MemberPromote(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return nil
		}
		return err
	})
}

// MoveMember tells the members where one of them is reached by the others now. One that is there already is no error; NOT_FOUND
// without a member of that name.
func (s *Server) MoveMember(ctx context.Context, name, peerURL string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	return patiently(ctx, "move control-plane member "+name, func(ctx context.Context) error {
		list, err := c.MemberList(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Members, func(m *pb.Member) bool { return m.Name == name })
		switch {
		case i < 0:
			return themis.Errorf(themis.NotFound, "the control plane has no member %s", name)
		case slices.Equal(list.Members[i].PeerURLs, []string{peerURL}):
			return nil
		}
		_, err = c.MemberUpdate(ctx, list.Members[i].ID, []string{peerURL})
		return err
	})
}

// RemoveMember takes a member out. One that runs ends by itself; no such member is no error. etcd refuses while the rest
// would have no quorum.
func (s *Server) RemoveMember(ctx context.Context, id uint64) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	return patiently(ctx, fmt.Sprintf("remove control-plane member %x", id), func(ctx context.Context) error {
		_, err := c.MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil
		}
		return err
	})
}

// Members are the members as this one knows them, by name, each asked for its state. It needs no quorum, and at most half a
// second.
func (s *Server) Members(ctx context.Context) ([]Member, error) {
	c, err := s.client()
	if err != nil {
		return nil, err
	}
	known := s.etcd.Server.Cluster().Members()
	leader := uint64(s.etcd.Server.Leader())
	out := make([]Member, len(known))
	var asking sync.WaitGroup
	for i, k := range known {
		m := Member{ID: uint64(k.ID), Name: k.Name, State: MemberDown, Leader: uint64(k.ID) == leader}
		if len(k.PeerURLs) > 0 {
			m.PeerURL = k.PeerURLs[0]
		}
		if len(k.ClientURLs) > 0 {
			m.ClientURL = k.ClientURLs[0]
		}
		asking.Go(func() {
			m.State = askState(ctx, c, m.ClientURL, k.IsLearner)
			out[i] = m
		})
	}
	asking.Wait()
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name+a.PeerURL, b.Name+b.PeerURL) })
	return out, nil
}

func askState(ctx context.Context, c *clientv3.Client, endpoint string, learner bool) string {
	if endpoint == "" {
		return MemberDown
	}
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	_, err := c.Status(ctx, endpoint)
	switch {
	case err != nil:
		return MemberDown
	case learner:
		return MemberLearner
	}
	return MemberVoter
}

// Status is how this member does.
type Status struct {
	ID      uint64
	Leader  uint64 // 0: none is known
	Learner bool
	Quorum  bool // a linearizable read came through just now
	DBBytes int64
	DBInUse int64
	Quota   int64
	Alarms  []string // NOSPACE, CORRUPT; of any member
}

// Status asks this member; the question for the quorum takes at most half a second.
func (s *Server) Status(ctx context.Context) Status {
	e := s.etcd.Server
	st := Status{
		ID: uint64(e.MemberID()), Leader: uint64(e.Leader()), Learner: e.IsLearner(),
		DBBytes: e.Backend().Size(), DBInUse: e.Backend().SizeInUse(), Quota: s.o.QuotaBytes,
	}
	for _, a := range e.Alarms() {
		st.Alarms = append(st.Alarms, a.Alarm.String())
	}
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	st.Quorum = e.LinearizableReadNotify(ctx) == nil
	return st
}

// Reclaim brings the control plane back after NOSPACE, in the order that holds: it compacts the history, then defragments
// each member, then takes the alarm back. What fills the database must be removed first; watches of old revisions end with
// ErrCompacted and read anew.
func (s *Server) Reclaim(ctx context.Context) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	now, err := c.Get(ctx, rootOfAll, clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("reclaim control-plane space: %w", translate(err))
	}
	_, err = c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("reclaim control-plane space: compact: %w", err)
	}
	for _, ep := range c.Endpoints() {
		if _, err := c.Defragment(ctx, ep); err != nil {
			return fmt.Errorf("reclaim control-plane space: defragment %s: %w", ep, err)
		}
	}
	alarms, err := c.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("reclaim control-plane space: %w", err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm}); err != nil {
			return fmt.Errorf("reclaim control-plane space: disarm: %w", err)
		}
	}
	return nil
}
