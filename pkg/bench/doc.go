// Package bench measures the cluster's parts against what the same machine gives to the simplest program, in the same minutes.
//
//	Routing      routing.Table                         beside  a binary search, and the hash of the key alone
//	Store        store.Store                           beside  Pebble without a log
//	WAL          wal.Log                               beside  one loop of write and fdatasync
//	Replication  replication over mTLS, 3 processes    beside  bare TLS and three times write and fdatasync
//	Client       the Go client and a cluster of three      beside  etcd with three members and its client
//	Restarts     kill -9 of a process with one copy        how long until the next one leads and answers
//	Failover     a cluster of processes, kill -9           what a client sees that never stops asking
//	Workload     a running cluster, asked for a mix        throughput and latency; nothing beside it
//
// What is measured runs as the product runs it. Ours and what stands beside it alternate in rounds and the best round of each
// counts, so that whatever else the machine does hits both; only ratios are judged, against a floor that must hold and a goal.
//
// Processes are started from one program, which runs Work; they end with their standard input, so none is left behind.
package bench
