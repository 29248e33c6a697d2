package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

// Main is themisd: it reads flags, files and environment, runs the node until ctx ends or a signal tells it to stop, and returns
// the exit code. SIGTERM hands over first what the node leads; SIGINT, or a second signal, does not, for those who stop all nodes;
// another one ends it whatever it does. On stdout it prints one line of JSON with the addresses that were bound; logs go to stderr.
func Main(ctx context.Context, name string, args, environ []string, out, errOut io.Writer) int {
	cfg, done, err := configure(name, args, environ, out)
	if err == nil && !done {
		ctx, stop, hurry, release := signals(ctx)
		defer release()
		err = Run(ctx, Options{
			Stop: stop, Hurry: hurry, Config: cfg, Version: Version(), Logger: logger(cfg.Log.Level, cfg.Log.Format, errOut),
			Listening: func(a Addresses) {
				b, _ := json.Marshal(map[string]string{"grpc_addr": a.GRPC, "http_addr": a.HTTP, "metrics_addr": a.Metrics}) // strings only
				_, _ = fmt.Fprintf(out, "%s\n", b)
			},
		})
	}
	if err == nil {
		return themis.ExitOK
	}
	_, _ = fmt.Fprintf(errOut, "%s: %v\n", name, err)
	if e, ok := errors.AsType[*themis.Error](err); ok && e.Fix != "" {
		_, _ = fmt.Fprintf(errOut, "  next: %s\n", e.Fix)
	}
	return themis.Exit(err)
}

// signals makes what signals tell a node: stop closes at SIGTERM, hurry at SIGINT or the second signal, and the third ends ctx.
func signals(ctx context.Context) (_ context.Context, stop, hurry <-chan struct{}, release func()) {
	ctx, cancel := context.WithCancel(ctx)
	got, slow, fast := make(chan os.Signal, 4), make(chan struct{}), make(chan struct{})
	signal.Notify(got, os.Interrupt, syscall.SIGTERM)
	var waits sync.WaitGroup
	waits.Go(func() {
		for told := 0; told < 3; told++ {
			select {
			case <-ctx.Done():
				return
			case s := <-got:
				if s == os.Interrupt && told == 0 {
					told = 1
				}
			}
			switch told {
			case 0:
				close(slow)
			case 1:
				close(fast)
			default:
				cancel()
			}
		}
	})
	return ctx, slow, fast, func() { signal.Stop(got); cancel(); waits.Wait() }
}

// configure reads the configuration; done says that only help or the version was asked for.
func configure(name string, args, environ []string, out io.Writer) (cfg config.Config, done bool, err error) {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	files := fs.StringArray("config", nil, "a configuration file (YAML); later ones go over earlier ones")
	version := fs.Bool("version", false, "print the version")
	set := map[string]*string{}
	for _, k := range config.Keys() {
		if f := k.Flag(); f != "" && k.Served() && fs.Lookup(f) == nil {
			set[f] = fs.String(f, "", k.Meaning)
		}
	}
	err = fs.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		_, _ = fmt.Fprintf(out, "%s runs one node of a ThemisDB cluster.\n\nUsage: %s --config FILE [--config FILE] [--<key> VALUE …]\n\n%s\n", name, name, fs.FlagUsages())
		return cfg, true, nil
	}
	if err != nil {
		return cfg, false, themis.Errorf(themis.InvalidArgument, "%w", err).Do("%s --help", name)
	}
	if *version {
		_, _ = fmt.Fprintln(out, Version())
		return cfg, true, nil
	}
	var sources []config.Source
	for _, f := range *files {
		b, err := os.ReadFile(f) //nolint:gosec // the operator named it
		if err != nil {
			return cfg, false, themis.Errorf(themis.InvalidArgument, "--config: %w", err)
		}
		sources = append(sources, config.Source{Name: f, Data: b})
	}
	flags := map[string]string{}
	fs.Visit(func(f *pflag.Flag) {
		if v := set[f.Name]; v != nil {
			flags[f.Name] = *v
		}
	})
	if cfg, err = config.Load(sources, config.Environ(environ), flags); err != nil {
		return cfg, false, err
	}
	return cfg, false, cfg.CheckNode()
}

func logger(level, format string, w io.Writer) *slog.Logger {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		least = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: least}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Version is this binary's version and, where the build knows it, its commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v += " " + s.Value[:12]
		}
	}
	return v
}
