package node

import (
	"fmt"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/controller"
	"github.com/themisdb/themis/pkg/themis"
)

// settings are the values in force on this node: its own, and over them what was applied to the cluster.
type settings struct {
	version uint64 // of what was applied
	config  config.Config
	refused error // why those of the newest version can't be in force here; the ones before stay
}

// settle lays what was applied to the cluster over the node's own values, and checks that a node can live by the result.
func settle(own config.Config, applied map[string]string) (config.Config, error) {
	c, err := own.With(applied)
	if err != nil {
		return c, err
	}
	if err := failover(c).Validate(); err != nil {
		return c, themis.Errorf(themis.InvalidArgument, "failover: %w", err)
	}
	return c, nil
}

// failover are the numbers that a controller on this node goes by.
func failover(c config.Config) controller.Config {
	out := controller.Default()
	out.ProbeEvery, out.RetryEvery, out.Threshold = c.Failover.ProbeInterval, c.Failover.RetryInterval, c.Failover.FailureThreshold
	out.FailAfterMin, out.FailAfterMax = c.Failover.FailedAfterMin, c.Failover.FailedAfterMax
	out.CutAfter = c.Control.LeaseTTL
	return out
}

// conf are the values in force now.
func (n *Node) conf() *config.Config {
	if s := n.inForce.Load(); s != nil {
		return &s.config
	}
	return &n.cfg
}

// learnSettings puts newly applied values in force. Values that this node can't live by, since its own file or its version does not go
// with them, leave those in force that are; its state says so.
func (n *Node) learnSettings(s cluster.Settings) {
	if before := n.inForce.Load(); s.Version == 0 || before != nil && before.version == s.Version {
		return
	}
	next := &settings{version: s.Version, config: *n.conf()}
	if c, err := settle(n.cfg, s.Values); err != nil {
		next.refused = fmt.Errorf("configuration version %d is not in force here: %w", s.Version, err)
		n.log.Error("applied settings are not in force on this node", "version", s.Version, "err", err)
	} else {
		next.config = c
		n.log.Info("settings in force", "version", s.Version, "who", s.Who)
	}
	n.inForce.Store(next)
}
