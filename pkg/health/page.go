package health

import (
	"fmt"
	"strings"
	"time"
)

// Page is docs/reference/checks.md, made from the table; a test compares the two.
func Page() string {
	var b strings.Builder
	b.WriteString(`# Findings of cluster health

Every finding of ` + "`themis-cli cluster health`" + `, the dashboards and the doctor is a row of one table in ` + "`pkg/health`" + `; this page is
made from it. A finding has ` + "`code`, `severity`, `subject`, `title`, `since` (null when not known), `why`, `evidence` and `fix`" + `.

The severity of a row is that of an ordinary case; a disk or a certificate at its second bar is critical. A finding that
degrades makes the status at least DEGRADED while it stands. The status is CRITICAL when a shard surely has no primary that
serves reads, or the control plane has no quorum.

`)
	fmt.Fprintf(&b, "Bars: disk above %.0f %% (critical above %.0f %%), lag above %d ms, skew above %.0f %%, certificate within %d days (critical within %d).\nWhat a node said more than %s ago is not shown as the present.\n\n",
		DiskWarnRatio*100, DiskCriticalRatio*100, LagWarn.Milliseconds(), SkewWarnRatio*100,
		int(CertWarn/(24*time.Hour)), int(CertCritical/(24*time.Hour)), duration(FreshFor))
	for _, c := range checks {
		degrades := "no"
		if c.Degrades {
			degrades = "yes"
		}
		fmt.Fprintf(&b, "## %s\n\n%s.\n\n| severity | degrades | why | fix |\n|---|---|---|---|\n| %s | %s | %s | `%s` |\n\n", c.Code, c.Title, c.Severity, degrades, c.Why, c.Fix)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
