package lab_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

func TestSnapshotsShowWhatWasThere(t *testing.T) {
	l := lab.Start(t)
	for _, fsType := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fsType, func(t *testing.T) {
			ctx := t.Context()
			v, err := l.CreateVolume(ctx, lab.VolumeSpec{
				Namespace: "filesystems", Claim: fsType, FSType: fsType,
				Annotations: map[string]string{"example.com/kept": "yes"},
				Populate: func(root string) error {
					return os.WriteFile(filepath.Join(root, "file"), []byte("before"), 0o600)
				},
			})
			require.NoError(t, err)
			annotation, err := l.Run(ctx, "kubectl", "-n", "filesystems", "get", "pvc", fsType, "-o", `jsonpath={.metadata.annotations.example\.com/kept} {.spec.volumeName}`)
			require.NoError(t, err)
			require.Equal(t, "yes "+v.PV, annotation)

			// A snapshot of a mounted filesystem needs its journal.
			root, unmount, err := v.Mount(ctx)
			require.NoError(t, err)
			_, _, err = v.Mount(ctx)
			require.ErrorContains(t, err, "mounted already")
			require.NoError(t, os.WriteFile(filepath.Join(root, "later"), []byte("synced"), 0o600))
			require.NoError(t, exec.CommandContext(ctx, "sync", "-f", root).Run())
			_, err = l.Run(ctx, "rbd", "snap", "create", "--no-progress", v.Pool+"/"+v.Image+"@frozen")
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(root, "file"), []byte("after"), 0o600))

			names, err := v.Snapshots(ctx)
			require.NoError(t, err)
			require.Equal(t, []string{"frozen"}, names)
			frozen, closeClone, err := v.CloneSnapshot(ctx, "frozen")
			require.NoError(t, err)
			for name, content := range map[string]string{"file": "before", "later": "synced"} {
				got, err := os.ReadFile(filepath.Join(frozen, name))
				require.NoError(t, err)
				require.Equal(t, content, string(got))
			}
			require.Error(t, os.WriteFile(filepath.Join(frozen, "new"), nil, 0o600), "it is read-only")
			require.NoError(t, closeClone())
			require.NoError(t, unmount())
			require.NoError(t, v.Delete(ctx))
		})
	}
	images, err := l.Run(t.Context(), "rbd", "ls", lab.VolumePool)
	require.NoError(t, err)
	require.Empty(t, images)
	left, err := l.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestBlockVolume(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	content := bytes.Repeat([]byte("block"), 1000)
	v, err := l.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "blocks", Claim: "disk", Block: true, Size: 16 << 20,
		Populate: func(device string) error { return os.WriteFile(device, content, 0o600) },
	})
	require.NoError(t, err)
	_, err = l.Run(ctx, "rbd", "snap", "create", "--no-progress", v.Pool+"/"+v.Image+"@frozen")
	require.NoError(t, err)

	device, unmap, err := v.Map(ctx)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(device, []byte("other"), 0o600))
	require.NoError(t, unmap())

	file, closeClone, err := v.CloneSnapshotDevice(ctx, "frozen")
	require.NoError(t, err)
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Len(t, got, 16<<20)
	require.Equal(t, content, got[:len(content)])
	require.NoError(t, closeClone())
	require.NoError(t, v.Delete(ctx))
}

func TestLeftoversAreSeen(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	v, err := l.CreateVolume(ctx, lab.VolumeSpec{Namespace: "leftovers", Claim: "data", Size: 32 << 20})
	require.NoError(t, err)
	run := func(name string, args ...string) {
		t.Helper()
		_, err := l.Run(ctx, name, args...)
		require.NoError(t, err)
	}
	source := v.Pool + "/" + v.Image
	clone := lab.ScratchPool + "/ammonite-run-1"
	run("rbd", "snap", "create", "--no-progress", source+"@ammonite-run")
	run("rbd", "clone", source+"@ammonite-run", clone)
	run("rbd", "snap", "rm", "--no-progress", source+"@ammonite-run")
	run("rbd", "snap", "create", "--no-progress", source+"@ammonite-other")

	url, err := l.NewRepository(ctx, "leftovers")
	require.NoError(t, err)
	require.NotEmpty(t, url)
	lock := filepath.Join(l.Dir, "restic", "data", "leftovers", "locks", "stale")
	require.NoError(t, os.WriteFile(lock, nil, 0o600))
	mountpoint := filepath.Join(l.AgentDir("one"), "mount")
	require.NoError(t, os.MkdirAll(mountpoint, 0o755))
	run("mount", "-t", "tmpfs", "tmpfs", mountpoint)

	left, err := l.Leftovers(ctx)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"trashed snapshot " + source + "@ammonite-run",
		"snapshot " + source + "@ammonite-other",
		"image " + clone,
		"mount " + mountpoint,
		"restic lock " + lock,
	}, left)

	run("umount", mountpoint)
	require.NoError(t, os.Remove(lock))
	run("rbd", "rm", "--no-progress", clone)
	require.NoError(t, v.Delete(ctx))
	left, err = l.Leftovers(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
}
