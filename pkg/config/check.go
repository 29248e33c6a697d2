package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// The values of cells, by type; the zero value where none is set.
func (r *reader) num(path string) int64     { n, _ := r.cells[path].value.(int64); return n }
func (r *reader) str(path string) string    { s, _ := r.cells[path].value.(string); return s }
func (r *reader) on(path string) bool       { b, _ := r.cells[path].value.(bool); return b }
func (r *reader) float(path string) float64 { f, _ := r.cells[path].value.(float64); return f }
func (r *reader) list(path string) []string { l, _ := r.cells[path].value.([]string); return l }
func (r *reader) objs(path string) []object { o, _ := r.cells[path].value.([]object); return o }
func (r *reader) isSet(path string) bool    { return r.cells[path].layer != layerDefault }

// cross notes a fault that several keys make together, at the first of them that was set, unless one is faulty by itself.
func (r *reader) cross(paths []string, format string, args ...any) {
	if slices.ContainsFunc(paths, func(p string) bool { return r.broken[p] }) {
		return
	}
	r.fault(r.place(paths), r.called(paths[0]), format, args...)
}

func (r *reader) crossWarn(paths []string, format string, args ...any) {
	if slices.ContainsFunc(paths, func(p string) bool { return r.broken[p] }) {
		return
	}
	r.warn(r.place(paths), r.called(paths[0]), format, args...)
}

// called is the name under which a file set the key.
func (r *reader) called(path string) string {
	if name := r.cells[path].name; name != "" {
		if _, ok := known.find(name); ok {
			return name
		}
	}
	return path
}

func (r *reader) place(paths []string) string {
	for _, p := range paths {
		if where := r.cells[p].where; where != "" {
			return where
		}
	}
	return ""
}

// derive sets what follows from other keys.
func (r *reader) derive() {
	const rfKey, kKey = "replication.replication_factor", "replication.min_sync_replicas"
	none := r.str("cluster.mode") == "NONE"
	r.byMode(rfKey, none, 1)
	r.byMode(kKey, none && r.num(rfKey) == 1, 0) // one copy, no follower to wait for
	r.deriveMetricsPort()
}

// byMode sets a key that nobody set to its default, or to another one under cluster.mode NONE.
func (r *reader) byMode(path string, none bool, value int64) {
	k, _ := known.find(path)
	switch {
	case r.isSet(path):
	case none:
		r.cells[path] = cell{value: value, from: "default of cluster.mode NONE"}
	default:
		r.cells[path] = cell{value: k.defaultValue(), from: "default"}
	}
}

// deriveMetricsPort makes metrics.port and node.metrics_listen agree: the one from the higher layer holds.
func (r *reader) deriveMetricsPort() {
	const portKey, listenKey = "metrics.port", "node.metrics_listen"
	port, listen := r.cells[portKey], r.cells[listenKey]
	host, has, err := net.SplitHostPort(r.str(listenKey))
	if err != nil || r.broken[portKey] || r.broken[listenKey] {
		return
	}
	switch want := show(port.value); {
	case want == has:
	case port.layer > listen.layer:
		r.cells[listenKey] = cell{net.JoinHostPort(host, want), port.layer, portKey, port.from, port.where}
	case port.layer == listen.layer && port.layer != layerDefault:
		r.fault(port.where, portKey, "%s, but %s (%s) has port %s: set one of them", want, listenKey, listen.where, has)
	default:
		n, _ := strconv.ParseInt(has, 10, 64)
		r.cells[portKey] = cell{n, listen.layer, listenKey, listen.from, listen.where}
	}
}

// check looks at what single keys can't show, and says whether there is no fault at all.
func (r *reader) check() bool {
	r.checkPorts()
	r.checkControl()
	r.checkPKI()
	r.checkFailover()
	r.checkCopies()
	r.checkHybrid()
	r.checkWAL()
	r.checkRanges()
	r.checkNodes()
	r.checkAdvice()
	r.checkLater()
	r.checkUnserved()
	return len(r.faults) == 0
}

// checkPorts finds two servers of one node on one port (C-05).
func (r *reader) checkPorts() {
	type server struct{ path, addr string }
	servers := []server{{"node.grpc_listen", ""}, {"node.http_listen", ""}}
	if r.on("metrics.enabled") {
		servers = append(servers, server{"node.metrics_listen", ""})
	}
	if r.str("control.mode") == "embedded" {
		servers = append(servers, server{"control.peer_listen", ""}, server{"control.client_listen", ""})
	}
	for i := range servers {
		servers[i].addr = r.str(servers[i].path)
	}
	if r.on("sharding.communication.http.enabled") {
		servers = append(servers, server{"sharding.communication.http.port", ":" + strconv.FormatInt(r.num("sharding.communication.http.port"), 10)})
	}
	for i, a := range servers {
		for _, b := range servers[:i] {
			if clash(a.addr, b.addr) {
				r.cross([]string{a.path, b.path}, "%s clashes with %s %s: one port serves one of them; 0 picks a free port", a.addr, b.path, b.addr)
			}
		}
	}
}

func clash(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	everywhere := func(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }
	return errA == nil && errB == nil && portA == portB && portA != "0" && (hostA == hostB || everywhere(hostA) || everywhere(hostB))
}

func (r *reader) checkControl() {
	if r.str("control.mode") == "external" {
		r.checkExternal()
	} else {
		for _, path := range externalKeys {
			if r.isSet(path) {
				r.crossWarn([]string{path, "control.mode"}, "counts only under control.mode external; it is %s", r.str("control.mode"))
			}
		}
	}
	if tick, election := r.num("control.tick_ms"), r.num("control.election_ms"); election < 5*tick {
		r.cross([]string{"control.election_ms", "control.tick_ms"}, "%d: want at least 5 × control.tick_ms = %d", election, 5*tick)
	}
}

// externalKeys say how to reach an etcd of the operator's.
var externalKeys = []string{"control.endpoints", "control.ca", "control.cert", "control.key", "control.server_name", "control.username", "control.password_file"}

func (r *reader) checkExternal() {
	const key = "control.endpoints"
	endpoints := r.list(key)
	if len(endpoints) == 0 {
		r.cross([]string{key, "control.mode"}, "none, and control.mode is external: name the etcd cluster's client addresses")
	}
	plain := 0
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if !strings.Contains(e, "://") {
			u, err = url.Parse("https://" + e)
		}
		switch {
		case err != nil || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
			r.cross([]string{key}, "%q: want https://host:port", e)
		case u.Scheme == "http" && !loopback(u.Hostname()) && !r.on("node.development_mode"):
			r.cross([]string{key, "node.development_mode"}, "%s: the map and the password would be readable on the way; want https, or node.development_mode true", e)
		case u.Scheme == "http":
			plain++
			r.crossWarn([]string{key}, "%s: whoever reaches that port may change the cluster map", e)
		}
	}
	if plain > 0 && plain < len(endpoints) {
		r.cross([]string{key}, "some with https and some without: want one kind")
	}
	for _, pair := range [][2]string{{"control.cert", "control.key"}, {"control.username", "control.password_file"}} {
		if (r.str(pair[0]) == "") != (r.str(pair[1]) == "") {
			r.cross(pair[:], "goes together with the other: set both %s and %s", pair[0], pair[1])
		}
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (r *reader) checkPKI() {
	if r.on("node.development_mode") {
		r.crossWarn([]string{"node.development_mode"}, "true: traffic without TLS is allowed, which must not be in production")
	}
	if (r.str("pki.cert") == "") != (r.str("pki.key") == "") {
		r.cross([]string{"pki.cert", "pki.key"}, "certificate and key go together: set both pki.cert and pki.key")
	}
	if !r.on("pki.enabled") && !r.on("node.development_mode") {
		r.cross([]string{"pki.enabled", "node.development_mode"}, "false: traffic between nodes without TLS is refused unless node.development_mode is true")
	}
	for _, p := range []string{"pki.verify_peer", "pki.verify_hostname"} {
		if !r.on(p) {
			r.crossWarn([]string{p}, "false: this node may talk to an impostor")
		}
	}
	if r.str("http.plain_loopback") == "full" {
		r.crossWarn([]string{"http.plain_loopback"}, "full: every local user may write without a certificate")
	}
}

// checkFailover checks the order of the times (C-14).
func (r *reader) checkFailover() {
	for _, pair := range [][2]string{
		{"failover.election_timeout_min_ms", "failover.election_timeout_max_ms"},
		{"failover.failed_after_min_ms", "failover.failed_after_max_ms"},
		{"failover.retry_interval_ms", "failover.probe_interval_ms"},
		{"replication.lag_warning_ms", "replication.lag_alert_ms"},
	} {
		if lo, hi := r.num(pair[0]), r.num(pair[1]); lo > hi {
			r.cross(pair[:], "%d is above %s %d", lo, pair[1], hi)
		}
	}
	const maxKey, probeKey, retryKey, countKey = "failover.failed_after_max_ms", "failover.probe_interval_ms", "failover.retry_interval_ms", "failover.failure_threshold"
	if takes := r.num(probeKey) + (r.num(countKey)-1)*r.num(retryKey); takes > r.num(maxKey) {
		r.cross([]string{maxKey, probeKey, retryKey, countKey}, "%d: %d failed probes, %d ms apart at first and %d ms then, take up to %d ms",
			r.num(maxKey), r.num(countKey), r.num(probeKey), r.num(retryKey), takes)
	}
}

// checkCopies compares mode, redundancy, copies and quorum (SEC-07, C-22, C-71).
func (r *reader) checkCopies() {
	const modeKey, kKey, rfKey = "replication.mode", "replication.min_sync_replicas", "replication.replication_factor"
	mode, k, rf := themis.Mode(r.str(modeKey)), r.num(kKey), r.num(rfKey)
	red := r.str("cluster.mode")
	if red == "NONE" && rf != 1 {
		r.cross([]string{rfKey, "cluster.mode"}, "%d: cluster.mode NONE keeps 1 copy; want MIRROR for more", rf)
	}
	if red == "MIRROR" && rf < 2 {
		r.cross([]string{rfKey, "cluster.mode"}, "%d: cluster.mode MIRROR keeps at least 2 copies; want NONE for 1", rf)
	}
	waits := mode == themis.Sync || mode == themis.SemiSync || mode == themis.Hybrid && len(r.list("replication.synchronous_shards")) > 0
	switch {
	case waits && k == 0 && (rf > 1 || mode == themis.SemiSync):
		r.cross([]string{kKey, modeKey}, "0 under %s: a write would be acknowledged with one copy; want at least 1, or replication.mode async", mode)
	case waits && k >= rf && rf > 1:
		r.cross([]string{kKey, rfKey, modeKey}, "%d followers and the primary are %d copies, replication_factor is %d", k, k+1, rf)
	case waits && k >= rf && k > 0:
		r.cross([]string{kKey, rfKey, modeKey}, "%d: with 1 copy there is no follower to wait for", k)
	case k == 0 && r.isSet(kKey):
		r.crossWarn([]string{kKey}, "0: a write is acknowledged with one copy and lost with it")
	}
}

// checkHybrid: every shard stands in exactly one of the two lists (REP-05).
func (r *reader) checkHybrid() {
	const syncKey, asyncKey, modeKey, countKey = "replication.synchronous_shards", "replication.asynchronous_shards", "replication.mode", "sharding.cluster.active_shards"
	both := []string{syncKey, asyncKey, modeKey, countKey}
	inSync, inAsync := r.list(syncKey), r.list(asyncKey)
	if themis.Mode(r.str(modeKey)) != themis.Hybrid {
		if len(inSync)+len(inAsync) > 0 {
			r.crossWarn([]string{syncKey, asyncKey}, "the lists of shards count only under replication.mode hybrid; it is %s", r.str(modeKey))
		}
		return
	}
	for _, s := range inSync {
		if slices.Contains(inAsync, s) {
			r.cross(both, "%s is in replication.asynchronous_shards too: want each shard in one list", s)
		}
	}
	n := r.num(countKey)
	all := slices.Concat(inSync, inAsync)
	for i := range n {
		if s := "shard-" + strconv.FormatInt(i+1, 10); !slices.Contains(all, s) {
			r.cross(both, "%s is in neither list: want each of shard-1 to shard-%d in one", s, n)
		}
	}
	for _, s := range all {
		if r.unknownShard(s) {
			r.cross(both, "%s: there are only shard-1 to shard-%d (%s)", s, n, countKey)
		}
	}
}

// unknownShard says whether the canonical name s is none of shard-1 to shard-N.
func (r *reader) unknownShard(s string) bool {
	n, err := strconv.ParseInt(strings.TrimPrefix(s, "shard-"), 10, 64)
	return err != nil || n > r.num("sharding.cluster.active_shards")
}

// checkWAL compares sizes (C-24) and directories (REP-08).
func (r *reader) checkWAL() {
	const keepKey, segmentKey, maxKey = "wal.keep_segments", "wal.segment_size_mb", "wal.max_size_gb"
	keep, segment, size := r.num(keepKey), r.num(segmentKey), r.float(maxKey)
	if need := float64(keep*segment) / 1000; need > size {
		r.cross([]string{maxKey, keepKey, segmentKey}, "%g: %d segments of %d MB are %g GB; want at least %g, or keep fewer", size, keep, segment, need, math.Ceil(need))
	}
	if segment > 8 {
		r.crossWarn([]string{segmentKey}, "%d: an open log takes up to ten times this in memory; 8 costs no speed", segment)
	}
	if !r.on("wal.fsync") {
		r.cross([]string{"wal.fsync"}, "false: a write is acknowledged only once it is on disk; this can't be switched off")
	}
	count, seen := map[any]int{}, map[any]bool{}
	dirs := r.objs("wal.directories")
	for _, d := range dirs {
		count[d.fields["type"]]++
		if p := d.fields["path"]; seen[p] {
			r.cross([]string{"wal.directories"}, "%v stands there twice", p)
		}
		seen[d.fields["path"]] = true
	}
	if len(dirs) > 0 && count["primary"] != 1 {
		r.cross([]string{"wal.directories"}, "%d primary directories: want 1", count["primary"])
	}
	if count["mirror"] > 1 {
		r.cross([]string{"wal.directories"}, "%d mirror directories: want at most 1", count["mirror"])
	}
}

// checkNodes compares the nodes to begin with.
func (r *reader) checkNodes() {
	const key = "sharding.nodes"
	ids, addrs, spares := map[any]bool{}, map[string]bool{}, int64(0)
	for _, n := range r.objs(key) {
		addr := net.JoinHostPort(show(n.fields["host"]), show(n.fields["port"]))
		if ids[n.fields["id"]] {
			r.cross([]string{key}, "node %v stands there twice", n.fields["id"])
		}
		if addrs[addr] {
			r.cross([]string{key}, "node %v: another one has the address %s too", n.fields["id"], addr)
		}
		ids[n.fields["id"]], addrs[addr] = true, true
		from := show(n.fields["replicate_from"])
		if n.fields["role"] == "hot_spare" {
			spares++
		} else if from != "" {
			r.cross([]string{key}, "node %v: replicate_from is for role hot_spare", n.fields["id"])
		}
		if from != "" && r.unknownShard(from) {
			r.cross([]string{key, "sharding.cluster.active_shards"}, "node %v: replicate_from %s: there are only shard-1 to shard-%d", n.fields["id"], from, r.num("sharding.cluster.active_shards"))
		}
	}
	if want := r.num("sharding.cluster.hot_spares"); len(ids) > 0 && r.isSet("sharding.cluster.hot_spares") && want != spares {
		r.crossWarn([]string{"sharding.cluster.hot_spares", key}, "%d, but sharding.nodes names %d spares", want, spares)
	}
}

// checkLater checks sums of parts that come later.
func (r *reader) checkLater() {
	if sum := r.float("router.adaptive.latency_weight") + r.float("router.adaptive.load_weight"); math.Abs(sum-1) > 1e-9 {
		r.cross([]string{"router.adaptive.latency_weight", "router.adaptive.load_weight"}, "with load_weight it makes %g: want 1", sum)
	}
	local, global, all := r.num("geo.local_replicas"), r.num("geo.global_replicas"), r.num("geo.replication_factor")
	if local+global != all {
		r.cross([]string{"geo.replication_factor", "geo.local_replicas", "geo.global_replicas"}, "%d: local_replicas %d + global_replicas %d are %d", all, local, global, local+global)
	}
	const timeKey = "restore.target_time"
	if s := r.str(timeKey); s != "" {
		if _, err := time.Parse(time.RFC3339, s); err != nil {
			r.cross([]string{timeKey}, "%q: want a time such as 2026-01-06T12:00:00Z", s)
		}
	}
}

// checkUnserved warns of what is accepted and without effect, so that nobody relies on it.
func (r *reader) checkUnserved() {
	for _, k := range known.keys {
		if c := r.cells[k.Path]; k.Unready && k.top() && c.layer != layerDefault && show(c.value) != show(k.defaultValue()) {
			r.crossWarn([]string{k.Path}, "accepted, without effect in this version")
		}
	}
	if m := r.str("cluster.mode"); m != "NONE" && m != "MIRROR" {
		r.crossWarn([]string{"cluster.mode"}, "%s is accepted but not served by this version; NONE and MIRROR are", m)
	}
	if s := r.str("sharding.strategy"); s != "hash" {
		r.crossWarn([]string{"sharding.strategy"}, "%s is accepted but not served by this version; hash is", s)
	}
}

// checkRanges: ranges of keys must not overlap, leave no gap, and name shards that exist (SHD-06).
func (r *reader) checkRanges() {
	const key, strategyKey, fieldKey, countKey = "sharding.ranges", "sharding.strategy", "sharding.key", "sharding.cluster.active_shards"
	ranges := r.objs(key)
	if r.str(strategyKey) != "range" {
		if len(ranges) > 0 {
			r.crossWarn([]string{key}, "counts only under sharding.strategy range; it is %s", r.str(strategyKey))
		}
		return
	}
	if r.str(fieldKey) == "" {
		r.cross([]string{fieldKey, strategyKey}, "is missing: sharding.strategy range needs the field to compare")
	}
	if len(ranges) == 0 {
		r.cross([]string{key, strategyKey}, "none: sharding.strategy range needs ranges")
		return
	}
	spans := make([]span, len(ranges))
	for i, o := range ranges {
		spans[i] = newSpan(o)
		if s := show(o.fields["shard"]); r.unknownShard(s) {
			r.cross([]string{key, countKey}, "%s: there are only shard-1 to shard-%d (%s)", s, r.num(countKey), countKey)
		}
	}
	slices.SortStableFunc(spans, func(a, b span) int { return a.lo.compare(b.lo) })
	for i, s := range spans {
		r.checkSpan(key, spans[:i], s)
	}
	last := slices.MaxFunc(spans, func(a, b span) int { return a.hi.compare(b.hi) })
	if spans[0].lo.inf == 0 {
		r.crossWarn([]string{key}, "no shard has keys before %s: min: null has them all", spans[0].min)
	}
	if last.hi.inf == 0 {
		r.crossWarn([]string{key}, "no shard has keys behind %s: max: null has them all", last.max)
	}
}

func (r *reader) checkSpan(key string, before []span, s span) {
	if s.lo.compare(s.hi) > 0 {
		r.cross([]string{key}, "%s: min is behind max", s)
		return
	}
	if s.mixed {
		r.cross([]string{key}, "%s: a date and a number", s)
		return
	}
	if len(before) == 0 {
		return
	}
	prev := slices.MaxFunc(before, func(a, b span) int { return a.hi.compare(b.hi) })
	switch {
	case prev.hi.date != s.lo.date && prev.hi.inf == 0 && s.lo.inf == 0:
		r.cross([]string{key}, "%s and %s: dates and numbers in one list", prev, s)
	case s.lo.compare(prev.hi) <= 0:
		r.cross([]string{key}, "%s and %s overlap; both ends belong to a range", prev, s)
	case prev.hi.inf == 0 && s.lo.inf == 0 && s.lo.n != prev.hi.n+1:
		r.cross([]string{key}, "gap between %s and %s: nobody has the keys between", prev, s)
	}
}

// end is one end of a span; inf is -1 or 1 for none.
type end struct {
	bound
	inf int
}

func (e end) compare(o end) int {
	switch {
	case e.inf != o.inf:
		return e.inf - o.inf
	case e.n < o.n:
		return -1
	case e.n > o.n:
		return 1
	}
	return 0
}

// span is one entry of sharding.ranges.
type span struct {
	shard, min, max string
	lo, hi          end
	mixed           bool
}

func newSpan(o object) span {
	s := span{shard: show(o.fields["shard"]), min: show(o.fields["min"]), max: show(o.fields["max"]), lo: end{inf: -1}, hi: end{inf: 1}}
	if b, ok := parseBound(s.min); ok {
		s.lo = end{bound: b}
	}
	if b, ok := parseBound(s.max); ok {
		s.hi = end{bound: b}
	}
	s.mixed = s.lo.inf == 0 && s.hi.inf == 0 && s.lo.date != s.hi.date
	return s
}

func (s span) String() string {
	return fmt.Sprintf("%s [%s, %s]", s.shard, orNull(s.min), orNull(s.max))
}

func orNull(s string) string {
	if s == "" {
		return "null"
	}
	return s
}
