package main

import (
	"fmt"
	"io"

	"github.com/themisdb/themis/pkg/health"
)

func nodeTable(w io.Writer, r health.Report, wide bool) {
	head := "NODE ROLE STATE HEARTBEAT DISK PRIMARIES COPIES"
	if wide {
		head += " GRPC HTTP DATACENTER RACK STORAGE VERSION"
	}
	var rows [][]string
	for _, n := range r.Nodes {
		row := []string{string(n.ID), string(n.Role), string(n.State), since(n.LastHeartbeat), percent(n.DiskUsed), fmt.Sprint(n.Primaries), fmt.Sprint(n.Copies)}
		if wide {
			row = append(row, dash(n.GRPC), dash(n.HTTP), dash(n.Datacenter), dash(n.Rack), dash(string(n.StorageID)), dash(n.Version))
		}
		rows = append(rows, row)
	}
	columns(w, head, rows)
}

func shardTable(w io.Writer, r health.Report, wide bool) {
	head := "SHARD STATE PRIMARY IN-SYNC MODE EPOCH DOCUMENTS SIZE READS WRITES"
	if wide {
		head += " SHARE COPIES MIN-SYNC COMMIT QUEUED LOSS-IF-PRIMARY-DIES"
	}
	var rows [][]string
	for _, s := range r.Shards {
		row := []string{
			string(s.ID), string(s.State), dash(string(s.Primary)), ids(s.ISR), string(s.Mode), fmt.Sprint(s.Epoch), number(s.Documents), size(s.Bytes),
			yesNo(s.Readable), yesNo(s.Writable),
		}
		if wide {
			row = append(row, percent(s.TokenShare), fmt.Sprint(s.RF), fmt.Sprint(s.K), number(s.Commit), number(s.Queued), number(s.CrashCost.Entries)+" entries")
		}
		rows = append(rows, row)
	}
	columns(w, head, rows)
}

func replicaTable(w io.Writer, s health.ShardReport) {
	var rows [][]string
	for _, c := range s.Replicas {
		rows = append(rows, []string{
			string(c.Node), string(c.Role), string(c.State), number(c.Seq), number(c.Applied), number(c.LSN), number(c.LagEntries), size(c.LagBytes),
			number(c.LagMs), yesNo(c.FailoverReady), since(c.AgeMs), dash(c.Why),
		})
	}
	columns(w, "NODE ROLE STATE SEQ APPLIED LSN LAG-ENTRIES LAG-BYTES LAG-MS READY AGE WHY", rows)
}

func percent(ratio *float64) string {
	if ratio == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", *ratio*100)
}
