package activities

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/placement"
)

// bound is a claim that is bound to a subvolume, with annotations.
type bound struct {
	claims
	Ceph
	annotations map[string]string
	asked       int
}

func (b *bound) Volume(_ context.Context, claim backup.Claim) (backup.Volume, error) {
	return backup.Volume{Claim: claim, Kind: backup.KindCephFS}, nil
}

func (b *bound) Manifest(context.Context, backup.Claim) (backup.Manifest, error) {
	return backup.Manifest{StorageClass: "fast"}, nil
}

func (b *bound) Inspect(_ context.Context, v backup.Volume) (backup.Volume, error) { return v, nil }

func (b *bound) Subject(_ context.Context, claim backup.Claim) (placement.Subject, error) {
	b.asked++
	return placement.Subject{Namespace: claim.Namespace, OnClaim: b.annotations}, nil
}

func TestResolveSaysWhichRepository(t *testing.T) {
	b := &bound{annotations: map[string]string{backup.AnnotationRepository: "finance"}}
	c := &Control{Claims: b, Ceph: func(string) (Ceph, error) { return b, nil }}
	resolve := func() (plan Plan) {
		value, err := call{}.run(t, c.Resolve, backup.Claim{Namespace: "shop", Name: "data"})
		require.NoError(t, err)
		require.NoError(t, value.Get(&plan))
		return plan
	}
	manifest, err := backup.UnpackManifest(resolve().Manifest)
	require.NoError(t, err)
	require.Equal(t, "fast", manifest.StorageClass, "the backup keeps it")
	require.Empty(t, resolve().Repository)
	require.Zero(t, b.asked, "without rules there is nothing to ask")
	c.Placement = placement.Rules{Rules: []placement.Rule{{Repository: "offsite", Namespaces: placement.Namespaces{"*"}}}}
	plan := resolve()
	require.Equal(t, "offsite", plan.Repository)
	require.Len(t, plan.Notes, 1)
	require.Contains(t, plan.Notes[0], `may not choose repository "finance"`)
}

func TestBackupsGoIntoTheirRepository(t *testing.T) {
	a := newAgent(t, 1)
	a.others = map[string]*fakeRepository{"offsite": {}}
	in := a.hold(t, 1)
	in.Repository = "offsite"
	a.queue.exclusive = true
	_, err := call{}.run(t, a.Restic, in)
	require.NoError(t, err, "the default repository's turn is not its")
	require.Equal(t, 1, a.others["offsite"].made)
	require.Zero(t, a.repository.made)

	a.queue.repository = "offsite"
	_, err = call{}.run(t, a.Restic, in)
	require.ErrorContains(t, err, "has its turn")
}
