package lab_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

func TestManyVolumes(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	disk := filepath.Join(t.TempDir(), "disk")
	content := bytes.Repeat([]byte("disk"), 1<<20)
	require.NoError(t, os.WriteFile(disk, content, 0o600))
	files := filepath.Join(t.TempDir(), "files")
	require.NoError(t, l.MakeExt4(ctx, files, 16<<20, func(root string) error {
		return os.WriteFile(filepath.Join(root, "words"), []byte("of many"), 0o600)
	}))

	spec := lab.ManySpec{Namespaces: map[string]map[string]string{
		"many-a": {"example.com/kept": "yes"}, "many-b": nil, "many-none": nil,
	}}
	for i := range 6 {
		v := lab.VolumeSpec{
			Namespace: []string{"many-a", "many-b"}[i%2], Claim: fmt.Sprintf("data-%d", i), Import: files,
			Annotations: map[string]string{"example.com/number": fmt.Sprint(i)},
			Edit: func(pv, _ lab.Object) {
				pv.Set(fmt.Sprint(i), "metadata", "annotations", "example.com/of-volume")
			},
		}
		if i < 3 {
			v.Import, v.Block = disk, true
		}
		spec.Volumes = append(spec.Volumes, v)
	}
	volumes, err := l.CreateVolumes(ctx, spec)
	require.NoError(t, err)
	require.Len(t, volumes, 6)

	get := func(args ...string) string {
		t.Helper()
		out, err := l.Run(ctx, "kubectl", append([]string{"get"}, args...)...)
		require.NoError(t, err)
		return out
	}
	require.Equal(t, "yes", get("namespace", "many-a", "-o", `jsonpath={.metadata.annotations.example\.com/kept}`))
	for i, v := range volumes {
		require.Equal(t, fmt.Sprintf("Bound %d %s", i, v.PV),
			get("pvc", "-n", v.Namespace, v.Claim, "-o", `jsonpath={.status.phase} {.metadata.annotations.example\.com/number} {.spec.volumeName}`))
		require.Equal(t, fmt.Sprint(i), get("pv", v.PV, "-o", `jsonpath={.metadata.annotations.example\.com/of-volume}`))
	}
	require.EqualValues(t, len(content), volumes[0].Size)
	copied := filepath.Join(t.TempDir(), "copy")
	_, err = l.Run(ctx, "rbd", "export", "--no-progress", volumes[0].Spec(), copied)
	require.NoError(t, err)
	got, err := os.ReadFile(copied)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	root, unmount, err := volumes[3].Mount(ctx)
	require.NoError(t, err)
	words, err := os.ReadFile(filepath.Join(root, "words"))
	require.NoError(t, err)
	require.Equal(t, "of many", string(words))
	require.NoError(t, unmount())

	// Deleting bears with what is gone already, and with snapshots.
	_, err = l.Run(ctx, "rbd", "rm", "--no-progress", volumes[0].Spec())
	require.NoError(t, err)
	_, err = l.Run(ctx, "rbd", "snap", "create", "--no-progress", volumes[1].Spec()+"@kept")
	require.NoError(t, err)
	require.NoError(t, l.DeleteVolumes(ctx, volumes))
	images, err := l.Run(ctx, "rbd", "ls", lab.VolumePool)
	require.NoError(t, err)
	for _, v := range volumes {
		require.NotContains(t, images, v.Image)
		require.NotContains(t, get("pv", "-o", "name"), v.PV)
	}
	require.Empty(t, strings.TrimSpace(get("pvc", "-n", "many-a", "-o", "name")))
}

func TestManyVolumesAreCopies(t *testing.T) {
	_, err := lab.Start(t).CreateVolumes(t.Context(), lab.ManySpec{Volumes: []lab.VolumeSpec{{Namespace: "many", Claim: "data"}}})
	require.ErrorContains(t, err, "many/data")
}
