package backup_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestReadable(t *testing.T) {
	claim := backup.Claim{Namespace: "shop", Name: "data"}
	plain := backup.Volume{Claim: claim, Kind: backup.KindRBDFilesystem, FSType: "ext4"}
	got, err := plain.Readable()
	require.NoError(t, err)
	require.Equal(t, plain, got)

	for _, how := range []backup.Encryption{backup.LUKS, backup.FSCrypt} {
		t.Run(string(how), func(t *testing.T) {
			image := plain
			image.Encryption = how
			got, err := image.Readable()
			require.NoError(t, err)
			require.Equal(t, backup.KindRBDBlock, got.Kind, "ciphertext is never mounted")
			require.Empty(t, got.FSType)
			require.Len(t, got.Notes, 1)
			require.Contains(t, got.Notes[0], "ciphertext")
			require.Empty(t, image.Notes, "the volume that was asked about is unchanged")
		})
	}

	files := backup.Volume{Claim: claim, Kind: backup.KindCephFS, Encryption: backup.FSCrypt}
	_, err = files.Readable()
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
	require.ErrorContains(t, err, "shop/data")
}
