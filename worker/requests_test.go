package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

const testPrefix = backup.DefaultAnnotationPrefix

// town is a cluster with one claim, and the Temporal that backs it up. Several
// workers see it.
type town struct {
	mu    sync.Mutex
	claim selection.Candidate
	gone  bool
	runs  []requestedRun
	told  []backup.Event
	// fail lets calls fail by name, that many times.
	fail map[string]int
	// workers hear of each change of the claim.
	workers []*requests
}

func newTown(annotations selection.Annotations) *town {
	return &town{fail: map[string]int{}, claim: selection.Candidate{
		Claim: backup.Claim{Namespace: "shop", Name: "data", UID: "uid-1"}, PV: "pv-1", Kind: backup.KindRBDBlock,
		Created: time.Now().Add(-time.Minute), OnClaim: annotations,
	}}
}

func (w *town) failing(call string) error {
	if w.fail[call] == 0 {
		return nil
	}
	w.fail[call]--
	return errors.New(call + " failed")
}

func (w *town) Candidate(context.Context, backup.Claim) (selection.Candidate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return selection.Candidate{}, backup.Fail(backup.VolumeGone, "no such claim", "", nil)
	}
	c := w.claim
	c.OnClaim = selection.Annotations{}
	for key, value := range w.claim.OnClaim {
		c.OnClaim[key] = value
	}
	return c, w.failing("Candidate")
}

func (w *town) watched(claim backup.Claim) (selection.Candidate, bool) {
	c, err := w.Candidate(context.Background(), claim)
	return c, err == nil
}

func (w *town) MarkAnswered(_ context.Context, _ backup.Claim, value string) error {
	w.mu.Lock()
	err := w.failing("MarkAnswered")
	w.mu.Unlock()
	if err == nil {
		w.annotate(backup.AnnotationBackupNowAnswered, value)
	}
	return err
}

func (w *town) Tell(_ context.Context, _ backup.Claim, e backup.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, e)
	return w.failing("Tell")
}

// annotate changes the claim, as its tenant or a worker does, and all workers hear
// of it.
func (w *town) annotate(name, value string) {
	w.mu.Lock()
	w.claim.OnClaim[name] = value
	w.mu.Unlock()
	for _, r := range w.workers {
		r.look(w.claim.Claim)
	}
}

func (w *town) newest(context.Context, backup.Claim) (requestedRun, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.runs) == 0 {
		return requestedRun{}, w.failing("newest")
	}
	return w.runs[len(w.runs)-1], w.failing("newest")
}

func (w *town) start(_ context.Context, r request) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing("start"); err != nil {
		return false, err
	}
	if n := len(w.runs); n > 0 {
		if w.runs[n-1].request.id() == r.id() {
			return true, nil
		}
		if w.runs[n-1].running {
			return false, nil
		}
	}
	w.runs = append(w.runs, requestedRun{request: r, running: true, started: time.Now()})
	return true, nil
}

// end ends the newest run.
func (w *town) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[len(w.runs)-1].running = false
}

// started are the values that runs were started for.
func (w *town) started() (values []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.runs {
		values = append(values, r.request.value)
	}
	return values
}

func (w *town) answered() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.claim.OnClaim[backup.AnnotationBackupNowAnswered]
}

// worker adds a worker that hears of the claim as it is, and serves requests until
// the test ends.
func (w *town) worker(t *testing.T) (r *requests, kill func()) {
	r = newRequests(w.watched, w, w, testPrefix, zap.NewNop())
	ctx, cancel := context.WithCancel(t.Context())
	w.workers = append(w.workers, r)
	done := make(chan struct{})
	go func() { r.run(ctx); close(done) }()
	r.look(w.claim.Claim)
	kill = func() { cancel(); <-done }
	t.Cleanup(kill)
	return r, kill
}

// inTown runs a test on a clock that runs when all wait.
func inTown(t *testing.T, annotations selection.Annotations, test func(t *testing.T, w *town)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newTown(annotations)) })
}

func asking(value string) selection.Annotations {
	return selection.Annotations{backup.AnnotationBackupNow: value}
}

// after lets time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestANewValueStartsABackupAndIsAnswered(t *testing.T) {
	inTown(t, asking("please"), func(t *testing.T, w *town) {
		w.worker(t)
		after(time.Second)
		require.Equal(t, []string{"please"}, w.started(), "also of a volume that is too young for sweeps")
		require.Equal(t, "please", w.answered())
		require.Equal(t, w.claim.Claim, w.runs[0].request.claim)
		w.end()
		after(time.Hour)
		w.annotate(backup.AnnotationBackupNow, "again")
		after(time.Second)
		require.Equal(t, []string{"please", "again"}, w.started())
		require.Empty(t, w.told)
	})
}

func TestNoRequestIsNoRequest(t *testing.T) {
	for name, annotations := range map[string]selection.Annotations{
		"no annotation":  {},
		"empty":          asking(""),
		"answered":       {backup.AnnotationBackupNow: "x", backup.AnnotationBackupNowAnswered: "x"},
		"emptied":        {backup.AnnotationBackupNow: "", backup.AnnotationBackupNowAnswered: "x"},
		"excluded, none": {backup.AnnotationBackup: "no"},
	} {
		t.Run(name, func(t *testing.T) {
			inTown(t, annotations, func(t *testing.T, w *town) {
				before := w.answered()
				w.worker(t)
				after(time.Hour)
				require.Empty(t, w.started())
				require.Equal(t, before, w.answered())
				require.Empty(t, w.told)
			})
		})
	}
}

func TestStrangeValuesAreValues(t *testing.T) {
	for _, value := range []string{"\x00\x1b[31m\n", "ünïcödé ☃", strings.Repeat("x", 256), " "} {
		inTown(t, asking(value), func(t *testing.T, w *town) {
			w.worker(t)
			after(time.Hour)
			require.Equal(t, []string{value}, w.started())
			require.Equal(t, value, w.answered())
		})
	}
}

func TestWorkersThatSeeTheSameRequestStartOneBackup(t *testing.T) {
	inTown(t, asking("x"), func(t *testing.T, w *town) {
		for range 5 {
			w.worker(t)
		}
		after(time.Second)
		w.end()
		after(time.Hour)
		require.Equal(t, []string{"x"}, w.started())
		require.Equal(t, "x", w.answered())
	})
}

func TestAWorkerThatIsLateWithAStartRepeatsIt(t *testing.T) {
	inTown(t, asking("x"), func(t *testing.T, w *town) {
		late := newRequests(w.watched, w, w, testPrefix, zap.NewNop())
		defer late.queue.ShutDown()
		asked, _ := requestOf(w.claim)
		none, err := w.newest(t.Context(), w.claim.Claim)
		require.NoError(t, err)
		w.worker(t)
		after(time.Second)
		w.end()
		// The other worker goes on from when there was no run.
		pause, err := late.start(t.Context(), asked, none)
		require.NoError(t, err)
		require.Zero(t, pause)
		require.Equal(t, []string{"x"}, w.started())
	})
}

func TestAStartThatWasNotMarkedIsNotMadeAgain(t *testing.T) {
	for _, ended := range []bool{false, true} {
		inTown(t, asking("x"), func(t *testing.T, w *town) {
			w.fail["MarkAnswered"] = 1
			_, kill := w.worker(t)
			synctest.Wait()
			kill()
			require.Equal(t, []string{"x"}, w.started())
			require.Empty(t, w.answered())
			if ended {
				w.end()
			}
			w.workers = nil
			w.worker(t)
			after(time.Second)
			require.Equal(t, []string{"x"}, w.started())
			require.Equal(t, "x", w.answered())
		})
	}
}

func TestARequestWaitsForABackupOfOlderData(t *testing.T) {
	for name, running := range map[string]request{
		"a sweep's":             {},
		"an earlier request's":  {claim: backup.Claim{Namespace: "shop", Name: "data", UID: "uid-1"}, value: "y"},
		"an earlier claim's, x": {claim: backup.Claim{Namespace: "shop", Name: "data", UID: "uid-0"}, value: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			inTown(t, asking("x"), func(t *testing.T, w *town) {
				w.runs = []requestedRun{{request: running, running: true, started: time.Now().Add(-time.Hour)}}
				w.worker(t)
				after(3 * time.Hour)
				require.Len(t, w.started(), 1)
				require.Empty(t, w.answered(), "it was not")
				w.end()
				after(longestLook + time.Second)
				require.Equal(t, []string{running.value, "x"}, w.started())
				require.Equal(t, "x", w.answered())
			})
		})
	}
}

func TestATenantWhoAsksAllTheTimeGetsABackupAMinute(t *testing.T) {
	inTown(t, asking("0"), func(t *testing.T, w *town) {
		w.worker(t)
		const minutes = 10
		for second := range minutes * 60 {
			w.annotate(backup.AnnotationBackupNow, fmt.Sprint(second+1))
			after(time.Second)
			w.end()
		}
		require.LessOrEqual(t, len(w.started()), minutes+1)
		require.GreaterOrEqual(t, len(w.started()), minutes/2, "but is served")
		after(2 * time.Minute)
		require.Equal(t, w.claim.OnClaim[backup.AnnotationBackupNow], w.answered(), "and in the end so is what was asked for last")
	})
}

func TestWhatCannotBeBackedUpIsRefusedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		change func(c *selection.Candidate)
		says   string
	}{
		"by the claim":         {func(c *selection.Candidate) { c.OnClaim[backup.AnnotationBackup] = "No" }, `the claim has the annotation ` + testPrefix + `backup="No"`},
		"by the namespace":     {func(c *selection.Candidate) { c.OnNamespace = selection.Annotations{backup.AnnotationBackup: "0"} }, `the namespace shop has the annotation ` + testPrefix + `backup="0"`},
		"by the volume":        {func(c *selection.Candidate) { c.OnVolume = selection.Annotations{backup.AnnotationBackup: "false"} }, `the PersistentVolume pv-1 has the annotation ` + testPrefix + `backup="false"`},
		"own namespace":        {func(c *selection.Candidate) { c.Own = true }, "Ammonite's own namespace"},
		"being deleted":        {func(c *selection.Candidate) { c.Leaving = true }, "being deleted"},
		"not Ceph's":           {func(c *selection.Candidate) { c.Unfit = "volume pv-1 is from the driver of somebody else" }, "from the driver of somebody else"},
		"not bound":            {func(c *selection.Candidate) { c.PV, c.Unfit = "", "the claim is not bound" }, "the claim is not bound"},
		"deleted and not Ceph": {func(c *selection.Candidate) { c.Leaving, c.Unfit = true, "it is not Ceph's" }, "being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			inTown(t, asking("x"), func(t *testing.T, w *town) {
				c.change(&w.claim)
				w.fail["MarkAnswered"] = 1
				w.worker(t)
				after(time.Hour)
				require.Empty(t, w.started())
				require.Equal(t, "x", w.answered())
				require.Len(t, w.told, 2, "the second time because the first could not be marked")
				require.Equal(t, w.told[0], w.told[1], "so the tenant sees one")
				require.Equal(t, backup.EventRefused, w.told[0].Reason)
				require.Contains(t, w.told[0].Text, testPrefix+`backup-now="x"`)
				require.Contains(t, w.told[0].Text, c.says)
				require.NotContains(t, w.told[0].Text, "..")

				w.annotate(backup.AnnotationBackupNow, "y")
				after(time.Second)
				require.NotEqual(t, w.told[0].Run, w.told[2].Run, "another request gets an answer of its own")
			})
		})
	}
}

func TestFailuresAreTriedAgain(t *testing.T) {
	for _, call := range []string{"newest", "start", "MarkAnswered"} {
		t.Run(call, func(t *testing.T) {
			inTown(t, asking("x"), func(t *testing.T, w *town) {
				w.fail[call] = 20
				w.worker(t)
				after(25 * time.Minute)
				require.Equal(t, []string{"x"}, w.started())
				require.Equal(t, "x", w.answered())
			})
		})
	}
}

func TestOutagesAreAskedAboutOnceAMinute(t *testing.T) {
	inTown(t, asking("x"), func(t *testing.T, w *town) {
		const many = 1 << 20
		w.fail["newest"] = many
		w.worker(t)
		after(time.Hour)
		require.InDelta(t, 65, many-w.fail["newest"], 5)
	})
}

func TestAClaimThatIsGoneAsksForNothing(t *testing.T) {
	inTown(t, asking("x"), func(t *testing.T, w *town) {
		w.fail["newest"] = 3
		w.worker(t)
		synctest.Wait()
		w.mu.Lock()
		w.gone = true
		w.mu.Unlock()
		after(time.Hour)
		require.Empty(t, w.started())
		require.Equal(t, 2, w.fail["newest"])
	})
}

func TestAClaimThatWasMadeAgainAsksAnew(t *testing.T) {
	inTown(t, asking("x"), func(t *testing.T, w *town) {
		w.runs = []requestedRun{{request: request{claim: backup.Claim{Namespace: "shop", Name: "data", UID: "uid-0"}, value: "x"}, started: time.Now().Add(-time.Hour)}}
		w.worker(t)
		after(time.Second)
		require.Equal(t, []string{"x", "x"}, w.started())
		require.Equal(t, "x", w.answered())
	})
}
