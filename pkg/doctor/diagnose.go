package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// CheckVerdict is one check in one word.
type CheckVerdict string

// The verdicts of checks. PASSED is only said of a check that looked at something, and at all of it.
const (
	Passed      CheckVerdict = "PASSED"
	HasFindings CheckVerdict = "FINDINGS"
	NotLooked   CheckVerdict = "INCONCLUSIVE"
)

// CheckResult is what became of one check.
type CheckResult struct {
	Name     string       `json:"name"`
	Verdict  CheckVerdict `json:"verdict"`
	Looked   int          `json:"looked_at"` // nodes, shards or copies
	Of       int          `json:"of"`        // that there are
	Question string       `json:"question"`
}

// Seen is one node as the doctor saw it.
type Seen struct {
	Node       themis.NodeID    `json:"node"`
	Addr       string           `json:"addr"`
	Answers    bool             `json:"answers"`
	Error      string           `json:"error"`
	Version    string           `json:"version"`
	Revision   *themis.Revision `json:"revision"` // of its map
	SkewMs     *float64         `json:"clock_skew_ms"`
	ErrorMs    *float64         `json:"clock_error_ms"`
	CertEnds   *time.Time       `json:"cert_expires"`
	StorageID  themis.StorageID `json:"storage_id"`
	ConfigSeen *uint64          `json:"config_version"`
	Routing    *uint64          `json:"routing_version"`
	Term       *themis.Term     `json:"controller_term"`
}

// Diagnosis is what check answers.
type Diagnosis struct {
	Cluster      string        `json:"cluster"`
	Time         time.Time     `json:"time"`
	TookMs       int64         `json:"took_ms"`
	Verdict      CheckVerdict  `json:"verdict"` // FINDINGS: at least a warning
	Nodes        []Seen        `json:"nodes"`
	Checks       []CheckResult `json:"checks"`
	Findings     []Finding     `json:"findings"` // the worst first
	Inconclusive []Unlooked    `json:"inconclusive"`
}

// Exit is 1 where a finding is at the bar or past it, 3 where something could not be looked at, else 0.
func (d Diagnosis) Exit(bar Bar) int { return exit(d.Findings, len(d.Inconclusive), bar) }

// Has says that the cluster has no such shard: NOT_FOUND with those that it has. Where no map was told nobody knows, and the diagnosis
// says so anyway.
func (e Evidence) Has(shard themis.ShardID) error {
	m := newestWord(e)
	if m == nil {
		return nil
	}
	have := make([]string, len(m.Shards))
	for i, s := range m.Shards {
		have[i] = string(s.ID)
	}
	if slices.Contains(have, string(shard)) {
		return nil
	}
	slices.SortFunc(have, natural)
	const few = 10
	text := orNone(have[:min(few, len(have))])
	if n := len(have); n > few {
		text += fmt.Sprintf(" … %s", have[n-1])
	}
	return themis.Errorf(themis.NotFound, "no shard %q in %s; there are: %s", shard, m.Cluster, text).Do("themis-cli shard list")
}

// Only keeps what is about one shard, and what is about no shard.
func (d Diagnosis) Only(shard themis.ShardID) Diagnosis {
	other := func(subject string) bool {
		s, _, _ := strings.Cut(subject, "/")
		id, err := themis.ParseShardID(s)
		return strings.HasPrefix(s, "shard-") && err == nil && id != shard
	}
	d.Findings = slices.DeleteFunc(slices.Clone(d.Findings), func(f Finding) bool { return other(f.Subject) })
	d.Inconclusive = slices.DeleteFunc(slices.Clone(d.Inconclusive), func(u Unlooked) bool { return other(u.Subject) })
	d.Verdict = d.conclude()
	return d
}

func (d Diagnosis) conclude() CheckVerdict {
	switch d.Exit(health.Warning) {
	case themis.ExitFailed:
		return HasFindings
	case themis.ExitInconclusive:
		return NotLooked
	}
	return Passed
}

// examination is one check: it looks at the evidence and tells how much of it there was.
type examination struct {
	name     string
	question string
	look     func(d *diagnosing) (looked, of int)
}

var examinations = []examination{
	{"answers", "does every member answer?", (*diagnosing).answers},
	{"identity", "is every node a member of this cluster, on the disk that the map names?", (*diagnosing).identity},
	{"replication", "does every shard serve, with all its copies in sync?", (*diagnosing).replication},
	{"reigns", "has every epoch one primary and every term one controller?", (*diagnosing).reigns},
	{"map", "do all nodes know the same map, settings and routing?", (*diagnosing).maps},
	{"clocks", "do the nodes' clocks agree?", (*diagnosing).clocks},
	{"versions", "do all nodes run the same version?", (*diagnosing).versions},
	{"certificates", "is every certificate on the wire signed by this CA, and valid for a while?", (*diagnosing).certificates},
	{"freshness", "are the figures of the report of now?", (*diagnosing).freshness},
}

// diagnosing is one Diagnose at work.
type diagnosing struct {
	e     Evidence
	d     Diagnosis
	check string // under way
	bad   bool   // the check is answered with no, by a finding of another one
	gone  map[themis.NodeID]bool
}

// Diagnose says what the evidence means. The same evidence gives the same diagnosis.
func Diagnose(e Evidence) Diagnosis {
	d := &diagnosing{e: e, gone: failed(e)}
	d.d = Diagnosis{
		Cluster: e.Cluster, Time: e.Ended.UTC(), TookMs: e.Ended.Sub(e.Began).Milliseconds(),
		Nodes: []Seen{}, Checks: []CheckResult{}, Findings: []Finding{}, Inconclusive: []Unlooked{},
	}
	if m := newestWord(e); m != nil {
		d.d.Cluster = m.Cluster
	}
	for _, w := range e.Witnesses {
		d.d.Nodes = append(d.d.Nodes, seen(w))
	}
	for _, x := range examinations {
		d.examine(x)
	}
	sortFindings(d.d.Findings)
	d.d.Verdict = d.d.conclude()
	return d.d
}

func (d *diagnosing) examine(x examination) {
	d.check, d.bad = x.name, false
	findings, unlooked := len(d.d.Findings), len(d.d.Inconclusive)
	looked, of := x.look(d)
	r := CheckResult{Name: x.name, Verdict: Passed, Looked: looked, Of: of, Question: x.question}
	bad := d.bad || slices.ContainsFunc(d.d.Findings[findings:], func(f Finding) bool { return reaches(f, health.Warning) })
	if !bad && looked == 0 && len(d.d.Inconclusive) == unlooked {
		d.unlooked("cluster", "there was nothing to look at", "themis-cli cluster health")
	}
	switch {
	case bad:
		r.Verdict = HasFindings
	case len(d.d.Inconclusive) > unlooked, looked < of:
		r.Verdict = NotLooked
	}
	d.d.Checks = append(d.d.Checks, r)
}

// failed are the nodes that the cluster itself has declared FAILED: their silence is told by that finding.
func failed(e Evidence) map[themis.NodeID]bool {
	out := map[themis.NodeID]bool{}
	for _, w := range e.Witnesses {
		if l := w.newest(); l != nil {
			for _, f := range l.Report.Find(health.NodeFailed) {
				out[themis.NodeID(f.Subject)] = true
			}
		}
	}
	return out
}

// newestWord is the map of the highest revision that anybody told.
func newestWord(e Evidence) (out *MapWord) {
	for _, w := range e.Witnesses {
		if m := w.word(); m != nil && (out == nil || m.Revision > out.Revision) {
			out = m
		}
	}
	return out
}

func seen(w Witness) Seen {
	s := Seen{Node: w.Node, Addr: w.Addr, Answers: w.newest() != nil, Error: w.Err}
	if w.Self != nil {
		s.Version, s.StorageID = w.Self.Version, w.Self.Storage
	}
	if m := w.word(); m != nil {
		s.Revision, s.ConfigSeen, s.Routing, s.Term = &m.Revision, &m.Settings, &m.Routing, &m.Controller.Term
	}
	if c := w.Clock; c != nil {
		skew, off := millis(c.Skew), millis(c.Error)
		s.SkewMs, s.ErrorMs = &skew, &off
	}
	if c := w.Cert; c != nil {
		ends := c.NotAfter.UTC()
		s.CertEnds = &ends
	}
	return s
}

// millis are milliseconds with one digit behind the point.
func millis(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}

// add makes a finding of the doctor's own. at is when its evidence was true.
func (d *diagnosing) add(code health.Code, severity health.Severity, subject string, at time.Time, v values) {
	f := find(code, severity, subject, v)
	f.AgeMs = d.age(at)
	d.d.Findings = append(d.d.Findings, f)
}

func (d *diagnosing) age(at time.Time) int64 { return max(0, d.e.Ended.Sub(at).Milliseconds()) }

func (d *diagnosing) unlooked(subject, why, fix string) {
	d.d.Inconclusive = append(d.d.Inconclusive, Unlooked{d.check, subject, why, fix})
}

// missing notes that a witness did not tell something; of a silent one `answers` has told already.
func (d *diagnosing) missing(w Witness, what string) {
	if !w.silent() {
		d.unlooked(w.name(), what, "themis-cli node list")
	}
}

// present are the witnesses of whom something may be expected: all but those that the cluster has declared FAILED and that are silent.
func (d *diagnosing) present() (out []Witness) {
	for _, w := range d.e.Witnesses {
		if !d.gone[w.Node] || !w.silent() {
			out = append(out, w)
		}
	}
	return out
}

// answers: a member that is silent, and not known to be down, is a gap in the evidence. The other checks count it as not looked at
// and don't repeat it.
func (d *diagnosing) answers() (looked, of int) {
	for _, w := range d.e.Witnesses {
		of++
		switch {
		case w.newest() != nil && w.word() != nil && w.Err == "":
			looked++
		case d.gone[w.Node]:
			d.bad = true // the health report's NODE_FAILED tells it
		default:
			d.unlooked(w.name(), fmt.Sprintf("it did not answer at %s: %s", w.Addr, cmp.Or(w.Err, "it told no map")), "themis-cli node list")
		}
	}
	return looked, of
}

// identity compares who the nodes say they are with the map and with each other.
func (d *diagnosing) identity() (looked, of int) {
	m := newestWord(d.e)
	disks := map[themis.StorageID][]string{}
	for _, w := range d.present() {
		of++
		if w.Self == nil || m == nil {
			d.missing(w, "it did not say who it is")
			continue
		}
		looked++
		at := w.SelfAt
		if s := w.Self; s.ClusterID != m.ClusterID {
			d.add(ForeignCluster, "", w.name(), at, values{
				"node": w.name(), "addr": w.Addr, "cluster": cmp.Or(s.Cluster, "none"), "cluster_id": string(s.ClusterID), "others": m.Cluster, "others_id": string(m.ClusterID),
			})
			continue
		}
		disks[w.Self.Storage] = append(disks[w.Self.Storage], w.name())
		for _, n := range m.Members {
			if n.ID == w.Node && n.Storage != w.Self.Storage {
				d.add(StorageChanged, "", w.name(), at, values{"node": w.name(), "storage_id": string(w.Self.Storage), "map_storage_id": string(n.Storage)})
			}
		}
	}
	for _, id := range sorted(disks) {
		if nodes := disks[id]; len(nodes) > 1 {
			d.add(StorageTwice, "", "cluster", d.e.Ended, values{"nodes": nodes, "storage_id": string(id)})
		}
	}
	return looked, of
}

// replication takes over the findings of every node's health report; the same fact, told by several, is one finding.
func (d *diagnosing) replication() (looked, of int) {
	type key struct {
		code    health.Code
		subject string
	}
	at := map[key]int{}
	for _, w := range d.present() {
		of++
		l := w.newest()
		if l == nil {
			continue
		}
		looked++
		for _, f := range l.Report.Findings {
			k := key{f.Code, f.Subject}
			age := d.age(l.At)
			i, known := at[k]
			if !known {
				i = len(d.d.Findings)
				at[k] = i
				d.d.Findings = append(d.d.Findings, Finding{Finding: f, Cause: causes[f.Code], AgeMs: age})
			}
			have := &d.d.Findings[i]
			have.SeenBy = append(have.SeenBy, w.Node)
			if worse := slices.Index(severities, f.Severity) < slices.Index(severities, have.Severity); worse || age < have.AgeMs && f.Severity == have.Severity {
				have.Finding, have.AgeMs = f, age
			}
		}
	}
	if looked == 0 {
		d.unlooked("cluster", "no node told its report", "themis-cli cluster health")
	}
	return looked, of
}
