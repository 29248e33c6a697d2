package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
)

// Every field of an event is shown, and as the trail has it; what there is nothing in is shown too.
func TestEventsAreShownWhole(t *testing.T) {
	full := cluster.Event{
		Format: 1, ID: "i", HLC: 7, Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Actor: cluster.Actor{Kind: "operator", ID: "op", Cert: "0A"},
		Action: "elect", Subject: "shard-1", Outcome: "done", Rule: "isr", Reason: "why", Before: json.RawMessage(`{"a":1}`), After: json.RawMessage(`[2]`),
		Epoch: 3, ConfigVersion: 4, RoutingVersion: 5, RequestID: "r", DurationMs: 6.5, Phases: []cluster.Phase{{Name: "crown", Ms: 1}},
	}
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got, want := encode(whole(full)), encode(full); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	const none = `{"format":0,"id":"","hlc":"0000000000000000","time":"0001-01-01T00:00:00Z","actor":{"kind":"","id":"","cert":""},"action":"","subject":"","outcome":"",` +
		`"rule":"","reason":"","before":null,"after":null,"epoch":null,"config_version":0,"routing_version":null,"request_id":"","duration_ms":null,"phases":[]}`
	if got := encode(whole(cluster.Event{})); got != none {
		t.Errorf("of nothing: %s", got)
	}
}
