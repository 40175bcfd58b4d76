package main

import (
	"context"

	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// restores records restores of the two backups that there are: to new claims, one of which
// is too small and one of CephFS, and in place, which is undone.
func (r *recorder) restores(ctx context.Context) error {
	if err := r.StorageClass(ctx, r.Namespace, "ext4", nil); err != nil {
		return err
	}
	if err := r.SubvolumeClass(ctx, r.Namespace+"-files", nil); err != nil {
		return err
	}
	of := func(claim, to string) workflows.RestoreVolumeInput {
		return workflows.RestoreVolumeInput{Namespace: r.Namespace, Claim: claim, ToNamespace: r.Namespace, ToClaim: to, StorageClass: r.Namespace}
	}
	small := of("data", "small")
	small.SizeBytes = 16 << 10
	files := of("data", "again-files")
	files.StorageClass += "-files"
	inPlace := of("disk", "disk")
	inPlace.StorageClass, inPlace.InPlace = "", true
	for _, scene := range []struct {
		name  string
		in    workflows.RestoreVolumeInput
		fails bool
	}{
		{"restore-filesystem", of("data", "again"), false},
		{"restore-disk", of("disk", "again-disk"), false},
		{"restore-subvolume", files, false},
		{"restore-too-small", small, true},
		{"restore-in-place", inPlace, false},
	} {
		run, err := r.StartRestore(ctx, scene.in)
		if err != nil {
			return err
		}
		err = run.Get(ctx, nil)
		if scene.fails {
			err = mustFail(err)
		}
		if err != nil {
			return err
		}
		if err := r.write(ctx, scene.name, run.GetID(), run.GetRunID()); err != nil {
			return err
		}
	}
	for _, claim := range []string{"again", "again-disk"} {
		if _, err := r.Adopt(ctx, r.Namespace, claim); err != nil {
			return err
		}
	}
	if _, err := r.AdoptSubvolume(ctx, r.Namespace, "again-files"); err != nil {
		return err
	}
	run, err := r.SettleRestore(ctx, workflows.SettleRestoreInput{Namespace: r.Namespace, Claim: "disk", Undo: true})
	if err != nil {
		return err
	}
	if err := r.ended(ctx, "settle-restore", run); err != nil {
		return err
	}
	return r.manyRestores(ctx)
}

// manyRestores records the restore of all backups to another namespace.
func (r *recorder) manyRestores(ctx context.Context) error {
	again := r.Namespace + "-again"
	run, err := r.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: backup.RestoresID(again), TaskQueue: backup.ControlQueue},
		workflows.RestoreClaimsName, workflows.RestoreClaimsInput{Namespace: r.Namespace, ToNamespace: again, MakeNamespaces: true, StorageClass: r.Namespace})
	if err != nil {
		return err
	}
	if err := r.ended(ctx, "restore-claims", run); err != nil {
		return err
	}
	for _, claim := range []string{"data", "disk"} {
		if _, err := r.Adopt(ctx, again, claim); err != nil {
			return err
		}
	}
	return nil
}

// ended records a run that must succeed.
func (r *recorder) ended(ctx context.Context, name string, run client.WorkflowRun) error {
	if err := run.Get(ctx, nil); err != nil {
		return err
	}
	return r.write(ctx, name, run.GetID(), run.GetRunID())
}
