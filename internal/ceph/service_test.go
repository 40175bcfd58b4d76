package ceph

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestErrorsKeepClassAndTextBetweenProcesses(t *testing.T) {
	for _, err := range []error{
		nil,
		errors.New("a passing fault"),
		backup.Fail(backup.VolumeGone, "it is gone", "Make it again.", errors.New("ENOENT")),
		backup.Fail(backup.NotReadyYet, "it is held", "", nil),
	} {
		got := failed(err).error()
		require.Equal(t, backup.ClassOf(err), backup.ClassOf(got))
		if err == nil {
			require.NoError(t, got)
		} else {
			require.EqualError(t, got, err.Error())
		}
	}
}
