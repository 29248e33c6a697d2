package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	waitTime  = time.Minute // where --timeout says nothing
	waitPause = 500 * time.Millisecond
)

// parseWait reads --wait: the statuses that are well enough.
func parseWait(s string) ([]health.Status, error) {
	order := []health.Status{health.Healthy, health.Degraded, health.Critical}
	i := slices.Index(order, health.Status(strings.ToUpper(s)))
	if i < 0 || i == len(order)-1 {
		return nil, usage.Wrong("--wait %q: want HEALTHY or DEGRADED", s)
	}
	return order[:i+1], nil
}

// waitHealth waits until the cluster is well enough, also for nodes that don't answer yet, and answers with the report of that moment. What it
// waits for is said on stderr whenever that changes.
func (a *app) waitHealth(ctx context.Context, enough []health.Status) (health.Frame, error) {
	ctx, cancel := a.limited(ctx, waitTime)
	defer cancel()
	if _, err := a.target(); err != nil {
		return health.Frame{}, err
	}
	told := ""
	tell := func(what string) {
		if what != told {
			a.say("# %s", what)
		}
		told = what
	}
	for {
		f, err := a.oneFrame(ctx)
		switch {
		case err == nil && slices.Contains(enough, f.Report.Status):
			return f, nil
		case err == nil:
			tell(lacking(f.Report))
		case ctx.Err() == nil && !passing(err):
			return f, err
		case ctx.Err() == nil:
			tell(err.Error())
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return f, ctx.Err()
			}
			return f, themis.Errorf(themis.Deadline, "the cluster is not %s yet: %s", enough[len(enough)-1], told).Do("themis-cli cluster health")
		case <-time.After(waitPause):
		}
	}
}

// passing answers whether nodes that start or change may soon answer differently.
func passing(err error) bool {
	return slices.Contains([]themis.Code{themis.Unreachable, themis.NoPrimary, themis.Deadline, themis.Overloaded, themis.OutcomeUnknown}, themis.CodeOf(err))
}

func (a *app) oneFrame(ctx context.Context) (f health.Frame, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return c.Frame(ctx)
}

// lacking is the status and what makes it so, in one line.
func lacking(r health.Report) string {
	var list []string
	for _, f := range r.Findings {
		if row, ok := f.Code.Check(); ok && row.Degrades {
			list = append(list, string(f.Code)+" "+f.Subject)
		}
	}
	return string(r.Status) + ": " + strings.Join(list, ", ")
}
