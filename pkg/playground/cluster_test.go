package playground

import (
	"context"
	"testing"
	"time"
)

func testHost(t *testing.T) Host {
	t.Helper()
	return Host{Registry: t.TempDir(), Step: func(what string, took time.Duration) { t.Logf("%-50s %6.2f s", what, took.Seconds()) }}
}

func TestStartStop(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := Found(ctx, t.TempDir(), Default(), testHost(t))
	if p != nil {
		defer p.Stop(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
}
