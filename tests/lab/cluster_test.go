package lab_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

func TestSecondCluster(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	second, err := l.StartSecondCeph(ctx)
	require.NoError(t, err)
	require.NotEqual(t, l.CephFSID, second.FSID)
	v, err := l.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "images", Claim: "second", Ceph: second, Block: true, Size: 16 << 20,
		Populate: func(device string) error { return os.WriteFile(device, []byte("there"), 0o600) },
	})
	require.NoError(t, err)
	cluster, err := l.Run(ctx, "kubectl", "get", "pv", v.PV, "-o", "jsonpath={.spec.csi.volumeAttributes.clusterID}")
	require.NoError(t, err)
	require.Equal(t, second.FSID, cluster)
	images, err := l.Run(ctx, "rbd", "ls", lab.VolumePool)
	require.NoError(t, err)
	require.NotContains(t, images, v.Image, "it is not in the first cluster")

	// A user is good for one cluster alone.
	_, err = second.Run(ctx, "rbd", "--id", second.ControlUser, "snap", "create", "--no-progress", v.Spec()+"@ammonite-1")
	require.NoError(t, err)
	_, err = second.Run(ctx, "rbd", "--id", "admin", "--keyring", l.Ceph().Keyring("admin"), "ls", lab.VolumePool)
	require.Error(t, err)
	left, err := l.Leftovers(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"snapshot " + v.Spec() + "@ammonite-1"}, left)

	// It has parts of its own.
	require.NoError(t, l.Kill(second.Part(lab.OSD)))
	require.NoError(t, l.Answers(ctx, lab.OSD))
	require.NoError(t, l.StartPart(ctx, second.Part(lab.OSD)))
	require.NoError(t, v.Delete(ctx))
}
