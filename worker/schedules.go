package main

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/schedules"
)

// lookForLeftovers has the schedule that does so begin at once: whatever ended the
// control workers before this one may have ended more.
func (p *process) lookForLeftovers(ctx context.Context, namespace string) {
	if err := schedules.TriggerEnabled(ctx, schedules.At(p.temporal, namespace), schedules.ReconcileID); err != nil {
		p.log.Warn("leftovers are looked for only when it is time for that", zap.Error(err))
	}
}

// applySchedules makes the schedules those of the settings, if these name any.
func (p *process) applySchedules(ctx context.Context, namespace string) error {
	if p.settings.Schedules == "" {
		return nil
	}
	config, err := schedules.Read(p.settings.Schedules)
	if err != nil {
		return err
	}
	changes, err := schedules.Apply(ctx, schedules.At(p.temporal, namespace), config, false)
	for _, c := range changes {
		p.log.Info("applied a schedule", zap.String("schedule", c.Schedule), zap.String("kind", string(c.Kind)),
			zap.Any("differences", c.Differences), zap.Bool("edited", c.Edited), zap.Bool("paused", c.Paused), zap.String("note", c.Note))
	}
	if err != nil {
		return fmt.Errorf("applying the schedules of AMMONITE_SCHEDULES: %w", err)
	}
	return nil
}
