package workflows

import (
	"cmp"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// asFailure gives a run's error the form in which people meet it: one message
// and a class, without the layers that Temporal puts around an activity's
// error, and with what the run has to tell as details. A cancellation stays one.
func asFailure(err error, details any) error {
	if err == nil || temporal.IsCanceledError(err) {
		return err
	}
	return temporal.NewApplicationErrorWithOptions(reason(err), string(classOf(err)), temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{details}})
}

// classOf is the class of an activity's failure, or of one that the workflow itself
// found.
func classOf(err error) backup.Class {
	return cmp.Or(activities.ClassOf(err), backup.ClassOf(err))
}

// reason is the message of an error's cause.
func reason(err error) string {
	var failure *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	var text string
	if errors.As(err, &failure) {
		text = failure.Message()
	}
	if !errors.As(err, &timeout) {
		if text == "" {
			text = err.Error()
		}
		return text
	}
	how := timedOut[timeout.TimeoutType()]
	var step *temporal.ActivityError
	if errors.As(err, &step) && step.ActivityType() != nil {
		how = fmt.Sprintf("%s: %s", step.ActivityType().GetName(), how)
	}
	if text == "" {
		return how
	}
	return how + "; the last error was: " + text
}

// timedOut says what each of Temporal's timeouts means here.
var timedOut = map[enumspb.TimeoutType]string{
	enumspb.TIMEOUT_TYPE_HEARTBEAT:         "the worker fell silent",
	enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START: "no worker took the step up; is the agent on that node running?",
	enumspb.TIMEOUT_TYPE_START_TO_CLOSE:    "the step did not end in time",
	enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "the step did not succeed in time",
}
