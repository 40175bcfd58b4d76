package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

// Repository is what a node needs of a restic repository.
type Repository interface {
	restore.Repository
	Ensure(ctx context.Context, run command.Runner) error
	BackUp(ctx context.Context, run command.Runner, q restic.Request, progress func(backup.Progress)) (backup.Stored, error)
	Complete(ctx context.Context, run command.Runner, q restic.Request, id string, progress func(backup.Progress)) (bool, error)
	Snapshots(ctx context.Context, run command.Runner, f restic.Filter) ([]restic.Snapshot, error)
	MarkPartial(ctx context.Context, run command.Runner, id string) (newID string, err error)
	RemoveLocksOf(ctx context.Context, run command.Runner, host string, dead ...backup.Lock) (removed bool, err error)
	Forget(ctx context.Context, run command.Runner, ids ...string) error
}

// BackupProgress is the name of the signal by which the Restic activity tells
// the workflow, rarely, how far it is.
const BackupProgress = "backup-progress"

// Restic stores the mounted filesystem, or the image as a QCOW2 file, and returns
// the backup as the repository lists it.
//
// A repeat, on this node or another, first looks for a backup tagged with its
// run and takes that one, so a run never has two. A backup that misses files is
// kept, tagged as partial, and reported as a BackupPartial failure whose details
// hold the backup.
func (n *Node) Restic(ctx context.Context, in StepInput) (backup.Stored, error) {
	h, err := n.slots.holding(in.Lease)
	if err != nil {
		return backup.Stored{}, toFailure(err)
	}
	ctx, leave := h.enter(ctx)
	defer leave()
	track := newTracker(ctx, "Restic")
	ctx, stopWatching := n.watch(ctx, track)
	defer stopWatching()

	stored, err := n.store(ctx, h, in, track)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if errors.Is(err, errNotYourTurn) {
		return stored, toFailure(err)
	}
	if backup.ClassOf(err) == backup.RepositoryLocked {
		// Whoever holds the lock may be gone.
		if err := n.queue.Unlock(ctx, in.Repository); err != nil {
			activity.GetLogger(ctx).Warn("could not have the repository's locks looked at", "error", err)
		}
	}
	if err != nil && !handlings[backup.ClassOf(err)].final && !cancelled(err) {
		err = track.failed(ctx, err, n.settings.Patience)
	}
	return stored, toFailure(err, stored)
}

// errNotYourTurn sends a backup to the end of the queue. It does not count as a failure
// that has gone on for too long: the other work is bounded itself.
var errNotYourTurn = backup.Fail(backup.RepositoryLocked, "work that needs the repository for itself, such as a prune, has its turn",
	"The backup goes on by itself afterwards.", nil)

// watch heartbeats, tells the workflow the news, and ends the context when
// restic stalls: a volume may take as long as it needs, but not stand still.
func (n *Node) watch(ctx context.Context, track *tracker) (watched context.Context, stop func()) {
	run := activity.GetInfo(ctx).WorkflowExecution
	watched, cancel := context.WithCancelCause(ctx)
	stopBeating := heartbeat(ctx, func() any {
		if idle := track.stalled(); idle > n.settings.StallTimeout {
			cancel(fmt.Errorf("restic made no progress for %s; the repository or the Ceph cluster does not answer", idle.Round(time.Second)))
		}
		if news, ok := track.news(); ok {
			// Best effort: the heartbeat carries the same.
			_ = n.temporal.SignalWorkflow(ctx, run.ID, run.RunID, BackupProgress, news)
		}
		return track.details()
	})
	return watched, func() {
		stopBeating()
		cancel(nil)
	}
}

// storing is a node that stores into one repository.
type storing struct {
	*Node
	repository Repository
}

// store makes the run's backup unless it exists. BackUp itself proves that the
// repository lists what it made.
func (n *Node) store(ctx context.Context, h *heldSlot, in StepInput, track *tracker) (backup.Stored, error) {
	repository, err := n.repositories(in.Repository)
	if err != nil {
		return backup.Stored{}, err
	}
	return storing{n, repository}.store(ctx, h, in, track)
}

func (n storing) store(ctx context.Context, h *heldSlot, in StepInput, track *tracker) (backup.Stored, error) {
	if in.Volume.Kind.Mounted() && h.place == nil {
		return backup.Stored{}, leaseLost(in.Lease, nil)
	}
	if err := h.occupy(ctx, n.openPlace); err != nil {
		return backup.Stored{}, err
	}
	content, err := n.contentOf(h, in, activity.GetInfo(ctx).Attempt)
	if err != nil {
		return backup.Stored{}, err
	}
	request := restic.Request{
		Host: backup.Host(in.Volume.Kind, in.Volume.Claim),
		Path: in.Volume.Kind.Path(),
		Time: in.Snapshot.Time,
		Tags: backup.Tags(in.Volume, in.Lease.Run, in.Manifest),
	}
	content.describe(&request)
	advance := func(p backup.Progress) { track.advance(content.progress(p)) }
	var old []backup.Stored
	info := activity.GetInfo(ctx)
	reset := info.WorkflowExecution.RunID != in.Lease.Run
	again := in.Lease.Attempt > 1 || info.Attempt > 1 || reset
	if again && !h.unlocked {
		// The attempt before this one is dead: its node was given up for longer
		// than its sandbox lives. Work that waits for the repository would wait for
		// its lock, and this for that.
		if h.unlocked, err = n.repository.RemoveLocksOf(ctx, freshProcessIDs{h.place}, h.lease.Run); err != nil {
			return backup.Stored{}, err
		}
	}
	if n.queue.Exclusive(ctx, in.Repository) {
		return backup.Stored{}, errNotYourTurn
	}
	if again {
		good, others, err := n.ownBackups(ctx, h.place, request, content, advance)
		if err != nil {
			return backup.Stored{}, err
		}
		if good != nil {
			return *good, n.forget(ctx, h.place, others)
		}
		old = others
	}
	h.unlocked = false
	stored, err := n.backUp(ctx, h, request, content, advance)
	if err != nil && !stored.Partial() {
		return stored, err
	}
	if forgetErr := n.forget(ctx, h.place, old); forgetErr != nil {
		return stored, forgetErr
	}
	return stored, err
}

// backUp makes a backup. When files are missing from it, it comes with a
// BackupPartial failure, or not at all if the device is to blame.
func (n storing) backUp(ctx context.Context, h *heldSlot, request restic.Request, content content, progress func(backup.Progress)) (backup.Stored, error) {
	if n.settings.InitRepository {
		if err := n.repository.Ensure(ctx, h.place); err != nil {
			return backup.Stored{}, err
		}
	}
	stored, err := n.repository.BackUp(ctx, h.place, request, progress)
	if stored.Partial() {
		if broken := content.readable(ctx, h.place); broken != nil {
			return backup.Stored{}, n.discard(ctx, h, stored, broken)
		}
		return n.markPartial(ctx, h.place, stored, err)
	}
	if err != nil {
		return backup.Stored{}, n.afterFailure(ctx, h, content.blame(err))
	}
	if err := content.check(stored); err != nil {
		// Should it not be forgotten now, the next attempt finds that it is not
		// whole.
		return backup.Stored{}, errors.Join(err, n.forget(ctx, h.place, []backup.Stored{stored}))
	}
	return stored, nil
}

// ownBackups looks for what earlier attempts of the run stored: the good backup,
// if there is one, and those that are not. restic may have been killed before
// anybody heard that files are missing from a backup, so each is compared with
// the volume before it is taken for good.
func (n storing) ownBackups(ctx context.Context, place command.Runner, request restic.Request, content content, progress func(backup.Progress)) (good *backup.Stored, others []backup.Stored, err error) {
	run := backup.TagValue(request.Tags, backup.TagRun)
	found, err := n.repository.Snapshots(ctx, place, restic.Filter{Host: request.Host, Tags: []string{backup.RunTag(run)}})
	if err != nil {
		return nil, nil, err
	}
	for _, snapshot := range found {
		stored := snapshot.Stored()
		whole := false
		if good == nil && !stored.Partial() {
			if whole, err = content.whole(ctx, place, request, stored, progress); err != nil {
				return nil, nil, err
			}
		}
		if whole {
			good = &stored
		} else {
			others = append(others, stored)
		}
	}
	return good, others, nil
}

// forget removes backups of the run that a better one replaces. Where nodes may only
// add to the repository, that is left to retention, which knows them by their run.
func (n storing) forget(ctx context.Context, place command.Runner, replaced []backup.Stored) error {
	for _, old := range replaced {
		if err := n.repository.Forget(ctx, place, old.ID); err != nil && !errors.Is(err, restic.ErrAppendOnly) {
			return fmt.Errorf("forgetting %s, which another backup of the same run replaces: %w", old.ID, err)
		}
	}
	return nil
}

// markPartial tags a backup that misses files, and returns it with why.
func (n storing) markPartial(ctx context.Context, place command.Runner, stored backup.Stored, why error) (backup.Stored, error) {
	id, err := n.repository.MarkPartial(ctx, place, stored.ID)
	if err != nil {
		return stored, fmt.Errorf("tagging backup %s, which misses files, as partial: %w", stored.ID, err)
	}
	stored.ID = id
	return stored, why
}

// discard forgets a backup that misses files only because its mapping broke, and
// ends the lease: the volume starts over with another clone.
func (n storing) discard(ctx context.Context, h *heldSlot, stored backup.Stored, broken error) error {
	// Best effort: restic needs the repository for itself to forget, and to wait
	// for that here would keep a slot for a mapping that is of no use. The next
	// attempt compares what it finds with the volume, and forgets it then.
	_ = n.repository.Forget(ctx, h.place, stored.ID)
	h.end(errBroken)
	return backup.Fail(backup.LeaseLost, "the mapping of the clone broke while it was read", "The volume starts over by itself.", broken)
}

// unlockTimeout bounds the removal of a lock from a repository that may be the
// very thing that does not answer.
const unlockTimeout = 20 * time.Second

// afterFailure removes the lock that a killed restic left.
func (n storing) afterFailure(ctx context.Context, h *heldSlot, err error) error {
	var exit *command.ExitError
	killed := errors.As(err, &exit) && exit.Code < 0
	if !killed && ctx.Err() == nil {
		return err
	}
	unlockCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
	defer cancel()
	if _, unlockErr := n.repository.RemoveLocksOf(unlockCtx, freshProcessIDs{h.place}, h.lease.Run); unlockErr != nil && backup.ClassOf(unlockErr) != backup.LeaseLost {
		// The class stays that of what went wrong first.
		return fmt.Errorf("%w (and its lock could not be removed: %s)", err, unlockErr.Error())
	}
	return err
}

// freshProcessIDs runs programs in a process ID space of their own. restic takes
// a lock for stale when it is of the same host name, which is the run's alone,
// and no process has the ID in it; a process of this node must not happen to
// have the ID of one that died on another.
type freshProcessIDs struct{ place Place }

func (f freshProcessIDs) Run(ctx context.Context, c command.Command) (command.Result, error) {
	c.Args = append([]string{"--pid", "--fork", "--kill-child", "--", c.Name}, c.Args...)
	c.Name = "unshare"
	return f.place.Run(ctx, c)
}
