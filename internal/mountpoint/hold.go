package mountpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// pause is that between two looks at what is mounted.
const pause = 500 * time.Millisecond

var errEndedEarly = errors.New("the program that serves it has ended, although nobody unmounted it")

// hold returns when nothing is mounted at dir any more, or is to be.
func (s *session) hold(ctx context.Context, w Watch) error {
	look := time.NewTicker(pause)
	defer look.Stop()
	stop, busy := ctx.Done(), false
	for {
		select {
		case r := <-s.ended:
			return s.explain(r)
		case <-w.Force:
			s.patience = 0
			return nil
		case <-stop:
			stop = nil
		case <-look.C:
			if !mounted(s.dir) {
				s.patience = orderly
				return nil
			}
		}
		if stop != nil {
			continue
		}
		err := s.unmount(context.WithoutCancel(ctx), s.dir)
		switch {
		case err == nil:
			s.patience = orderly
			return nil
		case !errors.Is(err, errBusy):
			return err
		case !busy:
			busy = true
			w.Busy()
		}
	}
}

// explain says why a server ended: somebody unmounted dir, or it failed.
func (s *session) explain(r *server) error {
	switch {
	case r.err != nil:
		return fmt.Errorf("%s is no longer mounted: %w", s.Dir, r.err)
	case mounted(s.dir):
		return fmt.Errorf("%s is no longer mounted: %w", s.Dir, errEndedEarly)
	}
	s.patience = orderly
	return nil
}

// end takes down all that is there, also from who uses it.
func (s *session) end(ctx context.Context) error {
	for _, r := range slices.Backward(s.servers) {
		// It could mount what was just unmounted.
		if !r.isReady() {
			r.end(0)
		}
	}
	err := errors.Join(s.leave(ctx, s.dir), s.clear(ctx))
	for _, r := range slices.Backward(s.servers) {
		r.end(s.patience)
	}
	return err
}
