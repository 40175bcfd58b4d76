package ceph

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/stretchr/testify/require"
)

// cephError is an error as go-ceph returns it: a negated error number.
type cephError int

func (e cephError) Error() string  { return fmt.Sprintf("rbd: ret=%d", int(e)) }
func (e cephError) ErrorCode() int { return int(e) }

func TestErrno(t *testing.T) {
	require.Equal(t, syscall.ENOENT, errno(rbd.ErrNotFound))
	require.Equal(t, syscall.ENOENT, errno(rados.ErrNotFound))
	require.Equal(t, syscall.EEXIST, errno(fmt.Errorf("wrapped: %w", rbd.ErrExist)))
	require.Equal(t, syscall.EPERM, errno(errors.Join(errors.New("other"), rados.ErrPermissionDenied)))
	require.Zero(t, errno(errors.New("other")))
	require.Zero(t, errno(nil))
}

func TestExplain(t *testing.T) {
	tests := map[string]struct {
		err   error
		class backup.Class
		says  string
	}{
		"missing image":     {rbd.ErrNotFound, backup.VolumeGone, "rbd trash ls"},
		"missing pool":      {rados.ErrNotFound, backup.VolumeGone, "was removed"},
		"busy":              {cephError(-int(syscall.EBUSY)), backup.NotReadyYet, "still in use"},
		"mirrored":          {cephError(-int(syscall.EROFS)), backup.VolumeUnsupported, "primary"},
		"no capability":     {rados.ErrPermissionDenied, "", "ceph auth caps"},
		"no access":         {cephError(-int(syscall.EACCES)), "", "ceph auth caps"},
		"timeout":           {cephError(-int(syscall.ETIMEDOUT)), "", "ceph status"},
		"full":              {cephError(-int(syscall.ENOSPC)), "", "ceph df"},
		"snapshot limit":    {cephError(-int(syscall.EDQUOT)), "", "snapshot limit"},
		"blocklisted":       {cephError(-int(syscall.ESHUTDOWN)), "", "connects anew"},
		"other":             {cephError(-int(syscall.EIO)), "", "ret=-5"},
		"classed passes":    {backup.Fail(backup.NotReadyYet, "held", "", rbd.ErrNotFound), backup.NotReadyYet, "held"},
		"not from Ceph":     {errors.New("boom"), "", "boom"},
		"the context ended": {fmt.Errorf("late: %w", errClosed), "", "closed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := explain("removing clone p/c", test.err)
			require.Equal(t, test.class, backup.ClassOf(err))
			require.ErrorContains(t, err, test.says)
			require.ErrorIs(t, err, test.err)
		})
	}
	require.NoError(t, explain("nothing", nil))
}

// A missing keyring is not found too, and must never pass for a volume that is
// gone.
func TestConnectingNeverMeansThatAVolumeIsGone(t *testing.T) {
	for _, cause := range []error{rados.ErrNotFound, rados.ErrPermissionDenied, cephError(-int(syscall.ETIMEDOUT))} {
		err := explainConnect(cause)
		require.Empty(t, backup.ClassOf(err))
		require.ErrorIs(t, err, cause)
		require.ErrorContains(t, err, "Check that")
	}
}

func TestShutOut(t *testing.T) {
	require.True(t, shutOut(explain("x", cephError(-int(syscall.ESHUTDOWN)))))
	require.True(t, shutOut(rados.ErrNotConnected))
	require.False(t, shutOut(rbd.ErrNotFound))
	require.False(t, shutOut(nil))
}

func TestUnreadableConfigurationFailsAtOnce(t *testing.T) {
	_, err := Connect(Config{Conf: "/does/not/exist.conf"})
	require.ErrorContains(t, err, "/does/not/exist.conf")
}
