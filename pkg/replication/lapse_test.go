package replication

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// A primary whose lease in the control plane has ended takes no writes and answers no strong reads, and says why, to clients and
// in its status; reads at eventual go on. With the lease it goes on where it was.
func TestAPrimaryWithoutItsLeaseSaysSo(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, RF: 2, K: 1}, "a", "b")
	primary := c.elect()
	c.mustWrite(primary, put("k", "1"))
	c.lapsed.Store(primary, true)
	r := c.node(primary)
	told := func(what string, err error) {
		t.Helper()
		if themis.CodeOf(err) != themis.NoPrimary || !strings.Contains(err.Error(), noLease) {
			t.Errorf("%s: %v", what, err)
		}
	}
	brief, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := r.Write(brief, put("k", "2"))
	told("a write", err)
	_, err = r.Read(brief, themis.Strong, 0)
	told("a strong read", err)
	if _, err := r.Read(t.Context(), themis.Eventual, 0); err != nil {
		t.Errorf("a read at eventual: %v", err)
	}
	if st := r.Status().Reign; st == nil || st.NotServing != noLease || !strings.Contains(st.NotWriting, noLease) {
		t.Errorf("its status: %+v", st)
	}
	c.lapsed.Delete(primary)
	if got, err := c.read(primary, "k"); err != nil || got != "1" {
		t.Errorf("with the lease: %q, %v", got, err)
	}
	if st := r.Status().Reign; st.NotServing != "" || st.NotWriting != "" {
		t.Errorf("with the lease, its status: %+v", st)
	}
	c.mustWrite(primary, put("k", "3"))
}
