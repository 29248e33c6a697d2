package health

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Code names a finding. Scripts may rely on it.
type Code string

// The codes of findings.
const (
	ControlNoQuorum     Code = "CONTROL_NO_QUORUM"
	ShardNoPrimary      Code = "SHARD_NO_PRIMARY"
	ShardNotServing     Code = "SHARD_NOT_SERVING"
	ShardReadOnly       Code = "SHARD_READ_ONLY"
	ReplicaBroken       Code = "REPLICA_BROKEN"
	LogDamaged          Code = "LOG_DAMAGED"
	ReplicaDead         Code = "REPLICA_DEAD"
	ReplicaBlank        Code = "REPLICA_BLANK"
	CopyMissing         Code = "COPY_MISSING"
	ISROfOne            Code = "ISR_OF_ONE"
	ReplicaLagging      Code = "REPLICA_LAGGING"
	ReplicaCatchingUp   Code = "REPLICA_CATCHING_UP"
	RebuildRunning      Code = "REBUILD_RUNNING"
	RescuedEntries      Code = "RESCUED_ENTRIES"
	UnusedCopyKept      Code = "UNUSED_COPY"
	PolicyChanging      Code = "POLICY_CHANGING"
	NodeFailed          Code = "NODE_FAILED"
	NodeSuspect         Code = "NODE_SUSPECT"
	NodeCut             Code = "NODE_CUT"
	ControlElecting     Code = "CONTROL_ELECTING"
	ControlMemberDown   Code = "CONTROL_MEMBER_DOWN"
	StateUnknown        Code = "STATE_UNKNOWN"
	NoShards            Code = "NO_SHARDS"
	DiskIsFull          Code = "DISK_FULL"
	DiskAlmostFull      Code = "DISK_ALMOST_FULL"
	DiskIsSlow          Code = "DISK_SLOW"
	DiskAgeStuck        Code = "DISK_AGE_STUCK"
	CertExpires         Code = "CERT_EXPIRES"
	LagHigh             Code = "LAG_HIGH"
	SpareNotReady       Code = "SPARE_NOT_READY"
	ShardSkew           Code = "SHARD_SKEW"
	NodeDraining        Code = "NODE_DRAINING"
	NodeStopping        Code = "NODE_STOPPING"
	TailCut             Code = "TAIL_CUT"
	AsyncMayLose        Code = "ASYNC_MAY_LOSE"
	SingleCopy          Code = "SINGLE_COPY"
	ControlSingleMember Code = "CONTROL_SINGLE_MEMBER"
	VersionsMixed       Code = "VERSIONS_MIXED"
	PlainHTTP           Code = "PLAIN_HTTP"
	ConfigWarning       Code = "CONFIG_WARNING"
)

// The bars of findings.
const (
	DiskWarnRatio     = 0.70
	DiskCriticalRatio = 0.90
	LagWarn           = 100 * time.Millisecond
	SlowSync          = 250 * time.Millisecond // the median sync of a log on a disk that is worth a look
	SkewWarnRatio     = 0.15
	SkewMinBytes      = 64 << 20 // below this much in the largest shard a skew is chance
	CertWarn          = 30 * 24 * time.Hour
	CertCritical      = 7 * 24 * time.Hour
	FreshFor          = 5 * time.Second        // older words are not shown as the present
	QuietFor          = 500 * time.Millisecond // a primary that gives no answer and was not heard for so long is not said to serve
	ElectingFor       = 5 * time.Second        // enough control members that follow no leader for longer can't reach each other
)

// Check is one row of the table of findings. Why and Fix are patterns: {name} stands for the evidence of that name, and for
// the parts of the subject {shard} and {node}.
type Check struct {
	Code     Code
	Severity Severity // of an ordinary case
	Degrades bool     // the status is at least DEGRADED while it stands
	Title    string
	Why      string
	Fix      string
}

var checks = []Check{
	{ControlNoQuorum, CriticalSv, true, "The control plane has no quorum",
		"{up} of {voters} voting control members answer, {need} are needed: no failover, no change of the cluster, and no writes and strong reads once the primaries' leases end; reads at eventual go on",
		"themis-cli node list"},
	{ShardNoPrimary, CriticalSv, true, "The shard has no primary",
		"epoch {epoch}: {cause}; of its {voters} voters {answering} answer",
		"themis-cli shard show {shard}"},
	{ShardNotServing, CriticalSv, true, "The primary does not serve",
		"{node} leads in epoch {epoch}, but answers no reads: {cause}",
		"themis-cli shard show {shard}"},
	{ShardReadOnly, CriticalSv, true, "The shard takes no writes",
		"{cause}, for {for}; {queued} writes wait; {waits}",
		"themis-cli shard show {shard}"},
	{ReplicaBroken, CriticalSv, true, "A copy stopped for good",
		"{node} stopped its copy of {shard}: {cause}; it is built anew from the others when {node} is restarted",
		"themisdb-repl-doctor check --shard {shard}"},
	{LogDamaged, CriticalSv, true, "A log is damaged",
		"{node}: {cause}; nothing of it is served, and the copy is built anew as soon as another can lead {shard} without loss",
		"themisdb-repl-doctor check --shard {shard}"},
	{ReplicaDead, Warning, true, "A copy is on a failed node",
		"{node} is FAILED: {cause}; {in_sync} of {rf} copies are in sync; {repair}",
		"themis-cli shard show {shard}"},
	{ReplicaBlank, Warning, true, "A copy is blank",
		"{node} can't vouch for all that was acknowledged, so it neither votes nor counts until the primary has filled it: {cause}",
		"themis-cli shard show {shard}"},
	{CopyMissing, Warning, true, "The shard has too few copies",
		"{voters} of {rf} copies are members; {repair}",
		"themis-cli shard show {shard}"},
	{ISROfOne, Warning, true, "Only one copy is in sync",
		"only {node} holds all that was acknowledged, of {rf} copies; if its disk is lost now, so is what the others lack",
		"themis-cli shard show {shard}"},
	{ReplicaLagging, Warning, true, "A copy lags behind",
		"{node} is out of the in-sync set: {lag}",
		"themis-cli shard show {shard}"},
	{ReplicaCatchingUp, Warning, true, "A copy is catching up",
		"{node} is not in the in-sync set yet: {lag}",
		"themis-cli cluster health --watch"},
	{RebuildRunning, Warning, true, "A copy is being built",
		"{node} has {bytes} bytes of {total} ({percent} %), ETA {eta}",
		"themis-cli cluster health --watch"},
	{RescuedEntries, Warning, true, "Acknowledged entries were cut and kept aside",
		"{entries} entries that {node} may have acknowledged alone in a reign that ended are in its rescued directory and may be in no copy",
		"on {node}: themisdb-repl-doctor losses --shard {shard} --data-dir DIR"},
	{PolicyChanging, Warning, true, "A change of the replication policy is under way",
		"wanted {want}; in force {have}",
		"themis-cli shard show {shard}"},
	{NodeFailed, Warning, true, "A node has failed",
		"{node} was declared FAILED: {cause}; copies on it: {copies}, shards it leads: {led}",
		"themis-cli node list"},
	{NodeSuspect, Warning, true, "A node does not answer",
		"{node} gave no answer: {cause}; {heard}",
		"themis-cli node list"},
	{NodeCut, Warning, true, "A node is cut from the control plane",
		"{node} answers, but its heartbeat in the control plane has ended: it can lead no shard",
		"themis-cli node list"},
	{ControlElecting, Warning, true, "The control plane elects a leader",
		"{up} of {voters} voting control members answer, {need} are needed, and they follow no leader yet: no failover and no change of the cluster until they do",
		"themis-cli cluster health"},
	{ControlMemberDown, Warning, true, "A control member is down",
		"{node} does not answer; {up} of {voters} voting members are up, {need} are needed, so {spare} more may fail",
		"themis-cli node list"},
	{StateUnknown, Warning, true, "A state could not be learned",
		"{what} is not known: {cause}",
		"themis-cli cluster health"},
	{NoShards, Warning, true, "The cluster has no shards",
		"{nodes} nodes are members, and no shard exists: no document can be stored",
		"themis-cli cluster status"},
	{DiskIsFull, CriticalSv, true, "A disk is full",
		"{free} bytes are free at {dir} on {node}, {reserve} are kept: writes that this disk is needed for are refused, reads go on; writes are taken again as soon as there is room",
		"themis-cli node list"},
	{DiskAlmostFull, Warning, false, "A disk is almost full",
		"the disk of {nodes} is {percent} % full; warnings begin at {warn} %, {critical} % is critical",
		"themis-cli node show {node}"},
	{DiskIsSlow, Warning, false, "A disk is slow",
		"the disk at {dir} on {node} takes {sync_ms} ms to make a write durable, the median of {syncs}; {limit_ms} ms is the bar: every write that needs it waits so long",
		"themis-cli node show {node}"},
	{DiskAgeStuck, Warning, true, "The age of a disk is not counted on",
		"the age of the disk at {dir} on {node} has not been counted on for {for}: {cause}; should an image of it from this time be put back, it would not be told apart, though it lacks what was acknowledged since",
		"themisdb-repl-doctor check"},
	{CertExpires, Warning, false, "A certificate is near its end",
		"the certificate of {node} ends at {expires}, {left} from now",
		"themis-cli pki renew pki/{node}.crt"},
	{LagHigh, Warning, false, "Replication lag is high",
		"{node} is {lag_ms} ms behind, {limit_ms} ms is the bar",
		"themis-cli shard show {shard}"},
	{SpareNotReady, Warning, false, "A spare is not ready to take over",
		"{node} follows {shard} as a spare: {lag}",
		"themis-cli shard show {shard}"},
	{ShardSkew, Warning, false, "Shards are unequally full",
		"{largest} holds {largest_bytes} bytes, {percent} % more than the mean of {mean_bytes}; the bar is {limit} %",
		"themis-cli shard list -o wide"},
	{NodeDraining, Info, false, "A node is being drained",
		"{node} takes no new copies; copies on it: {copies}, shards it leads: {led}",
		"themis-cli node list"},
	{NodeStopping, Info, false, "A node is stopping",
		"{node} was told to stop and hands over what others can take: shards it still leads: {led}, copies that are away until it is back: {copies}",
		"themis-cli node list"},
	{TailCut, Info, false, "A torn tail was cut at start",
		"{node} cut {bytes} bytes with {entries} whole entries from seq {from} on: {cause}",
		"themisdb-repl-doctor check --shard {shard}"},
	{AsyncMayLose, Info, false, "An asynchronous shard may lose acknowledged writes",
		"if {node} is lost now, so are {entries} acknowledged entries ({ms} ms of writes)",
		"themis-cli shard show {shard}"},
	{SingleCopy, Info, false, "The shard has a single copy by design",
		"replication factor is 1: the loss of {node}'s disk is the loss of the shard",
		"themis-cli shard show {shard}"},
	{ControlSingleMember, Info, false, "The control plane has a single member",
		"{node} is the only voting control member: while it is down nothing fails over and nothing can be changed",
		"themis-cli node list"},
	{VersionsMixed, Info, false, "Nodes run different versions",
		"{versions}",
		"themis-cli node list"},
	{UnusedCopyKept, Info, false, "A disk holds a copy that is in use no more",
		"{node} has {bytes} bytes of {shard} from before its copy was replaced; kept: {kept}",
		"themis-cli shard remove-copy {shard} {node} --dry-run"},
	{PlainHTTP, Info, false, "HTTP without TLS is open on loopback",
		"{node} serves {mode} without TLS to every process on its machine",
		"on {node}: themis-cli config show --set --config FILE"},
	{ConfigWarning, Info, false, "A setting deserves a look",
		"{node}: {warning}",
		"on {node}: themis-cli config show --set --config FILE"},
}

// Table is every finding there is, in the order in which findings of one severity are listed.
func Table() []Check { return slices.Clone(checks) }

// Check is the code's row.
func (c Code) Check() (Check, bool) {
	i := slices.IndexFunc(checks, func(k Check) bool { return k.Code == c })
	if i < 0 {
		return Check{}, false
	}
	return checks[i], true
}

// values are what a pattern's names stand for.
type values map[string]any

// fill puts the values into a pattern. A name without a value stays as it is, in braces; a test walks all findings for that.
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

// word is a value as people read it; nil is a number that isn't known.
func word(x any) string {
	switch x := x.(type) {
	case nil:
		return "unknown"
	case *int64:
		if x == nil {
			return "unknown"
		}
		return strconv.FormatInt(*x, 10)
	case *float64:
		if x == nil {
			return "unknown"
		}
		return number(*x)
	case *themis.Bytes:
		if x == nil {
			return "unknown"
		}
		return strconv.FormatInt(int64(*x), 10)
	case float64:
		return number(x)
	case time.Time:
		return x.UTC().Format(time.RFC3339)
	case time.Duration:
		return duration(x)
	}
	return fmt.Sprint(x)
}

func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

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
