package replication

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// rescued is one line of a file in rescued/: a write that this copy had in its log and the shard's new log lacks.
type rescued struct {
	Shard      themis.ShardID      `json:"shard"`
	Seq        themis.Seq          `json:"seq"`
	Epoch      themis.Epoch        `json:"epoch"`
	HLC        themis.HLC          `json:"hlc"`
	Op         string              `json:"op"` // put or delete
	Collection themis.CollectionID `json:"collection_id"`
	Key        string              `json:"key"`
	Placement  []byte              `json:"placement"`
	Value      json.RawMessage     `json:"value,omitempty"`
	RequestID  string              `json:"request_id,omitempty"`
}

// The files of rescued/ say by their name whether the shard's mode had let the writes in them be acknowledged.
const (
	rescuedAcked = "acknowledged" // under ASYNC: somebody was told that they were done
	rescuedOpen  = "unconfirmed"  // nobody was; clients were told that the outcome is unknown
)

// rescuedWrites is how many acknowledged writes lie in rescued/, as the files' names say.
func (r *Replica) rescuedWrites() (n int) {
	files, err := filepath.Glob(filepath.Join(r.o.Dir, "rescued", rescuedAcked+"-*.ndjson"))
	if err != nil {
		return 0
	}
	for _, f := range files {
		_, count, _ := strings.Cut(strings.TrimSuffix(filepath.Base(f), ".ndjson"), "-writes-")
		if writes, err := strconv.Atoi(count); err == nil {
			n += writes
		}
	}
	return n
}

// rescue writes the log's entries from…to as NDJSON, durably, before they are cut (promise 12). It returns the file's name,
// empty when there was no write among them, and the number of writes.
func (r *Replica) rescue(from, to themis.Seq, acked bool) (name string, n int, err error) {
	scan, err := r.log.Scan(from)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = scan.Close() }()
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	for scan.Pos().Seq < to {
		e, err := scan.Next()
		if err != nil {
			return "", 0, err
		}
		if e.Kind != themis.KindWrite {
			continue
		}
		ops, err := themis.DecodeOps(e.Payload)
		if err != nil {
			return "", 0, fmt.Errorf("seq %d: %w", e.Seq, err)
		}
		for i, o := range ops {
			line := rescued{r.o.Shard, e.Seq, e.Epoch, e.HLC + themis.HLC(i), "put", o.Collection, o.Key, o.Placement, o.Value, e.Tags.RequestID} //nolint:gosec // a small index
			if o.Code == themis.OpDelete {
				line.Op, line.Value = "delete", nil
			}
			if err := enc.Encode(line); err != nil {
				return "", 0, fmt.Errorf("seq %d: %w", e.Seq, err)
			}
			n++
		}
	}
	if n == 0 {
		return "", 0, nil
	}
	dir := filepath.Join(r.o.Dir, "rescued")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", 0, err
	}
	if err := syncDir(r.o.Dir); err != nil {
		return "", 0, err
	}
	kind := rescuedOpen
	if acked {
		kind = rescuedAcked
	}
	name = filepath.Join(dir, fmt.Sprintf("%s-epoch-%d-seq-%d-%d-writes-%d.ndjson", kind, r.log.Last().Epoch, from, to, n))
	return name, n, replaceFile(name, out.Bytes())
}
