package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/workflows"
)

var damage = workflows.VerifyResult{Checked: activities.Checked{
	Subset: backup.Subset{Part: 3, Of: 30}, Damage: backup.Damage{Packs: []string{"pack"}, Said: []string{"broken"}}, TouchedCount: 3,
	Touched: []activities.TouchedBackup{
		{ID: "4f2a91bc00", Time: started, Host: "rbd-fs-shop-nspvc-data", Claim: backup.Claim{Namespace: "shop", Name: "data"}},
		{ID: "0c77e0a100", Time: started.Add(-time.Hour), Host: "strange"},
	},
}}

// errDamaged is how a check ends that found damage.
func errDamaged() error {
	return temporal.NewApplicationErrorWithOptions("the repository is damaged, and 3 backups with it", string(backup.RepositoryDamaged),
		temporal.ApplicationErrorOptions{Details: []any{damage}})
}

func TestPruneByHand(t *testing.T) {
	growth := int64(-3 << 20)
	w := newWorld(&fakeTemporal{pruned: workflows.PruneResult{
		Pruned: activities.Pruned{Pruned: restic.Pruned{Freed: 1 << 30, Size: 10 << 30}, Backups: 12, Content: 100 << 30}, Growth: &growth,
	}})
	out := w.execute(t, "prune", "--max-unused", "1%", "--max-repack", "50G")
	require.Equal(t, exitSuccess, out.code, out.stderr)
	require.Equal(t, "Freed 1.0 GiB; 12 backups of 100.0 GiB take 10.0 GiB (10.0:1), 3.0 MiB less than before.\n", out.stdout)
	require.Equal(t, activities.PruneInput{PruneLimits: backup.PruneLimits{MaxUnused: "1%", MaxRepack: "50G"}}, w.temporal.prune)
	require.Contains(t, w.execute(t, "prune", "-o", "json").stdout, `"growth": -3145728`)

	out = w.execute(t, "prune", "--max-unused", "much")
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "unlimited")
}

func TestVerifyByHand(t *testing.T) {
	w := newWorld(&fakeTemporal{verified: workflows.VerifyResult{Checked: activities.Checked{Subset: backup.Subset{Part: 1, Of: 1}}}})
	out := w.execute(t, "verify")
	require.Equal(t, exitSuccess, out.code, out.stderr)
	require.Equal(t, "The repository is sound; part 1/1 of its data was read.\n", out.stdout)
	require.Equal(t, workflows.VerifyInput{Part: 1, Parts: 1}, w.temporal.verify)

	w.temporal.runErr = errDamaged()
	out = w.execute(t, "verify", "--part", "3", "--parts", "30")
	require.Equal(t, exitFailed, out.code)
	require.Equal(t, `NAMESPACE  CLAIM  TIME                  ID        HOST
shop       data   2026-03-01 12:00:00Z  4f2a91bc  rbd-fs-shop-nspvc-data
-          -      2026-03-01 11:00:00Z  0c77e0a1  strange
… and 1 more
`, out.stdout)
	require.Contains(t, out.stderr, "3 backups with it")
	for _, args := range [][]string{{"verify", "--parts", "4"}, {"verify", "--part", "5", "--parts", "4"}} {
		require.Equal(t, exitUsage, w.execute(t, args...).code, "%q", args)
	}
}

// page is a list of one run that ended.
func page(t *testing.T, id string, status enumspb.WorkflowExecutionStatus) *workflowservice.ListWorkflowExecutionsResponse {
	t.Helper()
	return &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{info(t, id, status, nil)}}
}
