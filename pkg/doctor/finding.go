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

// Finding is one thing that is wrong, or worth knowing.
type Finding struct {
	health.Finding
	Cause  string          `json:"likely_cause"`
	AgeMs  int64           `json:"age_ms"`  // of the evidence, when the diagnosis was made
	SeenBy []themis.NodeID `json:"seen_by"` // whose word it is; the doctor's own sight where it is empty
	At     *LogPlace       `json:"at"`      // null: not about a place in a log
}

// LogPlace is a place in a log's files.
type LogPlace struct {
	File    string     `json:"file"`
	Segment string     `json:"segment"` // the file's name; empty: LOG, MARK or another small file
	Seq     themis.Seq `json:"seq"`     // of the entry that belongs there
	LSN     themis.LSN `json:"lsn"`
	Offset  int64      `json:"offset"` // in File
}

// Check is one row of the doctor's own table. Why, Cause and Fix are patterns: {name} stands for the evidence of that name.
type Check struct {
	Code     health.Code
	Severity health.Severity
	Title    string
	Why      string
	Cause    string // what it most likely comes from
	Fix      string // a command to type
}

// Bar is from which severity on a finding makes the answer bad.
type Bar = health.Severity

// ParseBar reads --fail-on; empty is warning.
func ParseBar(s string) (Bar, error) {
	switch b := Bar(s); b {
	case "":
		return health.Warning, nil
	case health.Info, health.Warning, health.CriticalSv:
		return b, nil
	}
	return "", themis.Errorf(themis.InvalidArgument, "fail-on %q: want info, warning or critical", s)
}

// severities, the worst first.
var severities = []health.Severity{health.CriticalSv, health.Warning, health.Info}

func reaches(f Finding, bar Bar) bool {
	return slices.Index(severities, f.Severity) <= slices.Index(severities, bar)
}

// exit is the exit code of findings and of what could not be looked at.
func exit(findings []Finding, unlooked int, bar Bar) int {
	switch {
	case slices.ContainsFunc(findings, func(f Finding) bool { return reaches(f, bar) }):
		return themis.ExitFailed
	case unlooked > 0:
		return themis.ExitInconclusive
	}
	return themis.ExitOK
}

// Unlooked is a question that could not be answered.
type Unlooked struct {
	Check   string `json:"check"`
	Subject string `json:"subject"`
	Why     string `json:"why"`
	Fix     string `json:"fix"`
}

// values are what a pattern's names stand for.
type values map[string]any

// fill puts the values into a pattern. A name without a value stays as it is, in braces; tests look for that.
func fill(pattern string, v values) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(pattern, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name, after, _ := strings.Cut(rest, "}")
		if x, ok := v[name]; ok {
			b.WriteString(word(x))
		} else {
			b.WriteString("{" + name + "}")
		}
		pattern = after
	}
}

func word(x any) string {
	switch x := x.(type) {
	case time.Time:
		return x.UTC().Format(time.RFC3339)
	case time.Duration:
		return duration(x)
	case []string:
		return strings.Join(x, ", ")
	}
	return fmt.Sprint(x)
}

// duration is short and steady: 820 ms, 4.2 s, 3 min 5 s, 2 h 10 min, 12 days.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + duration(-d)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// find makes a finding from its row in the doctor's table. severity "" is the row's.
func find(code health.Code, severity health.Severity, subject string, v values) Finding {
	row, ok := row(code)
	if !ok {
		panic("doctor: no row for finding " + string(code)) // the table is written beside the codes
	}
	return Finding{
		Finding: health.Finding{
			Code: code, Severity: cmp.Or(severity, row.Severity), Subject: subject, Title: row.Title,
			Why: fill(row.Why, v), Evidence: v, Fix: fill(row.Fix, v),
		},
		Cause: fill(row.Cause, v), SeenBy: []themis.NodeID{},
	}
}

// sortFindings puts the worst first, then in the order of the tables, then by subject.
func sortFindings(list []Finding) {
	slices.SortStableFunc(list, func(x, y Finding) int {
		return cmp.Or(
			cmp.Compare(slices.Index(severities, x.Severity), slices.Index(severities, y.Severity)),
			cmp.Compare(rank(x.Code), rank(y.Code)),
			strings.Compare(x.Subject, y.Subject),
		)
	})
}
