package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/kube"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// fakeCluster has the claims that it is given, and their namespaces.
type fakeCluster struct {
	candidates []selection.Candidate
	// empty are namespaces without claims.
	empty  []string
	err    error
	looks  int
	onLook func(n int)
	// predecessor is what ceph-k8s-backup left, and deleted what of it was deleted.
	predecessor, deleted []kube.PredecessorObject
}

func (f *fakeCluster) PredecessorObjects(context.Context) ([]kube.PredecessorObject, error) {
	return f.predecessor, f.err
}

func (f *fakeCluster) RemovePredecessorObjects(_ context.Context, objects []kube.PredecessorObject) error {
	f.deleted = objects
	return f.err
}

func (f *fakeCluster) look() error {
	f.looks++
	if f.onLook != nil {
		f.onLook(f.looks)
	}
	return f.err
}

func (f *fakeCluster) Candidates(ctx context.Context, namespace string) ([]selection.Candidate, error) {
	if err := errors.Join(f.look(), ctx.Err()); err != nil {
		return nil, err
	}
	elsewhere := func(c selection.Candidate) bool { return namespace != "" && c.Claim.Namespace != namespace }
	found := slices.DeleteFunc(slices.Clone(f.candidates), elsewhere)
	if namespace != "" && len(found) == 0 && !slices.Contains(f.empty, namespace) {
		return nil, backup.Fail(backup.VolumeGone, "there is no namespace "+namespace, "`kubectl get namespaces` lists them.", nil)
	}
	return found, nil
}

func (f *fakeCluster) Candidate(_ context.Context, claim backup.Claim) (selection.Candidate, error) {
	if err := f.look(); err != nil {
		return selection.Candidate{}, err
	}
	i := slices.IndexFunc(f.candidates, func(c selection.Candidate) bool {
		return c.Claim.Namespace == claim.Namespace && c.Claim.Name == claim.Name
	})
	if i < 0 {
		return selection.Candidate{}, backup.Fail(backup.VolumeGone, "there is no claim "+claim.String(), "`kubectl get pvc` lists them.", nil)
	}
	return f.candidates[i], nil
}

// checkCluster is what a person is told when Kubernetes cannot be read.
const checkCluster = "Check that KUBECONFIG or --kubeconfig is of this cluster, and that its API answers you: `kubectl get pvc -A`"

// listKnown plays the listing: the conditions that the commands use, those that run
// first and then by the time of the end, in pages.
func (f *fakeTemporal) listKnown(r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	var found []*workflowpb.WorkflowExecutionInfo
	for _, info := range f.known {
		if slices.IndexFunc(strings.Split(r.Query, " AND "), func(condition string) bool { return !holds(condition, info) }) < 0 {
			found = append(found, info)
		}
	}
	slices.SortStableFunc(found, func(a, b *workflowpb.WorkflowExecutionInfo) int {
		return b.GetCloseTime().AsTime().Compare(a.GetCloseTime().AsTime())
	})
	from := 0
	if len(r.NextPageToken) > 0 {
		from, _ = strconv.Atoi(string(r.NextPageToken))
	}
	to := min(from+int(r.PageSize), len(found))
	response := &workflowservice.ListWorkflowExecutionsResponse{Executions: found[from:to]}
	if to < len(found) {
		response.NextPageToken = []byte(strconv.Itoa(to))
	}
	return response, nil
}

func holds(condition string, info *workflowpb.WorkflowExecutionInfo) bool {
	id := info.GetExecution().GetWorkflowId()
	running := listedState(info).running()
	switch fields := strings.SplitN(condition, " ", 3); {
	case condition == "ExecutionStatus = 'Running'":
		return running
	case condition == "ExecutionStatus != 'Running'":
		return !running
	case fields[0] == "WorkflowId" && fields[1] == "=":
		return id == strings.Trim(fields[2], "'")
	case fields[0] == "WorkflowId" && fields[1] == "STARTS_WITH":
		return strings.HasPrefix(id, strings.Trim(fields[2], "'"))
	}
	return condition == "WorkflowType IN ('BackupVolume')"
}

func (f *fakeTemporal) describeKnown(workflowID string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	for _, info := range f.known {
		if info.GetExecution().GetWorkflowId() != workflowID || !listedState(info).running() {
			continue
		}
		d := &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: info}
		if a := f.pending[workflowID]; a != nil {
			d.PendingActivities = append(d.PendingActivities, a)
		}
		return d, nil
	}
	return nil, serviceerror.NewNotFound("no such run")
}

// now is when the tests of volumes look.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// claimed is a claim that is a month old, with annotations like "claim interval=6h".
func claimed(t *testing.T, claim string, annotations ...string) selection.Candidate {
	t.Helper()
	parsed, err := backup.ParseClaim(claim)
	require.NoError(t, err)
	parsed.UID = "uid-" + parsed.Name
	c := selection.Candidate{
		Claim: parsed, Created: now.Add(-30 * 24 * time.Hour), PV: "pv-" + parsed.Name, Kind: backup.KindRBDFilesystem,
		ClusterID: "ceph", Pool: "rbd", SizeBytes: 5 << 30,
		OnVolume: selection.Annotations{}, OnNamespace: selection.Annotations{}, OnClaim: selection.Annotations{},
	}
	objects := map[string]selection.Annotations{"volume": c.OnVolume, "namespace": c.OnNamespace, "claim": c.OnClaim}
	for _, annotation := range annotations {
		object, rest, _ := strings.Cut(annotation, " ")
		name, value, _ := strings.Cut(rest, "=")
		objects[object][name] = value
	}
	return c
}

// before writes the time that was so long before now as an annotation.
func before(ago time.Duration) string { return backup.FormatAnnotationTime(now.Add(-ago)) }

// backedUp are the annotations of a good backup so long ago.
func backedUp(ago time.Duration) []string {
	return []string{"volume last-start=" + before(ago+time.Second), "claim last-backup=" + before(ago)}
}
