package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/themis"
)

// wake is what to type where no node answers.
func (a *app) wake(e *themis.Error) string {
	if a.flags.timeout > 0 && strings.Contains(e.Detail, "did not answer in time") && !strings.Contains(e.Detail, "refused") {
		return "give them more time than --timeout " + a.flags.timeout.String() + ", or start them again; then: themis-cli cluster health --wait HEALTHY" + a.flags.where()
	}
	if t, err := a.target(); err == nil && len(a.flags.endpoints) == 0 {
		if dir := t.Playground(); dir != "" {
			return "themis-cli playground start --data-dir " + dir
		}
	}
	return "start themisd on those machines, or correct the addresses; then: themis-cli cluster health --wait HEALTHY" + a.flags.where()
}

// unjudged is why there is no report. That the node which was asked knows no cluster map, since the control plane does not answer, says nothing of
// any shard: the state could not be checked.
func (a *app) unjudged(err error) error {
	e, ok := errors.AsType[*themis.Error](err)
	if !ok || e.Code != themis.NoPrimary || e.Shard != "" {
		return err
	}
	a.answer(themis.ExitInconclusive)
	if t, err := a.target(); err == nil {
		if dir := t.Playground(); dir != "" {
			e.Fix = "themis-cli playground start --data-dir " + dir
		}
	}
	return usage.Titled("The state of the cluster could not be had", err)
}

// complain writes an error to stderr.
func (a *app) complain(cmd *cobra.Command, err error) {
	e, ok := errors.AsType[*themis.Error](err)
	switch {
	case ok && e.Code == themis.Unreachable && e.Fix == "":
		e.Fix = a.wake(e)
	case ok && e.Code == themis.Deadline && e.Fix == "": // timeout_ms is HTTP's
		e.Fix = "ask again, or give it more time: --timeout TIME"
	}
	usage.Complain(a.errOut, cmd, err, a.flags.output == "json" || a.flags.output == "ndjson")
}
