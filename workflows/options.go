package workflows

import (
	"cmp"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Every timeout of Ammonite's workflows is here, with its reason. Nothing limits
// how long a backup may take: a large volume is not a fault.

// passing is how faults that pass by themselves are retried. They are bounded
// by each activity's ScheduleToClose timeout, not by a count, because a restart
// of a worker counts as an attempt too.
var passing = &temporal.RetryPolicy{
	InitialInterval:    time.Second,
	BackoffCoefficient: 2,
	MaximumInterval:    30 * time.Second,
}

// apiCall is for the control side's short steps.
func apiCall(summary string) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		TaskQueue: backup.ControlQueue,
		// Ceph operations end with an error after a minute by themselves, see
		// ceph.Connect; a step is at most two of them.
		StartToCloseTimeout: 3 * time.Minute,
		// An outage of the API server, Ceph or its monitors that lasts longer
		// than this fails the run; its snapshot would be too old to be worth it.
		ScheduleToCloseTimeout: time.Hour,
		// They heartbeat once a second: a control worker that died is replaced
		// soon.
		HeartbeatTimeout:    10 * time.Second,
		RetryPolicy:         passing,
		WaitForCancellation: true,
		Summary:             summary,
	}
}

// note is for marks on Kubernetes objects that the backup does not depend on.
func note(summary string) workflow.ActivityOptions {
	options := apiCall(summary)
	// Short, so that an API server that is down does not hold up the backup.
	options.ScheduleToCloseTimeout = 2 * time.Minute
	return options
}

// cleaning is for the removal of what a run made.
func cleaning(summary string) workflow.ActivityOptions {
	options := apiCall(summary)
	// A node that is cut off or frozen can hold its clone for that long before the
	// run leaves it to a reconciliation: until it ends, the volume is not backed up
	// again.
	options.ScheduleToCloseTimeout = time.Hour
	return options
}

// rollingBack is for making a volume what it was.
func rollingBack(summary string) workflow.ActivityOptions {
	options := apiCall(summary)
	// Ceph goes through all objects of the image, however large that is.
	options.StartToCloseTimeout = 24 * time.Hour
	// A node that is cut off or frozen can have the volume open for long, and so can a pod
	// that somebody has started meanwhile. Nothing else helps the volume.
	options.ScheduleToCloseTimeout = 3 * 24 * time.Hour
	return options
}

// reconciling is cleaning that nobody waits for.
func reconciling(summary string) workflow.ActivityOptions {
	options := apiCall(summary)
	// An outage of a weekend, and a day for somebody to look.
	options.ScheduleToCloseTimeout = 3 * 24 * time.Hour
	options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 5 * time.Minute}
	return options
}

// reconcilingForNow is cleaning that the next look at everything does as well.
func reconcilingForNow(summary string) workflow.ActivityOptions {
	options := reconciling(summary)
	// Shorter than the time between two such looks, which none may miss.
	options.ScheduleToCloseTimeout = 30 * time.Minute
	return options
}

// lookingEverywhere is for a look through a whole Ceph cluster.
func lookingEverywhere(summary string) workflow.ActivityOptions {
	options := apiCall(summary)
	// Ten thousand images take seconds, but as many subvolumes take minutes: Ceph's
	// manager answers for one after the other.
	options.StartToCloseTimeout = 20 * time.Minute
	options.ScheduleToCloseTimeout = 30 * time.Minute
	return options
}

// slot is for HoldSlot. Volumes that wait get slots by the priority of their run,
// and within one their namespaces in turn.
func slot(queue, summary string, heartbeat time.Duration, priority temporal.Priority) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		TaskQueue: queue,
		// Longer than any backup: a lease ends by Unmap, by cancellation or by
		// silence. There is no ScheduleToStart timeout, because waiting here is
		// the backlog.
		StartToCloseTimeout: 90 * 24 * time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    time.Second,
			BackoffCoefficient: 2,
			MaximumInterval:    10 * time.Second,
			// A node that fell silent lost the volume: the same lease must not
			// be taken up by another.
			NonRetryableErrorTypes: []string{"TemporalTimeout:Heartbeat", "TemporalTimeout:StartToClose"},
		},
		WaitForCancellation: true,
		Summary:             summary,
		Priority:            priority,
	}
}

// nodeStep is for the steps on a node that holds a slot.
func nodeStep(node, summary string, heartbeat time.Duration) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		TaskQueue: backup.NodeQueue(node),
		// The node holds a slot for this volume, so it polls; when it does not
		// start a step for so long, it is gone. Temporal never retries this.
		ScheduleToStartTimeout: 2 * time.Minute,
		// Longer than any backup: what ends a step is silence, or restic that
		// stands still.
		StartToCloseTimeout: 90 * 24 * time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         passing,
		WaitForCancellation: true,
		Summary:             summary,
	}
}

// nodeQuick is for the steps on a node that do not depend on the volume's size.
func nodeQuick(node, summary string, heartbeat time.Duration) workflow.ActivityOptions {
	options := nodeStep(node, summary, heartbeat)
	// Mapping or mounting that fails for so long fails the run.
	options.ScheduleToCloseTimeout = time.Hour
	return options
}

// nodeTeardown is for taking away what a node holds. What does not go in that
// time is left to the end of the lease, which tears down by force.
func nodeTeardown(node, summary string, heartbeat time.Duration) workflow.ActivityOptions {
	options := nodeQuick(node, summary, heartbeat)
	options.ScheduleToCloseTimeout = 3 * time.Minute
	return options
}

// planning is for PlanSweep.
func planning(namespace string) workflow.ActivityOptions {
	options := apiCall(cmp.Or(namespace, "all namespaces"))
	// Thousands of claims in pages from an API server that is busy.
	options.StartToCloseTimeout = 5 * time.Minute
	// The next sweep looks anew; this one waits no longer than a person would.
	options.ScheduleToCloseTimeout = 30 * time.Minute
	return options
}

// finding is for a look into repositories.
func finding(summary string) workflow.ActivityOptions {
	options := apiCall(summary)
	// restic reads the index of a large repository over a slow network, of several one
	// after the other, and the tables of a disk.
	options.StartToCloseTimeout = 30 * time.Minute
	return options
}

// asking is for looks at how things are, in a sweep.
func asking(summary string) workflow.ActivityOptions {
	return apiCall(summary)
}

// keeping is for work on a repository as a whole.
func keeping(summary string) workflow.ActivityOptions {
	options := apiCall(summary)
	// What restic reads and writes anew may be terabytes; it ends by itself when the
	// storage does not answer.
	options.StartToCloseTimeout = 7 * 24 * time.Hour
	// Storage that fails for so long fails the run; the next one does the same.
	options.ScheduleToCloseTimeout = 7 * 24 * time.Hour
	// Longer than the worker's sandbox lives on when the worker falls silent: restic
	// has ended when somebody else begins.
	options.HeartbeatTimeout = 30 * time.Second
	options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 5 * time.Minute}
	return options
}

// exclusiveStep is keeping for a step that needs the repository for itself. Whether it
// waits for that is for its workflow to say.
func exclusiveStep(summary string) workflow.ActivityOptions {
	options := keeping(summary)
	options.RetryPolicy.NonRetryableErrorTypes = []string{string(backup.RepositoryLocked)}
	return options
}

// Times of work that needs the repository for itself.
const (
	// firstTurn and longestTurn are for how long backups that have not begun are held
	// back: most of those under way end in a quarter of an hour, and hardly any takes
	// longer than four.
	firstTurn   = 15 * time.Minute
	longestTurn = 4 * time.Hour
	// firstQueueing and longestQueueing are between looks at whether other work has
	// ended that needs the repository for itself.
	firstQueueing   = 2 * time.Second
	longestQueueing = time.Minute
	// backupsTurn is how many times as long backups go on between two turns.
	backupsTurn = 3
	// unlockTries is how often a turn tries, some seconds each, before it looks at the
	// locks again.
	unlockTries = 3
	// exclusivePatience is when such work gives up; the schedule starts it again.
	exclusivePatience = 36 * time.Hour
)

// Times of a sweep.
const (
	// sweepPage is how many volumes are looked up at once: no payload becomes
	// large.
	sweepPage = 200
	// sweepLook is how often a sweep that waits for room looks again at the volumes
	// and at Ceph.
	sweepLook = time.Minute
	// sweepMargin is the part of the period that a sweep leaves to the schedule's
	// jitter, so that it has ended when the next one is due.
	sweepMargin = 10
)

// giveUpAfter bounds how often a volume starts over on another node: after a
// day a fresh snapshot is worth more.
const giveUpAfter = 24 * time.Hour

// giveUpRestoringAfter is the same for a restore, for which somebody waits: it goes on
// where it was, but not without end.
const giveUpRestoringAfter = 7 * 24 * time.Hour

// longestPause bounds the pauses between attempts on different nodes.
const longestPause = 30 * time.Minute

// Priorities, 1 being the highest.
const (
	// defaultPriority is that of a run that was started without one: a person waits
	// for it.
	defaultPriority = 1
	// RequestPriority is for backups that tenants ask for.
	RequestPriority = 2
	// SweepPriority is for sweeps and the backups that they start.
	SweepPriority = 3
)

// nothing names the activities for the compiler; their fields are never used.
var (
	control *activities.Control
	node    *activities.Node
	upkeep  *activities.Upkeep
)
