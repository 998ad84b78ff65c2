package hub

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/freshwire/freshwire/graph"
)

// CheckProgress, CheckReport and CheckFinding are those of the store.
type (
	CheckProgress = graph.CheckProgress
	CheckReport   = graph.Report
	CheckFinding  = graph.Finding
)

// Check verifies the store of the hub that cfg describes, which does not run, and
// with repair makes good what is derivable. See [graph.Check].
func Check(ctx context.Context, cfg Config, log *slog.Logger, repair bool, progress func(CheckProgress)) (CheckReport, error) {
	if err := cfg.Check(); err != nil {
		return CheckReport{}, err
	}
	return graph.Check(ctx, filepath.Join(cfg.Data, "store"), graph.CheckOptions{
		Log: log, Cache: int64(cfg.Cache), Repair: repair, Progress: progress})
}
