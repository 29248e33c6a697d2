package doctor

import (
	"fmt"
	"strings"
)

// Page is docs/reference/doctor.md; a test compares the two.
func Page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	b.WriteString("## Checks\n\n| check | question |\n|---|---|\n")
	for _, x := range examinations {
		fmt.Fprintf(&b, "| `%s` | %s |\n", x.name, x.question)
	}
	fmt.Fprintf(&b, `
A clock is off from %s on (critical from %s), beyond what the measurement itself may be wrong. A node's map is behind if it still lacks
what another node knew %s earlier. Certificates and figures have the bars of [checks.md](checks.md).

## Findings

Facts that the health report tells have its codes: [checks.md](checks.md). These are the doctor's own, of a cluster and of a log.

`, duration(SkewWarn), duration(SkewCritical), duration(staleAfter))
	for _, c := range checks {
		why := c.Why
		if why == "{detail}" {
			why = "what stands there, and what belongs there"
		}
		fmt.Fprintf(&b, "### %s\n\n%s.\n\n| severity | why | likely cause | next |\n|---|---|---|---|\n| %s | %s | %s | %s |\n\n", c.Code, c.Title, c.Severity, why, c.Cause, c.Fix)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

const pageHead = `# themisdb-repl-doctor

The doctor examines a cluster and the files of its nodes: what is wrong, why it probably is, what to type next. It changes nothing.
The findings of this page are made from the table in ` + "`pkg/doctor`" + `.

| command | what it does |
|---|---|
| ` + "`check [--cluster NAME] [--shard S] [--fail-on info\\|warning\\|critical]`" + ` | asks every member, twice, and compares what they say |
| ` + "`validate-wal [--segment N] [--shard S] [--data-dir DIR]`" + ` | checks a log's files, its node stopped or running |
| ` + "`losses [--shard S] [--data-dir DIR]`" + ` | lists writes that were cut and kept in ` + "`rescued/`" + `, and damaged parts that were set aside |
| ` + "`version`" + ` | prints the version |

` + "`repair`, `analyze-lag` and `report`" + ` answer ` + "`UNIMPLEMENTED`" + ` with exit code 1.

` + "`-o table`" + ` is for people, ` + "`-o json`" + ` for scripts; errors go to stderr, as problem JSON under ` + "`-o json`" + `. The cluster is named as for
` + "`themis-cli`: `--playground`, `--context`, or `--endpoint` with `--cacert --cert --key`" + `, or the ` + "`THEMIS_*`" + ` variables. ` + "`--cluster NAME`" + `
alone also finds the context of that name, or of a cluster of that name; another name than the cluster's is refused.

## Exit codes

| code | check | validate-wal | losses |
|---|---|---|---|
| 0 | nothing at the bar (` + "`--fail-on`" + `, default warning), and all was looked at | every log is sound | there are none |
| 1 | findings at the bar or past it | a log is damaged | there are some |
| 2 | wrong usage, or another cluster's name | no such log or segment | no such directory |
| 3 | below the bar, but something could not be looked at | a log could not be read or judged, and none is damaged | it could not be read |
| 4 | the certificate is not accepted | | |
| 5 | no endpoint answers | | |
| 9, 130 | time ran out, interrupted | the same | |

Where no node lets the doctor in, and the certificates on the wire say why, check answers 1 with those findings.

## The answer of check

` + "`cluster`, `time`, `took_ms`, `verdict`" + ` (PASSED, FINDINGS, INCONCLUSIVE) and

* ` + "`nodes`" + `: ` + "`node`, `addr`, `answers`, `error`, `version`, `storage_id`, `revision`, `config_version`, `routing_version`, `controller_term`, `clock_skew_ms`, `clock_error_ms`, `cert_expires`" + `; null where it is not known. The clock is compared with this machine's, at the middle between question and answer; the error is half the way there and back.
* ` + "`checks`" + `: ` + "`name`, `verdict`, `looked_at`, `of`, `question`" + `. PASSED is said only where everything was looked at.
* ` + "`findings`" + `: ` + "`code`, `severity`, `subject`, `title`, `since`, `why`, `evidence`, `fix`" + ` as in the health report, and ` + "`likely_cause`, `age_ms`" + ` (of the evidence), ` + "`seen_by`" + ` (the nodes that told it; empty: the doctor saw it) and ` + "`at`" + ` (null).
* ` + "`inconclusive`" + `: ` + "`check`, `subject`, `why`, `fix`" + `.

## The answer of validate-wal

` + "`time`, `verdict`, `entries`, `logs`" + `. A log has ` + "`dir`, `node`, `shard`, `verdict`, `entries`, `bytes`, `first_seq`, `last_seq`, `end_lsn`, `epochs`, `mark`, `max_commit_seq`, `cluster_id`, `storage_id`, `identity_checked`, `segment`, `segments`, `growing`, `findings`, `findings_total`, `inconclusive`" + `.
A finding's ` + "`at`" + ` is ` + "`file`, `segment`, `seq`, `lsn`, `offset`" + `: the place in the file, and which entry belongs there.

| verdict | meaning |
|---|---|
| SOUND | every entry is whole and in its place, and none that was durable is missing |
| TORN_TAIL | sound; the log ends in a write that was never finished and never acknowledged, and the next start cuts it |
| DAMAGED | not what was written; the node moves such a log aside when it starts, and the copy is rebuilt from a peer |
| INCONCLUSIVE | it could not be read, was written by a newer version, or whose it should be is not known |

` + "`--data-dir`" + ` takes a node's data directory, one of its shards, a log, or a playground; it may be repeated, and what two of them lead to counts once. Without it the playground is
meant. ` + "`identity_checked`" + ` says whether LOG was compared with a ` + "`node.json`" + ` above it. ` + "`--segment N`" + ` is the segment that begins at seq N, else the
N-th in order. A node's log is read where its disk is: no node sends it.

The node may run: a log that grows is looked at again, and only what two looks in a row see at the same place is a finding.

## The answer of losses

` + "`time`, `copies`, `writes`, `rescued`, `set_aside`, `inconclusive`" + `. A rescued file has ` + "`node`, `shard`, `file`, `bytes`, `modified`, `writes`, `puts`, `deletes`, `epoch`, `first_seq`, `last_seq`, `problem`" + `; a part set aside
` + "`node`, `shard`, `part`, `dir`, `time`" + `.

`
