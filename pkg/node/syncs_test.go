package node

import (
	"testing"
	"time"
)

// One slow sync is chance, and old ones say nothing of the disk as it is.
func TestSlowSyncs(t *testing.T) {
	var s syncs
	at := func(sec int) time.Time { return time.Unix(int64(sec), 0) }
	slow := func(now int) bool { return s.tells("/data", at(now)) != nil }
	s.took(time.Second, at(0))
	s.took(time.Second, at(1))
	if slow(2) {
		t.Error("two syncs make a slow disk")
	}
	s.took(400*time.Millisecond, at(2))
	if d := s.tells("/data", at(3)); d == nil || d.SyncMs != 1000 || d.Syncs != 3 || d.Dir != "/data" {
		t.Errorf("three slow ones: %+v", d)
	}
	if slow(40) {
		t.Error("nothing has been written for long, and the disk is slow")
	}
	for i := range 2 * syncsKept {
		s.took(time.Millisecond, at(50+i%2))
	}
	s.took(time.Second, at(52))
	if slow(52) {
		t.Error("one slow sync among many makes a slow disk")
	}
}
