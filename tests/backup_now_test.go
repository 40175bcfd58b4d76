package tests

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// ownPrefix is a prefix for the annotations of one system alone. Other tests'
// workers see the same claims, and would answer too.
func ownPrefix(s *system.System) string { return s.Namespace + ".example/" }

// newClaim names a claim that never was. Temporal, the repository and the events of
// a lab remember those of earlier tests.
func newClaim(s *system.System) backup.Claim {
	return claimOf(s, "data-"+strconv.FormatInt(time.Now().UnixNano(), 36))
}

// startAsked starts a control worker that answers requests for backups.
func startAsked(t *testing.T, s *system.System) *system.Worker {
	t.Helper()
	control, err := s.StartControl(t.Context(), "AMMONITE_ANNOTATION_PREFIX="+ownPrefix(s))
	require.NoError(t, err)
	return control
}

// ask annotates a claim, as its tenant does.
func ask(t *testing.T, s *system.System, claim backup.Claim, name, value string) {
	t.Helper()
	_, err := s.Run(t.Context(), "kubectl", "annotate", "--overwrite", "--namespace", claim.Namespace, "pvc", claim.Name, ownPrefix(s)+name+"="+value)
	require.NoError(t, err)
}

// awaitAnswer waits until the claim shows that the value was answered.
func awaitAnswer(t *testing.T, s *system.System, claim backup.Claim, value string) {
	t.Helper()
	await(t, patience, "the request is not answered", func() bool {
		annotations, err := s.Annotations(t.Context(), claim.Namespace, claim.Name)
		require.NoError(t, err)
		return annotations[ownPrefix(s)+backup.AnnotationBackupNowAnswered] == value
	})
}

// runsOf lists all runs of a claim's backup, the newest first.
func runsOf(t *testing.T, s *system.System, claim backup.Claim) []*workflowpb.WorkflowExecutionInfo {
	t.Helper()
	page, err := s.Client.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
		Query: "WorkflowId = '" + backup.WorkflowID(claim) + "'",
	})
	require.NoError(t, err)
	return page.GetExecutions()
}

// awaitRuns waits until there are that many runs of a claim's backup, and all of
// them have succeeded.
func awaitRuns(t *testing.T, s *system.System, claim backup.Claim, n int) {
	t.Helper()
	await(t, patience, "the runs do not succeed", func() bool {
		runs, done := runsOf(t, s, claim), 0
		require.LessOrEqual(t, len(runs), n)
		for _, run := range runs {
			if run.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
				done++
			}
		}
		return done == n
	})
}

// TestBackupNow shows that each new value of the annotation is a backup, and one
// only, whichever of several control workers sees it first.
func TestBackupNow(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	startAsked(t, s)
	startAsked(t, s)
	node, err := s.StartNode(t.Context(), "node-a", 1)
	require.NoError(t, err)
	claim := newClaim(s)
	v := create(t, s, claim, lab.VolumeSpec{Size: 64 << 20})

	ask(t, s, claim, backup.AnnotationBackupNow, "first")
	awaitAnswer(t, s, claim, "first")
	awaitRuns(t, s, claim, 1)
	last, err := s.Annotations(t.Context(), claim.Namespace, claim.Name)
	require.NoError(t, err)
	require.NotEmpty(t, last[ownPrefix(s)+backup.AnnotationLastBackup])
	found, err := s.ResticSnapshots(t.Context(), "--tag", backup.TagClaim+"="+claim.Name)
	require.NoError(t, err)
	require.Len(t, found, 1)
	told := eventsOnClaims(t, s, "--namespace", claim.Namespace)
	require.Equal(t, map[string]int{string(backup.EventStarted): 1, string(backup.EventSucceeded): 1}, told[claim.String()])
	shown := temporalSays(t, s, "workflow", "describe", "--workflow-id", backup.WorkflowID(claim))
	require.Contains(t, shown, "asked for by annotation")

	// The snapshot of a backup that goes on may be older than what the tenant has in
	// mind.
	require.NoError(t, node.Inject("before-Restic", "hold"))
	run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
	require.NoError(t, err)
	awaitFired(t, node, "before-Restic")
	// Kubernetes lets anybody write a long story.
	long := strings.Repeat("long", 200)
	ask(t, s, claim, backup.AnnotationBackupNow, long)
	snapshots, err := s.CephSnapshots(t.Context(), v)
	require.NoError(t, err)
	require.Len(t, snapshots, 1)
	require.NoError(t, node.LetGo("before-Restic"))
	awaitSuccess(t, run)
	awaitRuns(t, s, claim, 3)
	memo := runsOf(t, s, claim)[0].GetMemo().GetFields()[backup.AnnotationBackupNow].GetData()
	require.Contains(t, string(memo), "longlong")
	require.Less(t, len(memo), 300)
	answered, err := s.Annotations(t.Context(), claim.Namespace, claim.Name)
	require.NoError(t, err)
	require.NotEqual(t, "first", answered[ownPrefix(s)+backup.AnnotationBackupNowAnswered])
}

// TestBackupNowIsNotRepeatedAfterAKill kills a control worker between the start of
// what was asked for and the mark that says so.
func TestBackupNowIsNotRepeatedAfterAKill(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control := startAsked(t, s)
	_, err := s.StartNode(t.Context(), "node-a", 1)
	require.NoError(t, err)
	claim := newClaim(s)
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20})
	allow := forbidAnswers(t, s, claim)

	ask(t, s, claim, backup.AnnotationBackupNow, "x")
	awaitRuns(t, s, claim, 1)
	control.Kill()
	annotations, err := s.Annotations(t.Context(), claim.Namespace, claim.Name)
	require.NoError(t, err)
	require.NotContains(t, annotations, ownPrefix(s)+backup.AnnotationBackupNowAnswered)

	allow()
	require.NoError(t, control.Start(t.Context()))
	awaitAnswer(t, s, claim, "x")
	require.Len(t, runsOf(t, s, claim), 1)
}

// forbidAnswers has the Kubernetes API refuse the mark on claims of the claim's
// namespace, until the function that it returns is called.
func forbidAnswers(t *testing.T, s *system.System, claim backup.Claim) (allow func()) {
	t.Helper()
	name, mark := "no-answers-in-"+s.Namespace, ownPrefix(s)+backup.AnnotationBackupNowAnswered
	const group = "admissionregistration.k8s.io/v1"
	require.NoError(t, s.Apply(t.Context(),
		map[string]any{"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": map[string]any{"name": name}, "spec": map[string]any{
			"matchConstraints": map[string]any{"resourceRules": []any{map[string]any{
				"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "operations": []string{"UPDATE"}, "resources": []string{"persistentvolumeclaims"},
			}}},
			"validations": []any{map[string]any{"expression": "!has(object.metadata.annotations) || !('" + mark + "' in object.metadata.annotations)"}},
		}},
		map[string]any{"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": map[string]any{"name": name}, "spec": map[string]any{
			"policyName": name, "validationActions": []string{"Deny"},
			"matchResources": map[string]any{"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": s.Namespace}}},
		}},
	))
	try := func() error {
		_, err := s.Run(t.Context(), "kubectl", "annotate", "--dry-run=server", "--overwrite", "--namespace", claim.Namespace, "pvc", claim.Name, mark+"=probe")
		return err
	}
	await(t, time.Minute, "the policy has no effect", func() bool { return try() != nil })
	return func() {
		_, err := s.Run(t.Context(), "kubectl", "delete", "validatingadmissionpolicybinding", name)
		require.NoError(t, err)
		await(t, time.Minute, "the policy stays in effect", func() bool { return try() == nil })
	}
}

// TestBackupNowIsRefused shows what a tenant sees who asks for what cannot be.
func TestBackupNowIsRefused(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	startAsked(t, s)
	excluded, foreign := claimOf(s, "excluded"), claimOf(s, "foreign")
	create(t, s, excluded, lab.VolumeSpec{Size: 64 << 20})
	require.NoError(t, s.Bind(t.Context(), foreign.Namespace, foreign.Name, map[string]any{"hostPath": map[string]any{"path": "/tmp"}}))
	ask(t, s, excluded, backup.AnnotationBackup, "no")
	for claim, says := range map[backup.Claim]string{
		excluded: ownPrefix(s) + `backup="no"`,
		foreign:  "not a Ceph volume",
	} {
		ask(t, s, claim, backup.AnnotationBackupNow, "please")
		awaitAnswer(t, s, claim, "please")
		out, err := s.Run(t.Context(), "kubectl", "describe", "--namespace", claim.Namespace, "pvc", claim.Name)
		require.NoError(t, err)
		require.Contains(t, out, "BackupRefused")
		require.Contains(t, out, ownPrefix(s)+`backup-now="please"`)
		require.Contains(t, out, says)
		require.Empty(t, runsOf(t, s, claim))
	}
}
