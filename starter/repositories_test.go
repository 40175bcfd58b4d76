package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/workflows"
)

func TestRepositoryTellsHowItWasKept(t *testing.T) {
	f := &fakeTemporal{
		retained: workflows.RetainResult{Removed: 2, Plan: activities.RetentionPlan{}},
		verified: workflows.VerifyResult{Checked: activities.Checked{Subset: backup.Subset{Part: 3, Of: 30}}},
		pages: []*workflowservice.ListWorkflowExecutionsResponse{
			page(t, "retain", enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED), {}, page(t, "verify", enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED), {},
		},
	}
	out := newWorld(f).execute(t, "repositories", "default")
	require.Equal(t, exitSuccess, out.code, out.stderr)
	require.Contains(t, out.stdout, "removed 2 backups of 0")
	require.Contains(t, out.stdout, "not known")
	require.Contains(t, out.stdout, "sound; part 3/30 of the data was read")
	require.Equal(t, []string{"WorkflowType = 'Retain' AND AmmoniteRepository IS NULL", "WorkflowType = 'Prune' AND AmmoniteRepository IS NULL",
		"WorkflowType = 'VerifyRepository' AND AmmoniteRepository IS NULL", "WorkflowType = 'Copy' AND AmmoniteRepository IS NULL"}, f.queries)

	f.pages = []*workflowservice.ListWorkflowExecutionsResponse{{}, {}, page(t, "verify", enumspb.WORKFLOW_EXECUTION_STATUS_FAILED), {}}
	f.runErr = errDamaged()
	out = newWorld(f).execute(t, "repositories", "default")
	require.Equal(t, exitFailed, out.code)
	require.Contains(t, out.stdout, "4f2a91bc")
	require.Contains(t, out.stderr, "3 backups with it")
}

func TestRepositoriesAreListed(t *testing.T) {
	completed := func(id string) *workflowservice.ListWorkflowExecutionsResponse {
		return page(t, id, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	}
	f := &fakeTemporal{
		looks: []activities.RepositoryLook{
			{Name: "default", Address: "rest:http://backup/", Locks: 2}, {Name: "offsite", Address: "s3:host/bucket"},
		},
		pruned:   workflows.PruneResult{Pruned: activities.Pruned{Pruned: restic.Pruned{Size: 3 << 20}, Backups: 7}},
		verified: workflows.VerifyResult{Checked: activities.Checked{Subset: backup.Subset{Part: 3, Of: 30}}},
		pages:    []*workflowservice.ListWorkflowExecutionsResponse{{}, completed("prune"), completed("verify"), {}, {}, {}, {}, {}},
	}
	out := newWorld(f).execute(t, "repositories")
	require.Equal(t, exitSuccess, out.code, out.stderr)
	require.Regexp(t, `default +7 +3.0 MiB .* ago .* ago +2 +sound +rest:http://backup/`, out.stdout)
	require.Regexp(t, `offsite +- +- +- +- +0 +opens +s3:host/bucket`, out.stdout)
	require.Contains(t, f.queries, "WorkflowType = 'Prune' AND AmmoniteRepository = 'offsite'")

	f.looks = f.looks[1:]
	f.looks[0].Failure = "wrong password"
	f.pages = []*workflowservice.ListWorkflowExecutionsResponse{{}, {}, {}, {}}
	out = newWorld(f).execute(t, "repositories")
	require.Equal(t, exitFailed, out.code)
	require.Contains(t, out.stdout, "wrong password")
	require.Contains(t, out.stderr, "1 of 1 repositories need somebody to look")

	f.looks = nil
	require.Contains(t, newWorld(f).execute(t, "repositories").stdout, "were given no repository")
	require.Equal(t, exitUsage, newWorld(f).execute(t, "repositories", "Off site").code)
}

func TestWorkOnOneRepository(t *testing.T) {
	w := newWorld(&fakeTemporal{})
	require.Equal(t, exitSuccess, w.execute(t, "prune", "--repository", "offsite").code)
	require.Equal(t, "offsite", w.temporal.prune.Repository)
	require.Equal(t, exitSuccess, w.execute(t, "verify", "--repository", "offsite").code)
	require.Equal(t, "offsite", w.temporal.verify.Repository)
	require.Equal(t, exitSuccess, w.execute(t, "retain", "--repository", "offsite").code)
	require.Equal(t, "offsite", w.temporal.retain.Repository)
	require.Equal(t, exitSuccess, w.execute(t, "prune", "--repository", "default").code)
	require.Empty(t, w.temporal.prune.Repository)
	require.Equal(t, exitUsage, w.execute(t, "prune", "--repository", "../x").code)
}

func TestOneRepositoryIsOpened(t *testing.T) {
	dir := t.TempDir()
	for name, address := range map[string]string{"offsite": "/offsite", "default": "/default"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, "RESTIC_REPOSITORY"), []byte(address), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, "RESTIC_PASSWORD"), []byte("x"), 0o600))
	}
	f := &fakeRestic{stdout: "[]"}
	w := snapshotsWorld(f)
	require.Contains(t, w.execute(t, "snapshots", "--repository", "offsite").stderr, "there is no repository offsite here")
	w.environ = append(w.environ, "AMMONITE_REPOSITORIES="+dir)
	require.Equal(t, exitSuccess, w.execute(t, "snapshots", "--repository", "offsite").code)
	require.Contains(t, f.command.Env, "RESTIC_REPOSITORY=/offsite")
	require.NotContains(t, f.command.Env, "RESTIC_PASSWORD=sesame")
	require.Equal(t, exitSuccess, w.execute(t, "snapshots").code)
	require.Contains(t, f.command.Env, "RESTIC_REPOSITORY=/r", "the environment is the default")
	w.environ = []string{"AMMONITE_REPOSITORIES=" + dir}
	require.Equal(t, exitSuccess, w.execute(t, "snapshots").code)
	require.Contains(t, f.command.Env, "RESTIC_REPOSITORY=/default")
}

func TestCopyByHand(t *testing.T) {
	w := newWorld(&fakeTemporal{copied: workflows.CopyResult{From: "default", Copied: activities.Copied{Copied: 3, There: 7}}})
	w.rules = retention.Rules{Policy: retention.Policy{Monthly: 12}}
	out := w.execute(t, "repositories", "copy", "default", "offsite")
	require.Equal(t, exitSuccess, out.code, out.stderr)
	require.Equal(t, "Copied 3 backups from default; 7 were there.\n", out.stdout)
	require.Equal(t, activities.CopyInput{To: "offsite", Rules: w.rules}, w.temporal.copy)
	for _, args := range [][]string{{}, {"default"}, {"offsite", "offsite"}, {"default", "Off site"}} {
		require.Equal(t, exitUsage, w.execute(t, append([]string{"repositories", "copy"}, args...)...).code, "%q", args)
	}

	w.temporal.copied.There = 0
	w.temporal.pages = []*workflowservice.ListWorkflowExecutionsResponse{{}, {}, {}, page(t, "copy", enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)}
	require.Regexp(t, `copy .*Copied 3 backups from default; 0 were there`, w.execute(t, "repositories", "offsite").stdout)
}
