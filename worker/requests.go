package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"k8s.io/client-go/util/workqueue"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

const (
	// requestPause lies between two backups that are asked for by annotations of
	// one claim, however often its tenant asks.
	requestPause = time.Minute
	// A request that cannot be honoured yet is looked at again after firstLook,
	// and then less and less often, down to once in every longestLook.
	firstLook   = 2 * time.Second
	longestLook = time.Minute
	// requestLimit bounds one look, requestsAtOnce how many there are at a time.
	requestLimit   = 30 * time.Second
	requestsAtOnce = 4
)

// errWaits says that the backup that was asked for has to wait for another one,
// whose snapshot may be older than the request.
var errWaits = errors.New("the claim is being backed up for another reason")

// requestedClaims is what requests need of Kubernetes.
type requestedClaims interface {
	Candidate(ctx context.Context, claim backup.Claim) (selection.Candidate, error)
	MarkAnswered(ctx context.Context, claim backup.Claim, value string) error
	Tell(ctx context.Context, claim backup.Claim, e backup.Event) error
}

// requestedBackups is what requests need of Temporal.
type requestedBackups interface {
	// newest is the newest run of the claim's backup; its zero value if there is
	// none that is known.
	newest(ctx context.Context, claim backup.Claim) (requestedRun, error)
	// start starts the backup that a request asks for. It reports false if another
	// one is under way. A repeat finds the run that the first one started, if that
	// is the newest.
	start(ctx context.Context, r request) (bool, error)
}

// requestedRun is a run as far as requests are concerned.
type requestedRun struct {
	// request is what the run was started for; its zero value for another reason.
	request request
	running bool
	started time.Time
}

// request is a value of the annotation backup-now that was not answered yet, cut
// to a bounded length as all of a candidate's.
type request struct {
	claim backup.Claim
	value string
}

// id identifies the request among all, and to Temporal the start that it leads to.
func (r request) id() string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(r.claim.UID+"/"+r.claim.String()+"/"+r.value)).String()
}

// requestOf returns what the tenant of a claim asks for, and whether that is
// anything.
func requestOf(c selection.Candidate) (request, bool) {
	value := c.OnClaim[backup.AnnotationBackupNow]
	return request{claim: c.Claim, value: value}, value != "" && value != c.OnClaim[backup.AnnotationBackupNowAnswered]
}

// requests starts the backups that tenants ask for by annotations. Several workers
// may do so at the same time.
type requests struct {
	// watched returns a claim as it was seen last, without asking.
	watched func(backup.Claim) (selection.Candidate, bool)
	claims  requestedClaims
	backups requestedBackups
	// prefix begins the names of annotations.
	prefix string
	log    *zap.Logger
	queue  workqueue.TypedRateLimitingInterface[backup.Claim]
}

func newRequests(watched func(backup.Claim) (selection.Candidate, bool), claims requestedClaims, backups requestedBackups, prefix string, log *zap.Logger) *requests {
	again := workqueue.NewTypedItemExponentialFailureRateLimiter[backup.Claim](firstLook, longestLook)
	return &requests{watched: watched, claims: claims, backups: backups, prefix: prefix, log: log, queue: workqueue.NewTypedRateLimitingQueue(again)}
}

// look has a claim looked at that appeared or changed.
func (r *requests) look(claim backup.Claim) {
	// A claim that is made again is another one, but waits in the same place.
	claim.UID = ""
	if c, ok := r.watched(claim); ok {
		if _, asks := requestOf(c); asks {
			r.queue.Add(claim)
		}
	}
}

// run answers requests until the context ends.
func (r *requests) run(ctx context.Context) {
	defer context.AfterFunc(ctx, r.queue.ShutDown)()
	var all sync.WaitGroup
	for range requestsAtOnce {
		all.Go(func() {
			for {
				claim, ended := r.queue.Get()
				if ended {
					return
				}
				r.handle(ctx, claim)
				r.queue.Done(claim)
			}
		})
	}
	all.Wait()
}

// handle answers the request of one claim, or has it looked at again later.
func (r *requests) handle(ctx context.Context, claim backup.Claim) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	pause, err := r.answer(ctx, claim)
	switch {
	case errors.Is(err, errWaits):
		r.queue.AddRateLimited(claim)
	case err != nil:
		r.log.Warn("a request for a backup could not be answered yet", zap.Stringer("claim", claim), zap.Error(err))
		r.queue.AddRateLimited(claim)
	case pause > 0:
		r.queue.AddAfter(claim, pause)
	default:
		r.queue.Forget(claim)
	}
}

// answer starts the backup that a claim asks for, or refuses it, and marks the
// request as answered. It returns a pause if the claim has to be looked at again
// after it.
func (r *requests) answer(ctx context.Context, claim backup.Claim) (pause time.Duration, err error) {
	// What is watched may be older than an answer.
	c, err := r.claims.Candidate(ctx, claim)
	if backup.ClassOf(err) == backup.VolumeGone {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	asked, ok := requestOf(c)
	if !ok {
		return 0, nil
	}
	if why := r.refusal(c); why != "" {
		return 0, r.refuse(ctx, asked, why)
	}
	newest, err := r.backups.newest(ctx, c.Claim)
	if err != nil {
		return 0, err
	}
	if newest.request != asked {
		if pause, err := r.start(ctx, asked, newest); pause > 0 || err != nil {
			return pause, err
		}
	}
	// A worker that ends before this finds the run when it starts again.
	return 0, r.claims.MarkAnswered(ctx, c.Claim, asked.value)
}

// start starts the backup that is asked for, unless it has to wait.
func (r *requests) start(ctx context.Context, asked request, newest requestedRun) (pause time.Duration, err error) {
	if newest.running {
		return 0, errWaits
	}
	if newest.request.value != "" {
		if pause := requestPause - time.Since(newest.started); pause > 0 {
			return pause, nil
		}
	}
	started, err := r.backups.start(ctx, asked)
	if err != nil {
		return 0, err
	}
	if !started {
		return 0, errWaits
	}
	r.log.Info("started the backup that a tenant asked for", zap.Stringer("claim", asked.claim), zap.String("value", asked.value))
	return 0, nil
}

// refuse tells the tenant why there will be no backup. It is told once, also when
// several workers do so or one does so again.
func (r *requests) refuse(ctx context.Context, asked request, why string) error {
	text := fmt.Sprintf("The backup that the annotation %s%s=%q asks for is not made: %s.", r.prefix, backup.AnnotationBackupNow, asked.value, why)
	if err := r.claims.Tell(ctx, asked.claim, backup.Event{Run: asked.id(), Reason: backup.EventRefused, Text: text}); err != nil {
		return err
	}
	return r.claims.MarkAnswered(ctx, asked.claim, asked.value)
}

// refusal says why no backup of the claim is made even for its tenant; empty if
// one is. Young volumes are backed up: their tenant does not want to wait.
func (r *requests) refusal(c selection.Candidate) string {
	d := selection.Decide(c, false, selection.Policy{}, time.Now())
	says := func(on string, values selection.Annotations) string {
		return fmt.Sprintf("the %s has the annotation %s%s=%q", on, r.prefix, backup.AnnotationBackup, values[backup.AnnotationBackup])
	}
	switch {
	case c.Leaving:
		return "the claim or its namespace is being deleted"
	case d.State == selection.Unsupported:
		return c.Unfit
	case d.Wanted:
		return ""
	case d.Rule == selection.RuleOwnNamespace:
		return "volumes in Ammonite's own namespace are not backed up"
	case d.Rule == selection.RuleVolume:
		return says("PersistentVolume "+c.PV, c.OnVolume)
	case d.Rule == selection.RuleNamespace:
		return says("namespace "+c.Claim.Namespace, c.OnNamespace)
	case d.Rule == selection.RuleClaim:
		return says("claim", c.OnClaim)
	}
	return d.Reason
}
