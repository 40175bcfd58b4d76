package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// working are the steps that speak to Ceph or are restic's: what they take is not
// Ammonite's.
var working = map[string]bool{
	"Snapshot": true, "Clone": true, "Map": true, "Fsck": true, "Mount": true,
	"Restic": true, "Unmount": true, "Unmap": true, "Cleanup": true,
}

// span is a piece of time.
type span struct{ begin, end time.Time }

// cost is what the history of a run tells.
type cost struct {
	events int
	// overhead is how long the run took, without the steps that do work and without
	// waiting for a slot; held is when it had the slot.
	overhead time.Duration
	held     span
	// Of the overhead: how long tasks waited for a worker, how long decisions took, and
	// steps that are Ammonite's own.
	queued, decided, stepped time.Duration
}

// read reads the history of a run.
func read(events []*historypb.HistoryEvent) cost {
	c := cost{events: len(events)}
	names, scheduled, begun := map[int64]string{}, map[int64]time.Time{}, map[int64]time.Time{}
	var asked time.Time
	var busy []span
	for _, event := range events {
		at := event.GetEventTime().AsTime()
		switch event.GetEventType() {
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
			scheduled[event.GetEventId()] = at
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED:
			task := event.GetWorkflowTaskStartedEventAttributes().GetScheduledEventId()
			begun[task] = at
			c.queued += at.Sub(scheduled[task])
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
			c.decided += at.Sub(begun[event.GetWorkflowTaskCompletedEventAttributes().GetScheduledEventId()])
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
			name := event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName()
			names[event.GetEventId()], scheduled[event.GetEventId()] = name, at
			if name == "HoldSlot" {
				asked = at
			}
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED:
			step := event.GetActivityTaskStartedEventAttributes().GetScheduledEventId()
			begun[step] = at
			if names[step] != "HoldSlot" {
				c.queued += at.Sub(scheduled[step])
			}
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
			if event.GetWorkflowExecutionSignaledEventAttributes().GetSignalName() == activities.SlotGranted {
				c.held.begin = at
				busy = append(busy, span{asked, at})
			}
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			step := event.GetActivityTaskCompletedEventAttributes().GetScheduledEventId()
			switch {
			case names[step] == "HoldSlot":
				c.held.end = at
			case working[names[step]]:
				busy = append(busy, span{begun[step], at})
			default:
				c.stepped += at.Sub(begun[step])
			}
		}
	}
	whole := events[len(events)-1].GetEventTime().AsTime().Sub(events[0].GetEventTime().AsTime())
	c.overhead = whole - covered(busy)
	return c
}

// covered is how much time spans cover that may overlap.
func covered(spans []span) (sum time.Duration) {
	slices.SortFunc(spans, func(a, b span) int { return a.begin.Compare(b.begin) })
	var until time.Time
	for _, s := range spans {
		if s.begin.Before(until) {
			s.begin = until
		}
		if s.end.After(s.begin) {
			sum += s.end.Sub(s.begin)
			until = s.end
		}
	}
	return sum
}

// costs reads the histories of all backups.
func costs(ctx context.Context, s *system.System) (all []cost, err error) {
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = '" + workflows.BackupVolumeName + "'", PageSize: 200}
	for {
		page, err := s.Client.ListWorkflow(ctx, request)
		if err != nil {
			return nil, err
		}
		for _, info := range page.GetExecutions() {
			var events []*historypb.HistoryEvent
			id := info.GetExecution()
			history := s.Client.GetWorkflowHistory(ctx, id.GetWorkflowId(), id.GetRunId(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
			for history.HasNext() {
				event, err := history.Next()
				if err != nil {
					return nil, err
				}
				events = append(events, event)
			}
			all = append(all, read(events))
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return all, nil
		}
	}
}

// report prints what the backups cost.
func (b *bench) report(ctx context.Context, s *system.System) error {
	all, err := costs(ctx, s)
	if err != nil {
		return err
	}
	if len(all) != b.volumes {
		return fmt.Errorf("there are %d backups of %d volumes", len(all), b.volumes)
	}
	overheads := make([]time.Duration, len(all))
	var queued, decided, stepped time.Duration
	events := 0
	var held time.Duration
	first, last := all[0].held.begin, all[0].held.end
	for i, c := range all {
		overheads[i] = c.overhead
		queued, decided, stepped = queued+c.queued, decided+c.decided, stepped+c.stepped
		events = max(events, c.events)
		held += c.held.end.Sub(c.held.begin)
		if c.held.begin.Before(first) {
			first = c.held.begin
		}
		if c.held.end.After(last) {
			last = c.held.end
		}
	}
	slices.Sort(overheads)
	value("sweep-overhead-p50-ms", float64(overheads[len(all)/2].Milliseconds()), 300)
	value("sweep-overhead-p99-ms", float64(overheads[len(all)*99/100].Milliseconds()), 1000)
	n := time.Duration(len(all))
	fmt.Fprintf(os.Stderr, "         on average %s, of which tasks waited for a worker %s, decisions took %s, and Ammonite's own steps %s\n",
		mean(overheads), queued/n, decided/n, stepped/n)
	value("history-events-per-volume", float64(events), 60)
	fmt.Printf("ratio slots-busy %.3f (goal >= 0.90)\n", held.Seconds()/(float64(nodes*b.slots)*last.Sub(first).Seconds()))
	return nil
}

func mean(times []time.Duration) (m time.Duration) {
	for _, t := range times {
		m += t
	}
	return m / time.Duration(len(times))
}

func value(name string, v, goal float64) { fmt.Printf("value %s %.3g (goal <= %g)\n", name, v, goal) }
