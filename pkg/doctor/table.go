package doctor

import (
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/wal"
)

// The codes of the doctor's own findings about a cluster.
const (
	TwoPrimaries   health.Code = "TWO_PRIMARIES"
	TwoControllers health.Code = "TWO_CONTROLLERS"
	ForeignCluster health.Code = "FOREIGN_CLUSTER"
	StorageTwice   health.Code = "STORAGE_TWICE"
	StorageChanged health.Code = "STORAGE_CHANGED"
	MapDiverged    health.Code = "MAP_DIVERGED"
	MapStale       health.Code = "MAP_STALE"
	CertUntrusted  health.Code = "CERT_UNTRUSTED"
	OwnCertEnds    health.Code = "OWN_CERT_EXPIRES"
	ClockSkew      health.Code = "CLOCK_SKEW"
	OwnClock       health.Code = "OWN_CLOCK"
)

// The codes about a log, besides those of package wal.
const (
	LogCommit  health.Code = "COMMIT_AHEAD" // an entry says that itself or a later one is committed
	LogContent health.Code = "CONTENT"      // an entry's checksum is right, and what it holds can't be read
)

// The bars of the doctor's own checks.
const (
	SkewWarn     = 500 * time.Millisecond
	SkewCritical = 30 * time.Second // changing calls between nodes are refused beyond it
)

func ofLog(f wal.Fault) health.Code { return health.Code(f) }

var checks = []Check{
	{TwoPrimaries, health.CriticalSv, "One epoch has two primaries",
		"epoch {epoch} of {shard} is led by {first} in the map of {first_by} and by {second} in that of {second_by}",
		"the control plane was restored from an old copy, or there are two of it",
		"themis-cli cluster events --since 1h"},
	{TwoControllers, health.CriticalSv, "One term has two controllers",
		"term {term} belongs to {first} in the map of {first_by} and to {second} in that of {second_by}",
		"the control plane was restored from an old copy, or there are two of it",
		"themis-cli cluster events --since 1h"},
	{ForeignCluster, health.CriticalSv, "A node belongs to another cluster",
		"{node} at {addr} says it belongs to {cluster} ({cluster_id}), the others to {others} ({others_id})",
		"its data directory or its address is that of another cluster",
		"themis-cli node list"},
	{StorageTwice, health.CriticalSv, "Two nodes have the same storage id",
		"{nodes} all run on storage id {storage_id}: a disk counts once in every vote",
		"a data directory was copied to make a second node",
		"themis-cli node list"},
	{StorageChanged, health.Warning, "A node runs on another disk than the map says",
		"{node} runs on storage id {storage_id}, the map says {map_storage_id}: its copies are blank and count for nothing",
		"its data directory was emptied, exchanged, or is not mounted",
		"themis-cli node list"},
	{MapDiverged, health.CriticalSv, "Two nodes tell different things of one revision",
		"at revision {revision} {first} says {what} {first_says}, {second} says {second_says}",
		"the control plane was restored from an old copy, or there are two of it",
		"themis-cli cluster status"},
	{MapStale, health.Warning, "A node's map is behind",
		"{node} is at revision {revision}, {ahead} knew {ahead_revision} already {lag} earlier; it lacks: {lacks}",
		"it is cut from the control plane, or its machine has stood still",
		"themis-cli node list"},
	{CertUntrusted, health.CriticalSv, "A node shows a certificate that this cluster's CA did not sign",
		"{node} at {addr} shows {certificate}: {cause}",
		"the CA was exchanged without it, another program listens there, or --cacert is not this cluster's",
		"openssl s_client -connect {addr} -showcerts"},
	{OwnCertEnds, health.Warning, "The certificate that you show is near its end",
		"{certificate} ends at {expires}, {left} from now",
		"it was issued for a limited time",
		"themis-cli pki issue --help"},
	{ClockSkew, health.Warning, "A node's clock is off",
		"the clock of {node} is {skew} off {reference}, give or take {error}; warnings begin at {warn}, calls between nodes are refused beyond {critical}",
		"no time service runs on its machine, or it can't reach its source",
		"chronyc tracking"},
	{OwnClock, health.Info, "This machine's clock is off",
		"this machine's clock is {skew} off that of the nodes, give or take {error}: ages that are shown here are wrong by as much",
		"no time service runs on this machine, or it can't reach its source",
		"chronyc tracking"},

	{ofLog(wal.FaultForeign), health.CriticalSv, "The log belongs to somebody else",
		"{detail}", "a data directory was exchanged, copied or mounted under the wrong node", "themis-cli node list"},
	{ofLog(wal.FaultFlipped), health.CriticalSv, "Bytes inside the log are not what was written",
		"{detail}", "the disk or memory returned wrong bytes, or a program other than themisd wrote to the file",
		"start the node: it moves the log aside and is rebuilt from a peer; check the disk first: smartctl -a DEVICE"},
	{ofLog(wal.FaultGap), health.CriticalSv, "Entries are missing inside the log",
		"{detail}", "a segment was removed or replaced by hand, or the file system lost it",
		"start the node: it moves the log aside and is rebuilt from a peer"},
	{ofLog(wal.FaultDuplicate), health.CriticalSv, "A seq stands in the log twice",
		"{detail}", "a segment was copied or restored under another name",
		"start the node: it moves the log aside and is rebuilt from a peer"},
	{ofLog(wal.FaultEpochFalls), health.CriticalSv, "An entry is of an older epoch than the one before it",
		"{detail}", "segments of two different histories were put together",
		"start the node: it moves the log aside and is rebuilt from a peer"},
	{ofLog(wal.FaultLSN), health.CriticalSv, "An entry is not at its place in bytes",
		"{detail}", "segments of two different histories were put together",
		"start the node: it moves the log aside and is rebuilt from a peer"},
	{ofLog(wal.FaultLineage), health.CriticalSv, "LOG and the entries disagree on where an epoch begins",
		"{detail}", "LOG or a segment was replaced by one of another time",
		"start the node: it moves the log aside and is rebuilt from a peer"},
	{LogCommit, health.CriticalSv, "An entry says that something not yet written was committed",
		"{detail}", "the entry was not written by this log's primary", "start the node: it moves the log aside and is rebuilt from a peer"},
	{LogContent, health.CriticalSv, "An entry is whole, but what it holds can't be read",
		"{detail}", "a fault of ours in the node that wrote it", "please report it with the node's log"},
	{ofLog(wal.FaultLogFile), health.CriticalSv, "LOG can't be read",
		"{detail}", "the file was removed or damaged; it says whose log this is",
		"start the node: it moves the log aside and is rebuilt from a peer"},
	{ofLog(wal.FaultLost), health.CriticalSv, "The log ends below what it once had durable",
		"{detail}", "the disk lost writes that it had confirmed, or an older copy of the directory was put back",
		"start the node: the replica is blank, neither votes nor acknowledges, and is rebuilt from a peer"},
	{ofLog(wal.FaultMark), health.Warning, "MARK can't be read",
		"{detail}", "the file was removed or damaged; without it the replica can't prove that it lost nothing",
		"start the node: the replica is blank until it is rebuilt from a peer"},
	{ofLog(wal.FaultFormat), health.Warning, "Written by a newer version",
		"{detail}", "the node was run with a newer version before", "themisdb-repl-doctor version"},
	{ofLog(wal.FaultTornTail), health.Info, "The log ends in an entry that was never finished",
		"{detail}", "the process or the machine stopped in the middle of a write; nobody was told that it was done",
		"start the node: it cuts the torn bytes and goes on"},
	{ofLog(wal.FaultLeftover), health.Info, "A file of interrupted work is left",
		"{detail}", "the process stopped while it replaced or removed a file", "start the node: it removes the file"},
}

// Table is every finding of the doctor's own, in the order in which findings of one severity are listed.
func Table() []Check { return slices.Clone(checks) }

func row(code health.Code) (Check, bool) {
	i := slices.IndexFunc(checks, func(c Check) bool { return c.Code == code })
	if i < 0 {
		return Check{}, false
	}
	return checks[i], true
}

// rank is a code's place among all findings: the doctor's own first, then those of the health report.
func rank(code health.Code) int {
	if i := slices.IndexFunc(checks, func(c Check) bool { return c.Code == code }); i >= 0 {
		return i
	}
	return len(checks) + slices.IndexFunc(health.Table(), func(c health.Check) bool { return c.Code == code })
}

// causes is what the findings of the health report most likely come from.
var causes = map[health.Code]string{
	health.ControlNoQuorum:     "most control members are down, or can't reach each other",
	health.ShardNoPrimary:      "too few of its copies are up to prove that one of them has every acknowledged write",
	health.ShardNotServing:     "it was elected a moment ago, or can't reach the copies that must confirm its reign",
	health.ShardReadOnly:       "copies are down or behind, and writes wait until enough are in sync",
	health.ReplicaBroken:       "its disk failed or returned wrong bytes",
	health.LogDamaged:          "its disk failed or returned wrong bytes",
	health.ReplicaDead:         "the process or its machine is down, or the network to it",
	health.ReplicaBlank:        "its directory was emptied, exchanged or damaged",
	health.CopyMissing:         "a node left or failed, and no free node could take its place yet",
	health.ISROfOne:            "the other copies are down, or being rebuilt",
	health.ReplicaLagging:      "its disk or its network is slower than the writes",
	health.ReplicaCatchingUp:   "it was away, and reads what it missed",
	health.RebuildRunning:      "a copy was lost or added",
	health.RescuedEntries:      "an asynchronous primary was replaced before its last writes had reached another copy",
	health.PolicyChanging:      "an operator changed mode, min_sync_replicas or replication_factor",
	health.NodeFailed:          "the process or its machine is down, or the network to it",
	health.NodeSuspect:         "the process, its machine or the network is slow or down",
	health.NodeCut:             "it can't reach the control plane, or its machine has stood still for longer than its lease",
	health.NodeStopping:        "somebody, or the machine, asked its process to end",
	health.ControlElecting:     "the member that led it has stopped a moment ago",
	health.ControlMemberDown:   "the process or its machine is down, or the network to it",
	health.StateUnknown:        "the node that knows did not answer",
	health.NoShards:            "the cluster was never initialised to its end",
	health.DiskIsFull:          "documents, log that a slow consumer holds back, or files of others on the same disk",
	health.DiskAlmostFull:      "documents, or log that a slow consumer holds back",
	health.DiskIsSlow:          "the device is overloaded, worn or shared with somebody who writes much",
	health.DiskAgeStuck:        "the control plane takes no changes, or can't be reached from this node",
	health.CertExpires:         "it was issued for a limited time",
	health.LagHigh:             "its disk or its network is slower than the writes",
	health.SpareNotReady:       "it was added a moment ago, or is slower than the writes",
	health.ShardSkew:           "shard keys are unequally frequent, or the cluster grew",
	health.NodeDraining:        "an operator is emptying it",
	health.UnusedCopyKept:      "the shard was given a copy elsewhere, and this one is kept for a while in case it is wanted",
	health.TailCut:             "the process or the machine stopped in the middle of a write",
	health.AsyncMayLose:        "the shard acknowledges before another copy has the write",
	health.SingleCopy:          "replication factor 1 was chosen",
	health.ControlSingleMember: "fewer than three nodes were given to the control plane",
	health.VersionsMixed:       "an upgrade is under way, or stopped half way",
	health.PlainHTTP:           "http.plain_loopback is full, as a playground has it",
	health.ConfigWarning:       "a choice in the node's configuration",
}
