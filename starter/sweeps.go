package main

import (
	"context"

	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/workflows"
)

// sweeps is what the schedule says about them.
type sweeps struct {
	// input holds the policy; it is zero, for the defaults, without a schedule.
	input             workflows.SweepInput
	scheduled, paused bool
	// note is what was noted when the schedule was paused.
	note string
}

func scheduledSweeps(ctx context.Context, c temporalClient) (sweeps, error) {
	set, scheduled, err := schedules.Sweep(ctx, c)
	return sweeps{input: set.Input, scheduled: scheduled, paused: set.Paused, note: set.Note}, err
}

// notes are what a person should know about the schedule.
func (s sweeps) notes() []string {
	switch {
	case !s.scheduled:
		return []string{"no schedule: nothing starts backups by itself; `ammonite schedules apply`"}
	case s.paused:
		text := "the schedule is paused, so nothing starts backups by itself; `ammonite schedules unpause " + schedules.SweepID + "`"
		if s.note != "" {
			text += " (" + s.note + ")"
		}
		return []string{text}
	}
	return nil
}
