package activities

import (
	"context"
	"fmt"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// FindUndoInput says what a person wants settled.
type FindUndoInput struct {
	Claim backup.Claim `json:"claim"`
	// Back asks for the way back to be gone, rather than given up. Used says that pods may
	// use the claim until then: they are ended before.
	Back bool `json:"back,omitempty"`
	Used bool `json:"used,omitempty"`
}

// FoundUndo is a restore in place that can be settled.
type FoundUndo struct {
	Target backup.Target `json:"target"`
	Undo   backup.Undo   `json:"undo"`
}

// FindUndo finds the restore in place of a claim that is still to be settled. It only reads.
//
// Final failures: InvalidInput when there is none, when one that is not complete is to be
// kept, or when pods use a claim that is to go back.
func (c *Control) FindUndo(ctx context.Context, in FindUndoInput) (FoundUndo, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	found, err := c.findUndo(ctx, in)
	return found, toFailure(err)
}

func (c *Control) findUndo(ctx context.Context, in FindUndoInput) (found FoundUndo, err error) {
	if found.Target, err = c.inPlace(ctx, in.Claim); err != nil {
		return found, err
	}
	cluster, err := c.Ceph(found.Target.ClusterID)
	if err != nil {
		return found, err
	}
	undos, err := cluster.Undos(ctx, found.Target.Image)
	if err != nil {
		return found, err
	}
	if len(undos) == 0 {
		return found, backup.Fail(backup.InvalidInput, fmt.Sprintf("there is no restore in place of %s to be settled", in.Claim),
			"It was settled already, or its time is over.", nil)
	}
	found.Undo = undos[0]
	if in.Back && in.Used {
		return found, nil
	}
	if in.Back {
		return found, c.unused(ctx, in.Claim)
	}
	if found.Undo.Until.IsZero() {
		return found, backup.Fail(backup.InvalidInput, fmt.Sprintf("the restore in place of %s ended before it was complete", in.Claim),
			"Go back with --undo, and restore again.", nil)
	}
	return found, nil
}

// ExpireUndosInput says where to look for ways back whose time is over.
type ExpireUndosInput struct {
	ClusterID string `json:"clusterID"`
	// Now is Temporal's, and Grace how old a restore must be by then to be told of.
	Now    time.Time       `json:"now"`
	Grace  backup.Duration `json:"grace"`
	DryRun bool            `json:"dryRun,omitempty"`
}

// ExpiredUndos is what ExpireUndos did.
type ExpiredUndos struct {
	Removed []string `json:"removed,omitempty"`
	// Broken are those of restores that ended before they were complete, and Left what could
	// not be removed.
	Broken []string `json:"broken,omitempty"`
	Left   []string `json:"left,omitempty"`
}

// ExpireUndos removes the ways back from restores in place whose time is over, or only
// says which they are. Those of restores that are not complete stay, whatever became of
// these: the volume needs them.
func (c *Control) ExpireUndos(ctx context.Context, in ExpireUndosInput) (result ExpiredUndos, err error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	cluster, err := c.Ceph(in.ClusterID)
	if err != nil {
		return result, toFailure(err)
	}
	all, err := cluster.AllUndos(ctx)
	if err != nil {
		result.Left = append(result.Left, err.Error())
	}
	for _, kept := range all {
		name := fmt.Sprintf("%s@%s", kept.Image, kept.Undo.Name)
		if err := c.expire(ctx, cluster, kept, in, name, &result); err != nil {
			result.Left = append(result.Left, name+": "+err.Error())
		}
	}
	return result, nil
}

func (c *Control) expire(ctx context.Context, cluster Ceph, kept backup.KeptUndo, in ExpireUndosInput, name string, result *ExpiredUndos) error {
	u := kept.Undo
	switch {
	case u.Until.IsZero() && u.Taken.After(in.Now.Add(-time.Duration(in.Grace))), u.Until.After(in.Now):
		return nil
	case u.Until.IsZero():
		run, err := c.Runs.State(ctx, u.Run)
		if err == nil && !run.Open {
			result.Broken = append(result.Broken, name)
		}
		return err
	}
	if !in.DryRun {
		// Also in the trash.
		if err := cluster.EnsureSnapshotAbsent(ctx, backup.Source{Image: kept.Image}, u.Name); err != nil {
			return err
		}
	}
	result.Removed = append(result.Removed, name+": the time to undo the restore is over")
	return nil
}
