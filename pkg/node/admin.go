package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/recording"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// adminService is what operators' tools ask of a node.
type adminService struct {
	nodev1.UnimplementedAdminServiceServer
	n      *Node
	ending context.Context // ends with the servers: who watches must not hold them up
}

// Describe implements the service.
func (s *adminService) Describe(ctx context.Context, _ *nodev1.DescribeRequest) (*nodev1.DescribeResponse, error) {
	n := s.n
	n.hearDouble(ctx)
	out := &nodev1.DescribeResponse{
		NodeId: string(n.id.Node), StorageId: string(n.id.Storage), BootId: string(n.boot), Version: n.o.Version,
		GrpcAddr: n.addr.GRPC, HttpAddr: n.addr.HTTP, MetricsAddr: n.addr.Metrics,
		ControlPeerUrl: n.controlURL(n.cfg.Control.PeerListen), ControlClientUrl: n.controlURL(n.cfg.Control.ClientListen),
		Role: n.cfg.Node.Role, Region: n.cfg.Node.Region, Datacenter: n.cfg.Node.Datacenter, Rack: n.cfg.Node.Rack,
		PublicKey: n.source.PublicKey(), Pid: int64(os.Getpid()), SeenDisks: n.seenDisks(ctx),
	}
	for _, v := range n.cfg.Founding() {
		if v.Served {
			out.Founding = append(out.Founding, &nodev1.FoundingValue{Key: v.Key, Value: v.Value, From: v.From})
		}
	}
	if s := n.etcd.Load(); s != nil {
		out.ControlPeerUrl, out.ControlClientUrl = s.PeerURL(), s.ClientURL()
	}
	if j := n.joined(); j != nil {
		out.ClusterId, out.ClusterName = string(j.ID), j.Name
	}
	return out, nil
}

// Bootstrap implements the service.
func (s *adminService) Bootstrap(ctx context.Context, req *nodev1.BootstrapRequest) (*nodev1.BootstrapResponse, error) {
	if req.GetClusterId() == "" || req.GetClusterName() == "" || len(req.GetControlEndpoints()) == 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "cluster_id, cluster_name, control_endpoints: each must be given")
	}
	if err := s.n.told(ctx, joinedOf(req)); err != nil {
		return nil, err
	}
	return &nodev1.BootstrapResponse{}, nil
}

// ClientMap is what clients need to route: the routing part of the map, as GetMap answers it.
type ClientMap struct {
	Revision    themis.Revision                  `json:"revision"`
	Cluster     string                           `json:"cluster"`
	ClusterID   themis.ClusterID                 `json:"cluster_id"`
	Redundancy  string                           `json:"redundancy"`
	Virtual     int                              `json:"virtual_nodes"`
	Nodes       map[themis.NodeID]string         `json:"nodes"` // gRPC addresses
	Primaries   map[themis.ShardID]themis.NodeID `json:"primaries"`
	Shards      []cluster.Shard                  `json:"shards"`
	Members     []cluster.Node                   `json:"members"`
	Failed      []cluster.Failed                 `json:"failed"`
	Collections []cluster.Collection             `json:"collections"`
	Controller  cluster.Controller               `json:"controller"`
	Settings    cluster.Settings                 `json:"settings"`
	Routing     json.RawMessage                  `json:"routing"`
}

// GetMap implements the service.
func (s *adminService) GetMap(_ context.Context, req *nodev1.GetMapRequest) (*nodev1.GetMapResponse, error) {
	v, ok := s.n.latest()
	if !ok {
		return nil, s.n.noMap()
	}
	if v.Revision > 0 && themis.Revision(req.GetKnownRevision()) >= v.Revision { //nolint:gosec // revisions are small
		return &nodev1.GetMapResponse{Revision: uint64(v.Revision)}, nil //nolint:gosec // positive
	}
	out := ClientMap{
		Revision: v.Revision, Cluster: v.Meta.Name, ClusterID: v.Meta.ID, Redundancy: v.Meta.Redundancy, Virtual: v.Meta.VirtualNodes, Nodes: map[themis.NodeID]string{}, Primaries: map[themis.ShardID]themis.NodeID{},
		Controller: v.Controller, Settings: v.Settings, Shards: []cluster.Shard{}, Members: []cluster.Node{}, Failed: []cluster.Failed{}, Collections: []cluster.Collection{},
	}
	for _, id := range v.NodeIDs() {
		out.Nodes[id] = v.Nodes[id].GRPC
		out.Members = append(out.Members, v.Nodes[id])
		if f, ok := v.Failed[id]; ok {
			out.Failed = append(out.Failed, f)
		}
	}
	for _, id := range v.ShardIDs() {
		out.Shards = append(out.Shards, v.Shards[id])
		if p := v.Shards[id].Primary; !p.IsZero() {
			out.Primaries[id] = p.Node
		}
	}
	for _, c := range v.Collections {
		out.Collections = append(out.Collections, c)
	}
	slices.SortFunc(out.Collections, func(a, b cluster.Collection) int { return int(a.ID) - int(b.ID) })
	var err error
	if out.Routing, err = v.Routing.Encode(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return &nodev1.GetMapResponse{Revision: uint64(v.Revision), MapJson: b}, nil //nolint:gosec // positive
}

// GetState implements the service.
func (s *adminService) GetState(ctx context.Context, req *nodev1.GetStateRequest) (*nodev1.StateFrame, error) {
	if req.GetAtHlc() == "" {
		return s.n.frame(ctx)
	}
	at, err := themis.ParseHLC(req.GetAtHlc())
	if err != nil {
		return nil, err
	}
	past, err := recording.Open(recording.Dir(s.n.cfg.Node.DataDir))
	if err != nil {
		return nil, err
	}
	return past.Last(ctx, at)
}

// WatchState implements the service: a frame at least once a second, and at once when the map changes, with the events since
// the last one.
func (s *adminService) WatchState(req *nodev1.WatchStateRequest, stream grpc.ServerStreamingServer[nodev1.StateFrame]) error {
	from := themis.HLCAt(time.Now())
	if req.GetFromHlc() != "" {
		var err error
		if from, err = themis.ParseHLC(req.GetFromHlc()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.ending, func() {
		cancel(themis.Errorf(themis.NoPrimary, "%s stops; another node tells the state", s.n.id.Node))
	})()
	for frame, err := range s.n.frames(ctx, from) {
		if err == nil {
			err = stream.Send(frame)
		}
		if err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
	}
	return context.Cause(ctx)
}

// GetLocalState implements the service.
func (s *adminService) GetLocalState(ctx context.Context, _ *nodev1.GetLocalStateRequest) (*nodev1.GetLocalStateResponse, error) {
	b, err := json.Marshal(s.n.localState(ctx))
	if err != nil {
		return nil, err
	}
	return &nodev1.GetLocalStateResponse{StateJson: b}, nil
}

// ListEvents implements the service.
func (s *adminService) ListEvents(ctx context.Context, req *nodev1.ListEventsRequest) (*nodev1.ListEventsResponse, error) {
	m := s.n.m.Load()
	if m == nil {
		return nil, s.n.noMap()
	}
	var from, to themis.HLC
	var err error
	if req.GetFromHlc() != "" {
		if from, err = themis.ParseHLC(req.GetFromHlc()); err != nil {
			return nil, err
		}
	}
	if req.GetToHlc() != "" {
		if to, err = themis.ParseHLC(req.GetToHlc()); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	events, err := m.Events(ctx, from, to, int(req.GetLimit())) //nolint:gosec // a count
	if err != nil {
		return nil, s.n.noControl(err)
	}
	out := &nodev1.ListEventsResponse{}
	for _, e := range events {
		out.EventsJson = append(out.EventsJson, asJSON(e))
	}
	return out, nil
}

// ApplyConfig implements the service: cluster-wide values go to the control plane as one record, compared with the version they
// were made from. An invalid file changes nothing.
func (s *adminService) ApplyConfig(ctx context.Context, req *nodev1.ApplyConfigRequest) (*nodev1.ApplyConfigResponse, error) {
	v, ok := s.n.latest()
	m := s.n.m.Load()
	if !ok || m == nil {
		return nil, s.n.noMap()
	}
	next, err := config.Load([]config.Source{{Name: req.GetName(), Data: req.GetYaml()}}, nil, nil)
	if err != nil {
		return nil, err
	}
	base, err := config.Load(nil, nil, nil)
	if err != nil {
		return nil, err
	}
	before, err := base.With(v.Settings.Values)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for k, x := range v.Settings.Values {
		values[k] = x
	}
	for k, x := range next.Applied() {
		values[k] = x
	}
	after, err := base.With(values)
	if err != nil {
		return nil, err
	}
	changes := config.Diff(before, after)
	if err := onlyAtInit(v, next.Founding(), base); err != nil {
		return nil, err
	}
	if _, err := settle(s.n.cfg, values); err != nil {
		return nil, err
	}
	b, err := json.Marshal(changes)
	if err != nil {
		return nil, err
	}
	out := &nodev1.ApplyConfigResponse{Version: v.Settings.Version, ChangesJson: b}
	if req.GetDryRun() || len(changes) == 0 {
		return out, nil
	}
	who := peerName(ctx)
	cctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	applied, err := m.ApplySettings(cctx, v.Settings.Version, cluster.Settings{Values: values, Who: who, When: time.Now().UTC()})
	if err != nil {
		return nil, s.n.noControl(err)
	}
	s.n.event(cluster.Event{Actor: operator(ctx, ""), Action: "apply_config", Subject: req.GetName(), Outcome: "done", Before: asJSON(v.Settings.Values), After: b, ConfigVersion: applied.Version})
	out.Version, out.Applied = applied.Version, true
	return out, nil
}

// onlyAtInit refuses what a file says of that which was fixed when the cluster was made, each with its value; what says the same as the
// cluster has is no change.
func onlyAtInit(v cluster.View, asked []config.Value, base config.Config) error {
	is := map[string]string{}
	for _, d := range base.Values() {
		is[d.Key] = d.Value
	}
	maps.Copy(is, cluster.Founding(v.Meta, v.ShardList()))
	var faults []error
	modes := false
	for _, a := range asked {
		if cluster.SameFounding(a.Key, a.Value, is[a.Key]) {
			continue
		}
		if a.Key == "replication.min_sync_replicas" && is["replication.mode"] == string(themis.Async) {
			continue // no write waits for followers
		}
		faults = append(faults, fmt.Errorf("%s: %q %s; it is %q", a.Key, a.Value, config.Change{Apply: config.AtInit}.Effect(), is[a.Key]))
		modes = modes || strings.HasPrefix(a.Key, "replication.") && a.Key != "replication.replication_factor"
	}
	if len(faults) == 0 {
		return nil
	}
	next := "leave the keys out of the file, or set them to what the cluster has"
	if modes {
		next = "leave the keys out of the file; modes are changed by: themis-cli replication set-mode --help"
	}
	return themis.Errorf(themis.RefusedUnsafe, "%w", errors.Join(faults...)).Do("%s", next)
}

func peerName(ctx context.Context) string {
	if p, ok := rpc.Peer(ctx); ok {
		return p.Name()
	}
	return "unknown"
}

// Act implements the service.
func (s *adminService) Act(ctx context.Context, req *nodev1.ActRequest) (*nodev1.ActResponse, error) {
	switch req.GetVerb() {
	case "cluster.init":
		var a initArgs
		if err := json.Unmarshal(req.GetArgsJson(), &a); err != nil {
			return nil, themis.Errorf(themis.InvalidArgument, "args: %w", err)
		}
		out, err := s.n.initCluster(ctx, a, req.GetDryRun())
		if err != nil {
			return nil, err
		}
		if req.GetDryRun() {
			return &nodev1.ActResponse{ResultJson: asJSON(out)}, nil
		}
		s.n.event(cluster.Event{Actor: operator(ctx, ""), Action: "cluster_init", Subject: a.Name, Outcome: "done", After: asJSON(out)})
		return &nodev1.ActResponse{ResultJson: asJSON(out)}, nil
	case "node.join":
		return act(ctx, req, s.n.joinNode)
	case "node.remove":
		return act(ctx, req, s.n.removeNode)
	case "shard.remove-copy":
		return act(ctx, req, s.n.removeCopy)
	case "shard.candidates":
		return act(ctx, req, s.n.candidates)
	case "replication.set-mode":
		return act(ctx, req, s.n.setMode)
	case "node.token":
		return act(ctx, req, s.n.createToken)
	}
	return nil, themis.Errorf(themis.Unimplemented, "verb %q is not served by this version", req.GetVerb())
}
