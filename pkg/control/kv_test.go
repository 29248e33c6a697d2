package control

import (
	"testing"
)

func TestKV(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		kv := NewMemory(nil)
		t.Cleanup(func() { _ = kv.Close() })
		kvSuite(t, kv, func(rev int64) { kv.Compact(0) })
	})
	t.Run("etcd", func(t *testing.T) {
		kv := connect(t, single(t, nil))
		kvSuite(t, kv, nil)
	})
}

func kvSuite(t *testing.T, kv KV, compact func(int64)) {
	ok, rev, err := kv.Txn(t.Context(), Txn{If: []Compare{{"a", 0}}, Put: []Put{{Key: "a", Value: []byte("1")}}})
	if err != nil || !ok {
		t.Fatal(ok, rev, err)
	}
	rec, err := kv.Get(t.Context(), "a")
	if err != nil || rec.Revision != rev {
		t.Fatal(rec, err)
	}
}
