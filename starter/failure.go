package main

import (
	"context"
	"errors"
	"fmt"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Exit codes are for scripts and never change their meaning.
const (
	exitSuccess        = 0
	exitFailed         = 1
	exitUsage          = 2
	exitPartial        = 3
	exitNotFound       = 4
	exitAlreadyRunning = 5
	exitUnreachable    = 6
	exitUnprotected    = 7
	exitDiffers        = 8
	exitCancelled      = 130
)

const exitCodesHelp = `Exit codes:
  0    success
  1    failed
  2    wrong usage
  3    partial: the backup is stored, or the restore done, but misses files
  4    not found: the claim, its volume, its image, the backup or the schedule does
       not exist
  5    the claim is being backed up or restored to already, or the schedule's last
       run goes on
  6    Temporal, Kubernetes or the repository cannot be reached or opened
  7    only of "status --unprotected": volumes that are to be backed up are not
       protected
  8    only of "schedules apply --dry-run": there is something to change
  130  cancelled, or interrupted while following`

// exitError is an error of a running command with the exit code that it ends
// the process with. An error without one is wrong usage, which cobra reports.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// exit gives an error its exit code.
func exit(code int, err error) error { return &exitError{code: code, err: err} }

func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitSuccess
	case errors.As(err, &e):
		return e.code
	default:
		return exitUsage
	}
}

// classed gives an error of a run or of a service its exit code.
func classed(err error) error {
	var (
		already     *exitError
		failure     *temporal.ApplicationError
		cancelled   *temporal.CanceledError
		namespace   *serviceerror.NamespaceNotFound
		unavailable *serviceerror.Unavailable
		deadline    *serviceerror.DeadlineExceeded
		denied      *serviceerror.PermissionDenied
	)
	class := backup.ClassOf(err)
	if class == "" && errors.As(err, &failure) {
		class = backup.Class(failure.Type())
	}
	switch {
	case err == nil || errors.As(err, &already):
		return err
	case errors.As(err, &cancelled), errors.Is(err, context.Canceled):
		return exit(exitCancelled, err)
	case errors.As(err, &namespace), errors.As(err, &unavailable), errors.As(err, &deadline), errors.As(err, &denied),
		errors.Is(err, context.DeadlineExceeded):
		return exit(exitUnreachable, err)
	}
	code, known := map[backup.Class]int{
		backup.InvalidInput:      exitUsage,
		backup.BackupPartial:     exitPartial,
		backup.RestorePartial:    exitPartial,
		backup.VolumeGone:        exitNotFound,
		backup.BackupMissing:     exitNotFound,
		backup.RepositoryMissing: exitUnreachable,
		backup.RepositoryAuth:    exitUnreachable,
	}[class]
	if !known {
		code = exitFailed
	}
	return exit(code, err)
}

// message is what a person reads of an error: the cause's own words, without
// the layers that Temporal puts around them.
func message(err error) string {
	var (
		failure    *temporal.ApplicationError
		cancelled  *temporal.CanceledError
		terminated *temporal.TerminatedError
		timeout    *temporal.TimeoutError
		namespace  *serviceerror.NamespaceNotFound
		denied     *serviceerror.PermissionDenied
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &failure):
		if failure.Type() == "" {
			return failure.Message()
		}
		return failure.Type() + ": " + failure.Message()
	case errors.As(err, &cancelled):
		return "the run was cancelled"
	case errors.As(err, &terminated):
		return "the run was terminated, so it could not clean up. What a node holds for it is removed by that node; what a run leaves that had no node yet is removed by the next look for leftovers, or by `ammonite reconcile`. Cancel a run instead to let it clean up by itself"
	case errors.As(err, &timeout):
		return fmt.Sprintf("the run ended by a timeout (%s)", timeout.TimeoutType())
	case errors.As(err, &namespace):
		return fmt.Sprintf("Temporal has no namespace %q. Set TEMPORAL_NAMESPACE to the one that Ammonite's workers use", namespace.Namespace)
	case errors.As(err, &denied):
		return "Temporal refuses access: " + denied.Message + ". Check TEMPORAL_API_KEY or the TLS certificate"
	}
	return err.Error()
}

// class is the class of an error of a run, for JSON output.
func class(err error) string {
	var failure *temporal.ApplicationError
	if errors.As(err, &failure) {
		return failure.Type()
	}
	return string(backup.ClassOf(err))
}
