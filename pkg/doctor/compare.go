package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// told is one node's map at one look.
type told struct {
	by string
	*MapWord
}

// words are all maps that members of this cluster told, the newest revision first.
func (d *diagnosing) words() (out []told, from, of int) {
	m := newestWord(d.e)
	for _, w := range d.present() {
		of++
		if w.word() == nil {
			d.missing(w, "it told no map")
			continue
		}
		from++
		for _, l := range w.Looks {
			if l.Map != nil && l.Map.ClusterID == m.ClusterID {
				out = append(out, told{w.name(), l.Map})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b told) int { return -cmp.Compare(a.Revision, b.Revision) })
	return out, from, of
}

// reigns: an epoch of a shard names one primary, and a term one controller, in every map there ever was.
func (d *diagnosing) reigns() (looked, of int) {
	words, looked, of := d.words()
	type reign struct {
		shard themis.ShardID
		epoch themis.Epoch
	}
	type first struct {
		is string
		by string
	}
	primaries, controllers := map[reign]first{}, map[themis.Term]first{}
	reported := map[string]bool{}
	once := func(code health.Code, subject string, at time.Time, v values) {
		if k := string(code) + subject; !reported[k] {
			reported[k] = true
			d.add(code, "", subject, at, v)
		}
	}
	for _, w := range words {
		if c := w.Controller; c.Node != "" {
			is := first{string(c.Node), w.by}
			was, known := controllers[c.Term]
			if known && was.is != is.is {
				once(TwoControllers, "control", w.At, values{"term": uint64(c.Term), "first": was.is, "first_by": was.by, "second": is.is, "second_by": is.by})
			} else if !known {
				controllers[c.Term] = is
			}
		}
		for _, s := range w.Shards {
			if s.Primary.IsZero() {
				continue
			}
			k, is := reign{s.ID, s.Epoch}, first{string(s.Primary.Node) + " on " + string(s.Primary.Storage), w.by}
			was, known := primaries[k]
			if known && was.is != is.is {
				once(TwoPrimaries, string(s.ID), w.At, values{"shard": string(s.ID), "epoch": uint64(s.Epoch), "first": was.is, "first_by": was.by, "second": is.is, "second_by": is.by})
			} else if !known {
				primaries[k] = is
			}
		}
	}
	return looked, of
}

// facts are what a map says, by name, for comparing two of the same revision.
func (m *MapWord) facts() map[string]string {
	out := map[string]string{
		"the routing version is": fmt.Sprint(m.Routing), "the settings version is": fmt.Sprint(m.Settings),
		"the controller is": fmt.Sprintf("%s in term %d", m.Controller.Node, m.Controller.Term),
		"the members are":   strings.Join(nodeNames(m.Members), ","),
	}
	for _, s := range m.Shards {
		out[fmt.Sprintf("%s is led by", s.ID)] = fmt.Sprintf("%s in epoch %d", cmp.Or(string(s.Primary.Node), "nobody"), s.Epoch)
		out[fmt.Sprintf("the in-sync set of %s is", s.ID)] = strings.Join(memberNames(s.ISR), ",")
	}
	return out
}

func nodeNames(list []cluster.Node) (out []string) {
	for _, n := range list {
		out = append(out, string(n.ID)+"@"+string(n.Storage))
	}
	slices.Sort(out)
	return out
}

func memberNames(list []cluster.Member) (out []string) {
	for _, m := range list {
		out = append(out, string(m.Node))
	}
	slices.Sort(out)
	return out
}

// maps compares maps of one revision, which must be equal, and finds who is behind.
func (d *diagnosing) maps() (looked, of int) {
	words, looked, of := d.words()
	d.diverged(words)
	for _, w := range d.present() {
		if m := w.word(); m != nil {
			d.behind(told{w.name(), m}, words)
		}
	}
	return looked, of
}

func (d *diagnosing) diverged(words []told) {
	byRevision := map[themis.Revision]told{}
	for _, w := range words {
		was, known := byRevision[w.Revision]
		if !known {
			byRevision[w.Revision] = w
			continue
		}
		a, b := was.facts(), w.facts()
		for _, what := range sorted(a) {
			if b[what] != a[what] {
				d.add(MapDiverged, "", "cluster", w.At, values{
					"revision": int64(w.Revision), "what": what, "first": was.by, "first_says": a[what], "second": w.by, "second_says": cmp.Or(b[what], "nothing"),
				})
				return
			}
		}
	}
}

// staleAfter is how long a node may lack what another one knows: a watch brings changes within milliseconds.
const staleAfter = time.Second

// behind finds out whether a node's newest map lacks what another node knew at least a second before.
func (d *diagnosing) behind(w told, words []told) {
	var ahead *told
	for i, other := range words {
		if other.by != w.by && other.Revision > w.Revision && w.At.Sub(other.At) >= staleAfter {
			ahead = &words[i]
			break // the newest
		}
	}
	if ahead == nil {
		return
	}
	mine, theirs := w.facts(), ahead.facts()
	var lacks []string
	for _, what := range sorted(theirs) {
		if mine[what] != theirs[what] {
			lacks = append(lacks, what+" "+theirs[what])
		}
	}
	if len(lacks) == 0 {
		lacks = []string{"nothing that routing needs"}
	}
	d.add(MapStale, "", w.by, w.At, values{
		"node": w.by, "revision": int64(w.Revision), "ahead": ahead.by, "ahead_revision": int64(ahead.Revision),
		"lag": w.At.Sub(ahead.At).Round(time.Millisecond), "lacks": lacks[:min(len(lacks), 5)],
	})
}

// clocks compares the nodes' clocks with each other, and this machine's with theirs.
func (d *diagnosing) clocks() (looked, of int) {
	var list []Witness
	for _, w := range d.present() {
		of++
		if w.Clock == nil {
			d.missing(w, "its clock was not measured: it told no time")
			continue
		}
		looked++
		list = append(list, w)
	}
	if len(list) == 0 {
		return looked, of
	}
	slices.SortStableFunc(list, func(a, b Witness) int { return cmp.Compare(a.Clock.Skew, b.Clock.Skew) })
	mid := list[len(list)/2]
	for _, w := range list {
		ref := mid
		if len(list) == 2 { // of two nobody knows which is wrong: the one ahead is named, against the other
			ref = list[0]
		}
		d.clock(ClockSkew, w.name(), ref.name(), w.Clock.Skew-ref.Clock.Skew, w.Clock.Error+ref.Clock.Error, w.Clock.At)
	}
	near := slices.MinFunc(list, func(a, b Witness) int { return cmp.Compare(a.Clock.Skew.Abs(), b.Clock.Skew.Abs()) })
	d.clock(OwnClock, "this machine", near.name(), -near.Clock.Skew, near.Clock.Error, near.Clock.At)
	return looked, of
}

func (d *diagnosing) clock(code health.Code, subject, reference string, skew, off time.Duration, at time.Time) {
	sure := max(skew, -skew) - off // it is at least this much
	if subject == reference || sure < SkewWarn {
		return
	}
	severity := health.Severity("")
	if code == ClockSkew && sure >= SkewCritical {
		severity = health.CriticalSv
	}
	d.add(code, severity, subject, at, values{
		"node": subject, "reference": "that of " + reference, "skew": skew.Round(time.Millisecond), "error": off.Round(time.Millisecond),
		"skew_ms": millis(skew), "error_ms": millis(off), "warn": SkewWarn, "critical": SkewCritical,
	})
}

// versions takes what the nodes say of themselves; the finding is that of the health report, once.
func (d *diagnosing) versions() (looked, of int) {
	var words []string
	versions := map[string]bool{}
	for _, w := range d.present() {
		of++
		if w.Self == nil || w.Self.Version == "" {
			d.missing(w, "it did not say which version it runs")
			continue
		}
		looked++
		versions[w.Self.Version] = true
		words = append(words, w.name()+" runs "+w.Self.Version)
	}
	if len(versions) > 1 {
		d.addHealth(health.VersionsMixed, "", "cluster", d.e.Ended, values{"versions": words})
	}
	return looked, of
}

// addHealth adds a finding with a code of the health report, unless a node has reported the same fact.
func (d *diagnosing) addHealth(code health.Code, severity health.Severity, subject string, at time.Time, v values) {
	i := slices.IndexFunc(d.d.Findings, func(f Finding) bool { return f.Code == code && f.Subject == subject })
	if i >= 0 && (severity == "" || slices.Index(severities, d.d.Findings[i].Severity) <= slices.Index(severities, severity)) {
		return
	}
	row, ok := code.Check()
	if !ok {
		panic("doctor: no row for finding " + string(code)) // a code of package health
	}
	f := Finding{
		Finding: health.Finding{
			Code: code, Severity: cmp.Or(severity, row.Severity), Subject: subject, Title: row.Title,
			Why: fill(row.Why, v), Evidence: v, Fix: fill(row.Fix, v),
		},
		Cause: causes[code], AgeMs: d.age(at), SeenBy: []themis.NodeID{},
	}
	if i >= 0 {
		d.d.Findings[i] = f
		return
	}
	d.d.Findings = append(d.d.Findings, f)
}

// certificates looks at what every node shows on the wire, and at the one that is shown to them.
func (d *diagnosing) certificates() (looked, of int) {
	for _, w := range d.present() {
		of++
		c := w.Cert
		if c == nil {
			d.missing(w, "its certificate was not seen: no TLS connection to "+w.Addr)
			continue
		}
		looked++
		if c.Untrusted != "" {
			d.add(CertUntrusted, "", w.name(), d.e.Ended, values{"node": w.name(), "addr": w.Addr, "certificate": c.Subject, "cause": c.Untrusted})
		}
		if left := c.NotAfter.Sub(d.e.Ended); left < health.CertWarn {
			d.addHealth(health.CertExpires, certSeverity(left), w.name(), d.e.Ended, values{
				"node": w.name(), "expires": c.NotAfter.UTC(), "left": duration(left), "serial": c.Serial,
			})
		}
	}
	if own := d.e.Own; !own.Expires.IsZero() {
		if left := own.Expires.Sub(d.e.Ended); left < health.CertWarn {
			d.add(OwnCertEnds, certSeverity(left), own.Name, d.e.Ended, values{"certificate": own.Name, "expires": own.Expires.UTC(), "left": duration(left)})
		}
	}
	return looked, of
}

func certSeverity(left time.Duration) health.Severity {
	if left < health.CertCritical {
		return health.CriticalSv
	}
	return health.Warning
}

// freshness: figures that are old or missing prove nothing about now.
func (d *diagnosing) freshness() (looked, of int) {
	var best *Look
	for _, w := range d.present() {
		if l := w.newest(); l != nil && (best == nil || l.Report.Revision >= best.Report.Revision) {
			best = l
		}
	}
	if best == nil {
		d.unlooked("cluster", "no node told its report", "themis-cli cluster health")
		return 0, 0
	}
	for _, s := range best.Report.Shards {
		of++
		if s.Readable == nil {
			d.unlooked(string(s.ID), "whether it serves is not known: its primary could not be asked", "themis-cli shard show "+string(s.ID))
			continue
		}
		looked++
		for _, r := range s.Replicas {
			subject := string(s.ID) + "/" + string(r.Node)
			of++
			age := "never told"
			if r.AgeMs != nil {
				age = duration(time.Duration(*r.AgeMs)*time.Millisecond) + " old"
			}
			switch {
			case d.gone[r.Node], r.AgeMs != nil && time.Duration(*r.AgeMs)*time.Millisecond <= health.FreshFor:
				looked++
			default:
				d.unlooked(subject, "its figures are "+age, "themis-cli shard show "+string(s.ID))
			}
		}
	}
	return looked, of
}
