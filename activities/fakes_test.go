package activities

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/mount"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// run is the run ID that the test environment gives to activities.
const run = "default-test-run-id"

// agent is a node's activities over fakes of all that they work with.
type agent struct {
	*Node
	repository *fakeRepository
	// others are repositories beside the default one, by name.
	others   map[string]*fakeRepository
	place    *fakePlace
	workflow *fakeWorkflow
	stream   *fakeStream
	// stopping is closed when the agent stops.
	stopping chan struct{}
	queue    fakeQueue
	// forsaken are the leases that Temporal cancelled.
	forsaken []Leftover
}

func newAgent(t *testing.T, slots int) *agent {
	t.Helper()
	a := &agent{repository: &fakeRepository{}, place: newFakePlace(), workflow: &fakeWorkflow{}, stream: &fakeStream{}}
	a.Node = NewNode(Settings{
		Node: "node-a", Slots: slots, StateDir: t.TempDir(),
		DrainTimeout: 20 * time.Second, StallTimeout: 5 * time.Minute, Patience: 6 * time.Hour,
	}, a.workflow,
		func(string) (Access, error) { return Access{Mapper: fakeMapper{}, Stream: a.stream}, nil },
		func(name string) (Repository, error) {
			if r, ok := a.others[name]; ok {
				return r, nil
			}
			return a.repository, nil
		},
		func(context.Context, string, string) (Place, error) { return a.place, nil },
		func(_ context.Context, l Leftover) error {
			a.forsaken = append(a.forsaken, l)
			return nil
		}, &a.queue)
	return a
}

// hold gives an attempt a slot with a mapped clone in it.
func (a *agent) hold(t *testing.T, attempt int) StepInput {
	t.Helper()
	in := StepInput{
		Lease: Lease{Run: run, Attempt: attempt},
		Volume: backup.Volume{
			Claim: backup.Claim{Namespace: "shop", Name: "data", UID: "claim-uid"}, PV: "pv", Kind: backup.KindRBDFilesystem, FSType: "ext4",
		},
		Snapshot: backup.Snapshot{Name: backup.SnapshotName(run), Time: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)},
	}
	h, err := a.slots.acquire(t.Context(), in.Lease, filepath.Join(a.settings.StateDir, in.Lease.String()))
	require.NoError(t, err)
	require.NoError(t, h.occupy(t.Context(), a.openPlace))
	t.Cleanup(func() { _ = a.slots.giveBack(context.Background(), h) })
	return in
}

// call is an activity that Temporal runs. It ends with ctx, like one that was
// cancelled, and sees stopping closed when its worker stops.
type call struct {
	ctx      context.Context
	stopping chan struct{}
	// before is what the attempt before this one reported last.
	before *backup.Progress
	// beats are what it reports.
	beats func(backup.Progress)
}

func (c call) run(t *testing.T, does any, in ...any) (converter.EncodedValue, error) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := suite.NewTestActivityEnvironment()
	env.SetTestTimeout(24 * time.Hour)
	if c.ctx != nil {
		env.SetWorkerOptions(worker.Options{BackgroundActivityContext: c.ctx})
	}
	if c.stopping != nil {
		env.SetWorkerStopChannel(c.stopping)
	}
	if c.before != nil {
		env.SetHeartbeatDetails(*c.before)
	}
	if c.beats != nil {
		env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
			var p backup.Progress
			require.NoError(t, details.Get(&p))
			c.beats(p)
		})
	}
	env.RegisterActivity(does)
	return env.ExecuteActivity(does, in...)
}

// pass lets time pass, which in synctest's bubble is at once.
func pass(d time.Duration) { <-time.After(d) }

// requireCancelled wants an activity to have ended with the bare error that
// Temporal takes for an orderly cancellation. The test environment, which cannot
// ask an activity to end, passes it on as it is.
func requireCancelled(t *testing.T, err error) {
	t.Helper()
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, context.Canceled.Error(), failure.Message())
	require.Empty(t, failure.Unwrap())
	require.Equal(t, "", strings.TrimPrefix(failure.Type(), "errorString"), "it has no class")
}

// inUse is how many volumes the node works on.
func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// fakeWorkflow receives signals.
type fakeWorkflow struct {
	mu      sync.Mutex
	signals []any
	// silent is what signals that arrive are answered with, for a while.
	silent []error
}

func (w *fakeWorkflow) SignalWorkflow(_ context.Context, _, _, _ string, arg any) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.signals = append(w.signals, arg)
	if len(w.silent) > 0 {
		err, w.silent = w.silent[0], w.silent[1:]
	}
	return err
}

func (w *fakeWorkflow) received() []any {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.signals)
}

// fakeMapper maps nothing.
type fakeMapper struct{}

func (fakeMapper) Name() string { return mount.NBD }
func (fakeMapper) Map(_ context.Context, _ command.Runner, image backup.Image, dir string) (mount.Device, error) {
	return mount.Device{Path: "/dev/" + image.Name, Mapper: mount.NBD, Dir: dir}, nil
}
func (fakeMapper) Unmap(context.Context, command.Runner, string) error { return nil }

// fakeStream streams nothing, and accounts for as many bytes, or the failure, as
// a test says.
type fakeStream struct {
	bytes   uint64
	failure error
}

func (*fakeStream) Command(q StreamRequest) []string {
	return []string{"stream", q.Image.String() + "@" + q.Snapshot}
}

func (s *fakeStream) Measure(q StreamRequest) command.Command {
	return command.Command{Name: "measure", Args: []string{q.Image.String() + "@" + q.Snapshot}}
}

func (s *fakeStream) Report(string) (uint64, error) { return s.bytes, nil }

func (s *fakeStream) Failure(string) error { return s.failure }

// fakePlace remembers what was run in it.
type fakePlace struct {
	mu   sync.Mutex
	ran  []string
	done chan struct{}
	once sync.Once
	// root is the directory that stands for the place's root.
	root string
	// brokenDevice lets the device answer no more.
	brokenDevice bool
	// closing, when set, is waited for by Close.
	closing chan struct{}
	// stays is how many times Close fails.
	stays int
}

func newFakePlace() *fakePlace { return &fakePlace{done: make(chan struct{})} }

func (p *fakePlace) Run(_ context.Context, c command.Command) (command.Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ran = append(p.ran, c.Name+" "+strings.Join(c.Args, " "))
	if c.Name == "dd" && p.brokenDevice {
		return command.Result{ExitCode: 1}, &command.ExitError{Name: "dd", Code: 1, Stderr: "Input/output error"}
	}
	return command.Result{}, nil
}

func (p *fakePlace) Root() string { return p.root }

func (p *fakePlace) Done() <-chan struct{} { return p.done }

// end takes the place away, as the death of its processes does.
func (p *fakePlace) end() { p.once.Do(func() { close(p.done) }) }

func (p *fakePlace) Close(context.Context) error {
	if p.closing != nil {
		<-p.closing
	}
	if p.stays > 0 {
		p.stays--
		return errors.New("something is in the way")
	}
	p.end()
	return nil
}

func (p *fakePlace) open() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// fakeRepository is a repository in memory.
type fakeRepository struct {
	address string
	// gone says that it does not answer.
	gone    bool
	backups []fakeBackup
	// locked says that a killed restic left its lock.
	locked bool
	// busy says that other backups are being made, so that nothing can be
	// forgotten.
	busy bool
	// unreadable are files that the next backup cannot read.
	unreadable []string
	// trouble is what the next backups meet instead of storing anything.
	trouble []func(ctx context.Context, progress func(backup.Progress)) error
	// made counts the backups that were ever stored.
	made int
	// streamed is how many bytes the repository gets of the next programs.
	streamed []uint64
	// asked is the last request.
	asked restic.Request
	// found is what each check finds, the last one again and again.
	found []backup.Damage
	// touched are the backups that it touches.
	touched []string
	locks   []backup.Lock
	// dumped is the content of the disk in every backup, listed its files, and restored
	// what each restore of files does.
	dumped   []byte
	listed   []restic.Entry
	restored func() (restic.Restored, error)
}

func (r *fakeRepository) Dump(_ context.Context, _ command.Runner, _, _ string, w io.Writer) error {
	_, err := w.Write(r.dumped)
	return err
}

func (r *fakeRepository) Node(context.Context, command.Runner, string, string) (restic.Node, error) {
	return restic.Node{Type: "dir", Mode: 0o755}, nil
}

func (r *fakeRepository) List(_ context.Context, _ command.Runner, _, _ string, _ bool, each func(restic.Entry)) error {
	for _, e := range r.listed {
		each(e)
	}
	return nil
}

func (r *fakeRepository) Restore(context.Context, command.Runner, restic.RestoreRequest, func(backup.Progress)) (restic.Restored, error) {
	return r.restored()
}

type fakeBackup struct {
	restic.Snapshot
	// misses says that files are missing from it, whether it is marked or not.
	misses bool
}

// put stores a backup of the run, as an attempt did that nobody heard of.
func (r *fakeRepository) put(misses bool) string {
	r.made++
	id := fmt.Sprintf("backup-%d", r.made)
	r.backups = append(r.backups, fakeBackup{Snapshot: restic.Snapshot{ID: id, Tags: []string{backup.RunTag(run)}}, misses: misses})
	return id
}

// ids are the backups that the repository lists, with a mark on partial ones.
func (r *fakeRepository) ids() []string {
	var ids []string
	for _, b := range r.backups {
		id := b.ID
		if b.Partial() {
			id += " (partial)"
		}
		ids = append(ids, id)
	}
	return ids
}

func (r *fakeRepository) Ensure(context.Context, command.Runner) error { return nil }

func (r *fakeRepository) BackUp(ctx context.Context, _ command.Runner, q restic.Request, progress func(backup.Progress)) (backup.Stored, error) {
	if len(r.trouble) > 0 {
		trouble := r.trouble[0]
		r.trouble = r.trouble[1:]
		return backup.Stored{}, trouble(ctx, progress)
	}
	if r.locked {
		return backup.Stored{}, backup.Fail(backup.RepositoryLocked, "a lock", "", nil)
	}
	r.asked = q
	id := r.put(len(r.unreadable) > 0)
	r.backups[len(r.backups)-1].Tags = q.Tags
	stored := backup.Stored{ID: id, Time: q.Time, Unread: r.unreadable, UnreadCount: len(r.unreadable)}
	if len(q.Command) > 0 {
		stored.BytesProcessed, r.streamed = r.streamed[0], r.streamed[1:]
		r.backups[len(r.backups)-1].Summary = &restic.SnapshotSummary{BytesProcessed: stored.BytesProcessed}
	}
	if stored.Partial() {
		return stored, backup.Fail(backup.BackupPartial, "files are missing", "", nil)
	}
	return stored, nil
}

func (r *fakeRepository) Complete(_ context.Context, _ command.Runner, _ restic.Request, id string, _ func(backup.Progress)) (bool, error) {
	for _, b := range r.backups {
		if b.ID == id {
			return !b.misses, nil
		}
	}
	return false, errors.New("there is no backup " + id)
}

func (r *fakeRepository) Snapshots(_ context.Context, _ command.Runner, f restic.Filter) ([]restic.Snapshot, error) {
	if r.gone {
		return nil, errors.New("it does not answer")
	}
	var found []restic.Snapshot
	for _, b := range r.backups {
		if slices.ContainsFunc(f.Tags, func(tag string) bool { return !b.HasTag(tag) }) {
			continue
		}
		found = append(found, b.Snapshot)
	}
	return found, nil
}

func (r *fakeRepository) MarkPartial(_ context.Context, _ command.Runner, id string) (string, error) {
	for i, b := range r.backups {
		if b.ID == id {
			r.backups[i].Tags = append(slices.Clone(b.Tags), backup.TagPartial)
			r.backups[i].ID += "-marked"
			return r.backups[i].ID, nil
		}
	}
	return "", errors.New("there is no backup " + id)
}

func (r *fakeRepository) Tag(_ context.Context, _ command.Runner, ids, add, remove []string) error {
	for i, b := range r.backups {
		if slices.Contains(ids, b.ID) {
			tags := slices.DeleteFunc(slices.Clone(b.Tags), func(tag string) bool { return slices.Contains(remove, tag) })
			r.backups[i].Tags = append(tags, add...)
			r.backups[i].Original = b.Origin()
			r.backups[i].ID += "-tagged"
		}
	}
	return nil
}

func (r *fakeRepository) RemoveLocksOf(ctx context.Context, run command.Runner, _ string, _ ...backup.Lock) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	r.locked = false
	_, err := run.Run(ctx, command.Command{Name: "restic", Args: []string{"unlock"}})
	return err == nil, err
}

func (r *fakeRepository) Forget(_ context.Context, _ command.Runner, ids ...string) error {
	if r.busy {
		return backup.Fail(backup.RepositoryLocked, "another restic works on the repository", "", nil)
	}
	r.backups = slices.DeleteFunc(r.backups, func(b fakeBackup) bool { return slices.Contains(ids, b.ID) })
	return nil
}

// fakeQueue is what backups take turns with.
type fakeQueue struct {
	// exclusive is whether work goes on that needs this repository for itself.
	exclusive  bool
	repository string
	unlocked   int
}

func (q *fakeQueue) Exclusive(_ context.Context, repository string) bool {
	return q.exclusive && q.repository == repository
}

func (q *fakeQueue) Unlock(_ context.Context, repository string) error {
	if q.repository == repository {
		q.unlocked++
	}
	return nil
}
