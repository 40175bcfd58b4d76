package schedules

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// SweepID is the name of the schedule of sweeps.
const SweepID = "sweep"

// schedule is one that there shall be.
type schedule struct {
	id      string
	timing  timing
	overlap enumspb.ScheduleOverlapPolicy
	// What it starts: Temporal appends the time to the ID.
	workflow, workflowID, summary string
	priority                      int32
	input                         any
}

// schedules are all that there shall be, if nothing is wrong.
func (c Config) schedules() ([]schedule, problems) {
	zone, wrong := c.zone()
	var all []schedule
	add := func(s schedule, enabled bool, more problems) {
		wrong = append(wrong, more...)
		if enabled {
			all = append(all, s)
		}
	}
	add(c.sweep(zone))
	upkeep := func(k upkeep) {
		add(k.retain())
		add(k.prune())
		add(k.verify())
	}
	upkeep(c.upkeep(zone))
	add(c.reconcile(zone))
	for _, name := range slices.Sorted(maps.Keys(c.Repositories)) {
		if err := backup.ValidateRepository(name); err != nil || backup.RepositoryKey(name) == "" {
			wrong.add(join("repositories", name), "it is not the name of a repository beside the default one")
			continue
		}
		k := c.upkeepOf(name, zone)
		upkeep(k)
		add(k.copy(func(name string) bool {
			_, listed := c.Repositories[name]
			return listed || name == backup.DefaultRepository
		}))
	}
	return all, wrong
}

func (c Config) sweep(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	timing, wrong := c.Sweep.resolve("sweep", zone, backup.Duration(defaultSweepPeriod))
	in := workflows.SweepInput{Policy: c.Sweep.Policy, Limits: c.Sweep.Limits, Load: c.Sweep.Load, Namespace: c.Sweep.Namespace}
	if in.Policy.Period != 0 {
		wrong.add("sweep.policy.period", "it follows from sweep.every or sweep.cron. Leave it out")
	}
	in.Policy.Period = backup.Duration(timing.period)
	if more := sweepProblems(in); len(more) > 0 {
		wrong = append(wrong, more...)
	} else if err := in.Validate(); err != nil {
		wrong.add("sweep", "%v", err)
	} else if interval := in.Policy.WithDefaults().Interval; timing.period > interval.Std() {
		wrong.add("sweep", "a sweep every %s cannot keep an interval of %s. Sweep more often, or raise sweep.policy.interval", backup.Duration(timing.period), interval)
	}
	return chore(SweepID, workflows.SweepName, "Starts the backups that are due", timing, in), timing.enabled, wrong
}

const defaultSweepPeriod = 15 * time.Minute

// sweepProblems checks every setting by itself, so that all that are wrong are
// named.
func sweepProblems(in workflows.SweepInput) problems {
	var wrong problems
	for name, part := range fieldsOf(reflect.ValueOf(in)) {
		settings := map[string]reflect.Value{name: part}
		if part.Kind() == reflect.Struct {
			settings = fieldsOf(part)
		}
		for setting, value := range settings {
			var only workflows.SweepInput
			path, into := name, fieldsOf(reflect.ValueOf(&only).Elem())[name]
			if part.Kind() == reflect.Struct {
				path, into = join(name, setting), fieldsOf(into)[setting]
			}
			into.Set(value)
			if err := only.Validate(); err != nil {
				wrong.add("sweep."+path, "%v", err)
			}
		}
	}
	return wrong
}

// proto is the schedule in Temporal's terms, without a state.
func (s schedule) proto() (*schedulepb.Schedule, error) {
	input, err := converter.GetDefaultDataConverter().ToPayloads(s.input)
	if err != nil {
		return nil, fmt.Errorf("encoding the input of schedule %s: %w", s.id, err)
	}
	summary, err := converter.GetDefaultDataConverter().ToPayload(s.summary)
	if err != nil {
		return nil, fmt.Errorf("encoding the summary of schedule %s: %w", s.id, err)
	}
	return &schedulepb.Schedule{
		Spec: s.timing.spec,
		Policies: &schedulepb.SchedulePolicies{
			OverlapPolicy: s.overlap,
			CatchupWindow: durationpb.New(s.timing.catchUp),
		},
		Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{
			WorkflowId:   s.workflowID,
			WorkflowType: &commonpb.WorkflowType{Name: s.workflow},
			TaskQueue:    &taskqueuepb.TaskQueue{Name: backup.ControlQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
			Input:        input,
			UserMetadata: &sdkpb.UserMetadata{Summary: summary},
			Priority:     &commonpb.Priority{PriorityKey: s.priority},
		}}},
	}, nil
}
