package control

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/themisdb/themis/pkg/themis"
)

// bridge makes etcd's warnings and errors lines of ours. Info and below are dropped: 260 lines at a start.
type bridge struct {
	to       *slog.Logger
	fields   []zapcore.Field
	onRefuse func(port string, err error) // hears of connections that were refused for their certificate
}

var _ zapcore.Core = bridge{}

func (bridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{b.to, slices.Concat(b.fields, fields), b.onRefuse}
}

// byDesign are warnings of each start about what is meant so: the probes' unix socket has no TLS since only this user can open it, and no
// user of etcd has a token.
var byDesign = []string{
	"scheme is http or unix while key and cert files are present; ignoring key and cert files",
	"scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
	"simple token is not cryptographically signed",
}

func (b bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) && !slices.Contains(byDesign, e.Message) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	values := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(b.fields, fields) {
		f.AddTo(values)
	}
	if port, refused := refusedOn[e.Message]; refused && b.onRefuse != nil {
		b.onRefuse(port, errorIn(fields))
	}
	args := []any{"part", "etcd"}
	for _, k := range slices.Sorted(maps.Keys(values.Fields)) {
		args = append(args, k, values.Fields[k])
	}
	b.to.Log(context.Background(), level, e.Message, args...)
	return nil
}

func (bridge) Sync() error { return nil }

// refusedOn are the words of etcd for a failed handshake, by port.
var refusedOn = map[string]string{"rejected connection on peer endpoint": "control_peer", "rejected connection on client endpoint": "control_client"}

func errorIn(fields []zapcore.Field) error {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			return err
		}
	}
	return nil
}

// lastWords runs before etcd ends the process: it does so when its disk is full or its files are damaged.
type lastWords struct {
	say  func(reason string)
	exit func(code int)
	once *sync.Once
}

// OnWrite implements zapcore.CheckWriteHook; it must not return.
func (l lastWords) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	reason := e.Message
	if err := errorIn(fields); err != nil {
		reason += ": " + err.Error()
	}
	if l.say != nil {
		l.once.Do(func() { l.say(reason) })
	}
	l.exit(themis.ExitFailed)
}

func newZap(to *slog.Logger, onFatal func(reason string), onRefuse func(port string, err error)) *zap.Logger {
	return zap.New(bridge{to: to, onRefuse: onRefuse}, zap.WithFatalHook(lastWords{onFatal, os.Exit, &sync.Once{}}))
}
