package activities

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/log"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/mount"
)

// Lease identifies one attempt of a run to process its volume on some node. Run
// is the ID of the workflow run; attempts count from 1.
type Lease struct {
	Run     string `json:"run"`
	Attempt int    `json:"attempt"`
}

// String is the name of the lease's directory on the node.
func (l Lease) String() string { return l.Run + "-" + strconv.Itoa(l.Attempt) }

// Place is where a lease's steps run: a private mount namespace that disappears
// with everything in it when the agent dies or falls silent.
type Place interface {
	command.Runner
	// Root is its root directory, as this process sees it while the place lasts.
	Root() string
	// Done is closed when the place is gone, whoever ended it.
	Done() <-chan struct{}
	// Close ends every process in the place and undoes every mount and mapping.
	Close(ctx context.Context) error
}

// heldSlot is a slot in use.
type heldSlot struct {
	lease Lease
	dir   string
	// ctx ends when the slot is given back or lost; its cause says why.
	ctx context.Context
	end context.CancelCauseFunc
	// released is closed by release: the volume needs the slot no more.
	released chan struct{}
	once     sync.Once
	// vacating says that the place ends because the lease does, and not the
	// other way round.
	vacating atomic.Bool

	// mu serialises the steps of the lease: a retry that Temporal starts while
	// the attempt before it still winds down waits for it.
	mu     sync.Mutex
	place  Place
	device mount.Device
	// unlocked says that no restic of the run can have left a lock since they were
	// removed.
	unlocked bool
}

// slots counts the volumes that this node works on, and knows which.
type slots struct {
	mu   sync.Mutex
	free int
	held map[Lease]*heldSlot
	// stuck are leases whose places are still there although they have ended.
	stuck map[Lease]bool
}

func newSlots(n int) *slots {
	return &slots{free: n, held: map[Lease]*heldSlot{}, stuck: map[Lease]bool{}}
}

// acquire takes a slot for the lease without waiting: a volume that waits here
// could have gone to another node. The slot is lost when ctx ends.
func (s *slots) acquire(ctx context.Context, l Lease, dir string) (*heldSlot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.held[l]; twice || s.stuck[l] || s.free == 0 {
		return nil, backup.Fail(backup.NodeBusy, "the node has no free slot", "The volume waits for one by itself.", nil)
	}
	s.free--
	ctx, end := context.WithCancelCause(ctx)
	h := &heldSlot{lease: l, dir: dir, ctx: ctx, end: end, released: make(chan struct{})}
	s.held[l] = h
	return h, nil
}

// count returns how many slots are in use and how many are not.
func (s *slots) count() (used, free int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held), s.free
}

// giveBack ends the lease's steps, removes its place, and only then frees the
// slot, so that a node never works on more volumes than it has slots.
func (s *slots) giveBack(ctx context.Context, h *heldSlot) error {
	h.end(errGivenBack)
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.vacate(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, h.lease)
	if err != nil {
		s.stuck[h.lease] = true
	}
	s.free++
	return err
}

// vacateAgain is how often a lease's place is torn down that did not go at first, for as
// long as the agent lives; its next start does the same.
const vacateAgain = time.Minute

// vacateLater tears down a lease's place once whatever is in the way has gone. Until
// then the lease is not taken again: a workflow that was reset asks for the same one.
func (s *slots) vacateLater(h *heldSlot, log log.Logger) {
	for {
		<-time.After(vacateAgain)
		ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
		h.mu.Lock()
		err := h.vacate(ctx)
		h.mu.Unlock()
		cancel()
		if err == nil {
			s.mu.Lock()
			delete(s.stuck, h.lease)
			s.mu.Unlock()
			log.Info("tore down what the lease held", "lease", h.lease.String())
			return
		}
		log.Error("still cannot tear down what the lease held", "lease", h.lease.String(), "error", err)
	}
}

// holding returns the slot that the lease holds on this node, or a LeaseLost
// failure.
func (s *slots) holding(l Lease) (*heldSlot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.held[l]
	if !ok {
		return nil, leaseLost(l, nil)
	}
	if h.ctx.Err() != nil {
		return nil, h.lost()
	}
	return h, nil
}

func leaseLost(l Lease, why error) error {
	return backup.Fail(backup.LeaseLost, fmt.Sprintf("the node no longer holds the slot of attempt %d", l.Attempt),
		"The volume starts over by itself.", why)
}

// Why slots are lost, beyond what Temporal says of the activity that held them.
var (
	errGivenBack  = errors.New("the slot was given back")
	errPlaceEnded = errors.New("the sandbox that the volume was mounted in ended")
	errNotMapped  = errors.New("the clone is not mapped")
	errBroken     = errors.New("the mapping of the clone broke")
)

// lost is the failure of a step whose slot is gone.
func (h *heldSlot) lost() error { return leaseLost(h.lease, context.Cause(h.ctx)) }

// enter begins a step of the lease; leave must be called at its end. The
// step's context ends with the activity's, or with a LeaseLost failure as its
// cause when the slot is lost.
func (h *heldSlot) enter(ctx context.Context) (stepCtx context.Context, leave func()) {
	h.mu.Lock()
	stepCtx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.ctx, func() { cancel(h.lost()) })
	return stepCtx, func() {
		stop()
		cancel(nil)
		h.mu.Unlock()
	}
}

// release tells HoldSlot that the volume needs its slot no more. It may be
// called again.
func (h *heldSlot) release() { h.once.Do(func() { close(h.released) }) }

// occupy gives the lease its place, once.
func (h *heldSlot) occupy(ctx context.Context, open func(ctx context.Context, dir, hostname string) (Place, error)) error {
	if h.place != nil {
		return nil
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("making the lease's directory: %w", err)
	}
	// restic writes the host name into its locks. It is the same for all
	// attempts of a run, so that a later one can clear up after an earlier one.
	p, err := open(ctx, h.dir, h.lease.Run)
	if err != nil {
		return err
	}
	h.place = p
	go func() {
		<-p.Done()
		if !h.vacating.Load() {
			h.end(errPlaceEnded)
		}
	}()
	return nil
}

// mapped returns a LeaseLost failure if no device was mapped in this place: what an
// earlier lease of the same name had is gone.
func (h *heldSlot) mapped() error {
	if h.device == (mount.Device{}) {
		return leaseLost(h.lease, errNotMapped)
	}
	return nil
}

// vacate closes the lease's place and removes its directory. It is idempotent.
func (h *heldSlot) vacate(ctx context.Context) error {
	if h.place != nil {
		h.vacating.Store(true)
		if err := h.place.Close(ctx); err != nil {
			return err
		}
		h.place = nil
	}
	return mount.RemoveLease(h.dir)
}
