package workflows_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
	"github.com/ammonite-backup/ammonite/workflows"
)

// depot stands for a repository of many claims' backups, and for their restores.
type depot struct {
	env     *testsuite.TestWorkflowEnvironment
	backups []activities.FoundBackup
	lacking []backup.Claim
	present map[string]bool
	// exists are the namespaces that are there.
	exists map[string]bool
	made   []string
	// ends is how a restore ends that does not succeed, by the name of its claim.
	ends map[string]func() (workflows.RestoreVolumeResult, error)

	began         []workflows.RestoreVolumeInput
	running, most int
}

func newDepot(claims int) *depot {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	d := &depot{
		env: suite.NewTestWorkflowEnvironment(), present: map[string]bool{}, exists: map[string]bool{"shop": true},
		ends: map[string]func() (workflows.RestoreVolumeResult, error){},
	}
	for i := range claims {
		d.backups = append(d.backups, activities.FoundBackup{
			ID: fmt.Sprint(i), Time: snapshotTime, Kind: backup.KindRBDBlock, Claim: backup.Claim{Namespace: "shop", Name: fmt.Sprintf("data-%05d", i)},
		})
	}
	d.env.SetStartTime(sweepStart)
	d.env.SetTestTimeout(time.Minute)
	d.env.RegisterWorkflow(workflows.RestoreClaims)
	d.env.RegisterWorkflowWithOptions(d.restore, workflow.RegisterOptions{Name: workflows.RestoreVolumeName})
	control := &activities.Control{Namespaces: d}
	for name, does := range map[string]any{
		"FindBackups": d.find, "CheckRestores": control.CheckRestores, "MakeNamespaces": control.MakeNamespaces,
	} {
		d.env.RegisterActivityWithOptions(does, activity.RegisterOptions{Name: name})
	}
	return d
}

func (d *depot) find(_ context.Context, in activities.FindBackupsInput) (found activities.FoundBackups, err error) {
	for _, b := range d.backups {
		if in.Namespace != "" && b.Claim.Namespace != in.Namespace || catalogue.ByName(b.Claim, in.After) <= 0 || b.Time.After(in.At) {
			continue
		}
		if len(found.Backups) == in.Most {
			found.More = true
			break
		}
		found.Backups = append(found.Backups, b)
	}
	if in.After == (backup.Claim{}) {
		found.Lacking = d.lacking
	}
	return found, nil
}

func (d *depot) restore(ctx workflow.Context, in workflows.RestoreVolumeInput) (workflows.RestoreVolumeResult, error) {
	d.began = append(d.began, in)
	d.running++
	d.most = max(d.most, d.running)
	defer func() { d.running-- }()
	if err := workflow.Sleep(ctx, 10*time.Second); err != nil {
		return workflows.RestoreVolumeResult{}, err
	}
	if end := d.ends[in.ToClaim]; end != nil {
		return end()
	}
	return workflows.RestoreVolumeResult{
		Outcome: workflows.OutcomeSucceeded, Restored: restore.Result{Restored: restic.Restored{Bytes: 10}},
	}, nil
}

func (d *depot) run(t *testing.T, in workflows.RestoreClaimsInput) (result workflows.RestoreClaimsResult, err error) {
	t.Helper()
	d.env.ExecuteWorkflow(workflows.RestoreClaims, in)
	require.True(t, d.env.IsWorkflowCompleted())
	err = d.env.GetWorkflowError()
	var failed *temporal.ApplicationError
	switch {
	case err == nil:
		require.NoError(t, d.env.GetWorkflowResult(&result))
	case errors.As(err, &failed):
		require.NoError(t, failed.Details(&result))
	}
	require.Zero(t, d.running)
	// Children that are started at once begin in any order.
	slices.SortFunc(d.began, func(a, b workflows.RestoreVolumeInput) int { return cmp.Compare(a.Claim, b.Claim) })
	return result, err
}

func TestRestoreClaimsRestoresEachOnce(t *testing.T) {
	d := newDepot(450)
	result, err := d.run(t, workflows.RestoreClaimsInput{AtOnce: 7})
	require.NoError(t, err)
	require.Equal(t, workflows.RestoreClaimsResult{
		Outcome: workflows.OutcomeSucceeded, At: sweepStart, Found: 450, Succeeded: 450, Bytes: 4500,
	}, result)
	require.Equal(t, 7, d.most)
	for i, in := range d.began {
		at := snapshotTime
		name := fmt.Sprintf("data-%05d", i)
		require.Equal(t, workflows.RestoreVolumeInput{
			Namespace: "shop", Claim: name, At: &at, Repository: backup.DefaultRepository, ToNamespace: "shop", ToClaim: name,
		}, in)
	}
}

func TestRestoreClaimsHandsOnWhatItIsAskedFor(t *testing.T) {
	d := newDepot(2)
	d.backups[0].Repository = "offsite"
	d.backups = append(d.backups, activities.FoundBackup{ID: "x", Time: snapshotTime, Claim: backup.Claim{Namespace: "team", Name: "data"}})
	result, err := d.run(t, workflows.RestoreClaimsInput{
		Namespace: "shop", ToNamespace: "lab", MakeNamespaces: true, StorageClass: "fast", Bare: true, AcceptLosses: true, NoVerify: true,
	})
	require.NoError(t, err)
	require.Equal(t, 2, result.Succeeded)
	require.Equal(t, []string{"lab"}, d.made)
	require.Zero(t, result.Lacking)
	at := snapshotTime
	require.Equal(t, workflows.RestoreVolumeInput{
		Namespace: "shop", Claim: "data-00000", At: &at, Repository: "offsite", ToNamespace: "lab", ToClaim: "data-00000",
		StorageClass: "fast", Bare: true, AcceptLosses: true, NoVerify: true,
	}, d.began[0])
}

// TestRestoreClaimsBySelector also leaves out claims without a good backup.
func TestRestoreClaimsBySelector(t *testing.T) {
	d := newDepot(5)
	d.lacking = []backup.Claim{{Namespace: "shop", Name: "torn"}}
	result, err := d.run(t, workflows.RestoreClaimsInput{Selector: "app=web"})
	require.NoError(t, err)
	require.Equal(t, workflows.OutcomeSucceeded, result.Outcome)
	require.Len(t, d.began, 1)
	require.Equal(t, "data-00002", d.began[0].Claim)
}

func TestRestoreClaimsPlansWithoutDoing(t *testing.T) {
	d := newDepot(1300)
	d.present["shop/data-00001"] = true
	d.lacking = []backup.Claim{{Namespace: "shop", Name: "torn"}}
	result, err := d.run(t, workflows.RestoreClaimsInput{Plan: true})
	require.NoError(t, err)
	require.Empty(t, d.began)
	require.Equal(t, 1300, result.Found)
	require.Equal(t, 1, result.Present)
	require.Equal(t, 1, result.Lacking)
	require.Len(t, result.Planned, 1000)
	require.True(t, result.Planned[1].Present)
	require.Equal(t, "torn", result.Troubles[0].Claim.Name)
}

func TestRestoreClaimsTellsWhatWentWrong(t *testing.T) {
	d := newDepot(6)
	d.present["shop/data-00000"] = true
	d.ends["data-00001"] = func() (r workflows.RestoreVolumeResult, err error) {
		return r, temporal.NewNonRetryableApplicationError("it is too small", string(backup.InvalidInput), nil)
	}
	d.ends["data-00002"] = func() (r workflows.RestoreVolumeResult, err error) {
		r.Outcome, r.Restored.FailedCount = workflows.OutcomePartial, 3
		return r, nil
	}
	d.ends["data-00003"] = func() (r workflows.RestoreVolumeResult, err error) { return r, temporal.NewCanceledError() }
	d.backups[4].Claim.Namespace = "team"
	result, err := d.run(t, workflows.RestoreClaimsInput{})
	require.Equal(t, backup.RestorePartial, activities.ClassOf(err))
	require.ErrorContains(t, err, "3 of 6 claims were not restored")
	var troubles []string
	for _, trouble := range result.Troubles {
		troubles = append(troubles, trouble.Claim.String()+" "+trouble.Outcome+" "+trouble.Why)
	}
	require.ElementsMatch(t, []string{
		"team/data-00004 failed there is no namespace team",
		"shop/data-00001 failed it is too small",
		"shop/data-00002 partial 3 files could not be restored as they were; its run lists them",
		"shop/data-00003 cancelled cancelled",
	}, troubles)
	require.Equal(t, []int{6, 1, 1, 1, 2, 1}, []int{result.Found, result.Present, result.Succeeded, result.Partial, result.Failed, result.Cancelled})
	require.Equal(t, workflows.OutcomeFailed, result.Outcome)
}

func TestRestoreClaimsIsCancelled(t *testing.T) {
	d := newDepot(20)
	d.env.RegisterDelayedCallback(d.env.CancelWorkflow, 15*time.Second)
	_, err := d.run(t, workflows.RestoreClaimsInput{AtOnce: 4})
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	require.Len(t, d.began, 8, "no more are begun")
}

func TestRestoreClaimsContinuesAsNew(t *testing.T) {
	d := newDepot(700)
	_, err := d.run(t, workflows.RestoreClaimsInput{AtOnce: 100})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, err, &again)
	require.Len(t, d.began, 600)
	var in workflows.RestoreClaimsInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &in))
	require.Equal(t, 600, in.Going.Result.Succeeded)

	rest := newDepot(700)
	result, err := rest.run(t, in)
	require.NoError(t, err)
	require.Len(t, rest.began, 100)
	require.Equal(t, 700, result.Succeeded)
	require.Equal(t, 700, result.Found)
}

func TestRestoreClaimsFindsNothing(t *testing.T) {
	_, err := newDepot(3).run(t, workflows.RestoreClaimsInput{Selector: "app=nothing"})
	require.Equal(t, backup.BackupMissing, activities.ClassOf(err))
	require.ErrorContains(t, err, "Labels are those of claims that exist")
	for name, in := range map[string]workflows.RestoreClaimsInput{
		"no namespace":          {Namespace: "Not One"},
		"many into one":         {ToNamespace: "lab"},
		"a negative number":     {AtOnce: -1},
		"a number out of sight": {AtOnce: 1 << 20},
	} {
		d := newDepot(1)
		_, err := d.run(t, in)
		require.Equal(t, backup.InvalidInput, activities.ClassOf(err), name)
		require.Empty(t, d.began)
	}
}

// ClaimsOf and MakeNamespace stand for Kubernetes; only the claim 00002 has labels.
func (d *depot) ClaimsOf(_ context.Context, namespace, selector string) (names []string, exists bool, err error) {
	for _, b := range d.backups {
		if selector == "" && d.present[namespace+"/"+b.Claim.Name] || selector == "app=web" && b.Claim.Name == "data-00002" {
			names = append(names, b.Claim.Name)
		}
	}
	return names, d.exists[namespace], nil
}

func (d *depot) MakeNamespace(_ context.Context, name string) error {
	if !slices.Contains(d.made, name) {
		d.made = append(d.made, name)
	}
	return nil
}
