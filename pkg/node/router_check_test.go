package node

import (
	"strings"
	"testing"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// What is wrong with a write is said before anything is done, and says which document.
func TestCheckWrite(t *testing.T) {
	ok := func() *nodev1.WriteRequest {
		return &nodev1.WriteRequest{Collection: "notes", Operations: []*nodev1.Operation{{Key: "a", Value: []byte(`{"n":1}`)}, {Key: "b", Delete: true}}}
	}
	large := []byte(`"` + strings.Repeat("x", 17<<20) + `"`)
	for _, c := range []struct {
		name   string
		change func(*nodev1.WriteRequest)
		code   themis.Code
		says   string
	}{
		{"what fits", func(*nodev1.WriteRequest) {}, "", ""},
		{"17 MiB", func(r *nodev1.WriteRequest) { r.Operations[0].Value = large }, themis.TooLarge, `document "a": 17825794 bytes; at most 16777216`},
		{"broken JSON", func(r *nodev1.WriteRequest) { r.Operations[0].Value = []byte(`{"n":`) }, themis.InvalidArgument, `document "a": not valid JSON`},
		{"no UTF-8", func(r *nodev1.WriteRequest) { r.Operations[0].Value = []byte("\"\xff\"") }, themis.InvalidArgument, `document "a": not valid JSON`},
		{"a bad collection", func(r *nodev1.WriteRequest) { r.Collection = "no/tes" }, themis.InvalidArgument, "no/tes"},
		{"no key", func(r *nodev1.WriteRequest) { r.Operations[0].Key = "" }, themis.InvalidArgument, "key"},
		{"a long key", func(r *nodev1.WriteRequest) { r.Operations[1].Key = strings.Repeat("k", 4096) }, themis.InvalidArgument, "key"},
		{"nothing to do", func(r *nodev1.WriteRequest) { r.Operations = nil }, themis.InvalidArgument, "operations"},
		{"a delete with a value", func(r *nodev1.WriteRequest) { r.Operations[1].Value = []byte("1") }, themis.InvalidArgument, `document "b": a delete`},
		{"a concern that there is not", func(r *nodev1.WriteRequest) { r.WriteConcern = "most" }, themis.InvalidArgument, "most"},
	} {
		r := ok()
		c.change(r)
		err := checkWrite(r)
		if c.code == "" && err != nil || c.code != "" && (themis.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
