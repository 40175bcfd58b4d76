package main

import (
	"context"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// Keys of a run's memo that say what it was started for.
const (
	memoRequest = backup.AnnotationBackupNow
	memoClaim   = "claim-uid"
)

// requestedWorkflows starts requested backups in Temporal.
type requestedWorkflows struct {
	client    client.Client
	namespace string
}

func (w requestedWorkflows) newest(ctx context.Context, claim backup.Claim) (requestedRun, error) {
	id := backup.WorkflowID(claim)
	d, err := w.client.DescribeWorkflowExecution(ctx, id, "")
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return requestedRun{}, nil
	}
	if err != nil {
		return requestedRun{}, fmt.Errorf("asking Temporal for workflow %s: %w", id, err)
	}
	info := d.GetWorkflowExecutionInfo()
	run := requestedRun{
		running: info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		started: info.GetStartTime().AsTime(),
	}
	if value := note(info.GetMemo(), memoRequest); value != "" {
		run.request = request{value: value, claim: backup.Claim{Namespace: claim.Namespace, Name: claim.Name, UID: note(info.GetMemo(), memoClaim)}}
	}
	return run, nil
}

// note reads a text from a memo; empty if there is none.
func note(memo *commonpb.Memo, key string) (text string) {
	if p, ok := memo.GetFields()[key]; ok {
		_ = converter.GetDefaultDataConverter().FromPayload(p, &text)
	}
	return text
}

// start goes past the SDK for the sake of the request ID: by it the server answers
// a repeat, also of another worker, with the run that the first one started, even
// when that has ended meanwhile.
func (w requestedWorkflows) start(ctx context.Context, r request) (bool, error) {
	start, err := startOf(r)
	if err != nil {
		return false, err
	}
	start.Namespace = w.namespace
	_, err = w.client.WorkflowService().StartWorkflowExecution(ctx, start)
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &running) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("starting the backup of %s: %w", r.claim, err)
	}
	return true, nil
}

func startOf(r request) (*workflowservice.StartWorkflowExecutionRequest, error) {
	payloads := converter.GetDefaultDataConverter()
	input, err := payloads.ToPayloads(workflows.BackupVolumeInput{Namespace: r.claim.Namespace, Claim: r.claim.Name})
	if err != nil {
		return nil, err
	}
	texts, err := payloads.ToPayloads("asked for by annotation", r.value, r.claim.UID)
	if err != nil {
		return nil, err
	}
	summary, value, uid := texts.GetPayloads()[0], texts.GetPayloads()[1], texts.GetPayloads()[2]
	return &workflowservice.StartWorkflowExecutionRequest{
		RequestId:                r.id(),
		WorkflowId:               backup.WorkflowID(r.claim),
		WorkflowType:             &commonpb.WorkflowType{Name: workflows.BackupVolumeName},
		TaskQueue:                &taskqueuepb.TaskQueue{Name: backup.ControlQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
		Input:                    input,
		WorkflowIdReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowIdConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		Memo:                     &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoRequest: value, memoClaim: uid}},
		UserMetadata:             &sdkpb.UserMetadata{Summary: summary},
		Priority:                 &commonpb.Priority{PriorityKey: workflows.RequestPriority, FairnessKey: r.claim.Namespace},
	}, nil
}
