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

// Under ASYNC a write needs no follower's word. One that had its place in the log when the lease ended is not confirmed before the lease
// is back: another primary may reign by then. Nor does one get its place that had been let in before.
func TestAnAsyncWriteIsNotConfirmedWithoutTheLease(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 1}, "a")
	primary := c.elect()
	c.mustWrite(primary, put("k", "1"))
	r := c.node(primary)
	rg := r.leading.Load()
	w := put("k", "2")
	payload := themis.AppendOps(nil, []themis.Op{w.Changes[0].Op})
	names, existed := []string{documentName(&w.Changes[0].Op)}, []bool{true}
	p := &pending{done: make(chan struct{})}
	if _, err := rg.append(w, p, payload, names, existed); err != nil {
		t.Fatal(err)
	}
	c.lapsed.Store(primary, true)
	if _, err := rg.append(w, &pending{done: make(chan struct{})}, payload, names, existed); themis.CodeOf(err) != themis.NoPrimary || !strings.Contains(err.Error(), noLease) {
		t.Errorf("appended: %v", err)
	}
	if _, err := p.append.Commit(); err != nil {
		t.Fatal(err)
	}
	rg.durable()
	select {
	case <-p.done:
		t.Error("confirmed after the lease had ended")
	case <-time.After(100 * time.Millisecond): // some ticks of the reign
	}
	c.lapsed.Delete(primary)
	<-p.done
	rg.answered()
	if p.err != nil {
		t.Errorf("with the lease: %v", p.err)
	}
}
