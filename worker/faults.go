//go:build faults

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
)

// interceptors injects the faults that tests ask for. It exists only in builds
// with the tag faults.
//
// A test asks for a fault by a file in the directory $AMMONITE_FAULTS. Its name
// says where: before-ACTIVITY, during-ACTIVITY or after-ACTIVITY. Its content
// says what, and for during optionally how long after the step's start (kill
// 5ms); a step that is quicker than that meets the fault as it ends:
//
//	kill    this process gets SIGKILL
//	freeze  this process gets SIGSTOP
//	fail    the activity fails with a retryable error; after it, this is a call
//	        that succeeded and was reported as failed
//	hold    the activity waits until the test removes the fired file
//
// A fault fires once: the file is first renamed to the same name with .fired.
func interceptors() []interceptor.WorkerInterceptor {
	dir := os.Getenv("AMMONITE_FAULTS")
	if dir == "" {
		return nil
	}
	return []interceptor.WorkerInterceptor{&faults{dir: dir}}
}

type faults struct {
	interceptor.WorkerInterceptorBase
	dir string
}

func (f *faults) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &faultyActivity{ActivityInboundInterceptorBase: interceptor.ActivityInboundInterceptorBase{Next: next}, dir: f.dir}
}

type faultyActivity struct {
	interceptor.ActivityInboundInterceptorBase
	dir string
}

func (a *faultyActivity) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	name := activity.GetInfo(ctx).ActivityType.Name
	if err := a.fire(ctx, "before-"+name); err != nil {
		return nil, err
	}
	timer := time.AfterFunc(a.intoStep(name), func() { _ = a.fire(ctx, "during-"+name) })
	out, err := a.Next.ExecuteActivity(ctx, in)
	if timer.Stop() {
		if fault := a.fire(ctx, "during-"+name); fault != nil && err == nil {
			return nil, fault
		}
	}
	if fault := a.fire(ctx, "after-"+name); fault != nil && err == nil {
		return nil, fault
	}
	return out, err
}

// intoStep is how long after its start the step meets a fault during it.
func (a *faultyActivity) intoStep(name string) time.Duration {
	action, _ := os.ReadFile(filepath.Join(a.dir, "during-"+name))
	if fields := strings.Fields(string(action)); len(fields) == 2 {
		if delay, err := time.ParseDuration(fields[1]); err == nil {
			return delay
		}
	}
	return 100 * time.Millisecond
}

// fire injects the fault of that name if a test asked for one.
func (a *faultyActivity) fire(ctx context.Context, name string) error {
	asked := filepath.Join(a.dir, name)
	fired := asked + ".fired"
	if os.Rename(asked, fired) != nil {
		return nil
	}
	action, err := os.ReadFile(fired)
	if err != nil {
		return err
	}
	verb, _, _ := strings.Cut(strings.TrimSpace(string(action)), " ")
	switch verb {
	case "kill":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "freeze":
		return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "fail":
		return errors.New("a fault was injected " + name)
	case "hold":
		for ctx.Err() == nil {
			if _, err := os.Stat(fired); err != nil {
				return nil
			}
			activity.RecordHeartbeat(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}
