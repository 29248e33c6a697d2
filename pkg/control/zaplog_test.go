package control

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// TestEtcdsWarningsByDesignAreNotTold: what etcd says at each start about what is meant so is left out; all else it warns of is told.
func TestEtcdsWarningsByDesignAreNotTold(t *testing.T) {
	var out bytes.Buffer
	z := newZap(slog.New(slog.NewTextHandler(&out, nil)), nil, nil)
	for _, m := range byDesign {
		z.Warn(m, zap.String("client-url", "unix:///x/http.sock"))
	}
	z.Info("a detail")
	if out.Len() > 0 {
		t.Errorf("told: %s", out.String())
	}
	z.With(zap.String("member", "node-1")).Warn("apply request took too long", zap.Int("ms", 700))
	if got := out.String(); !strings.Contains(got, "apply request took too long") || !strings.Contains(got, "part=etcd") || !strings.Contains(got, "ms=700") || !strings.Contains(got, "member=node-1") {
		t.Errorf("told: %s", got)
	}
}
